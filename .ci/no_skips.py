"""A pytest plugin for CI: a test that was skipped fails the run."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("")
        reporter.write_line("Nothing may skip here.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
