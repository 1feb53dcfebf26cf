"""The pytest plugin: the run in a private namespace, and veth fixtures.

pytest imports this module because `rawmmsg.testing` names it in its
`pytest_plugins`. Nothing else imports it, so that `import rawmmsg.testing`
does not need pytest.
PYTEST_DONT_REWRITE
"""

import errno
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from .namespace import (
    enter_namespace,
    exec_in_namespace,
    has_restarted,
    move_this_thread,
    namespace_number,
)
from .veth import Veth, veth_pair

# Why there is no private namespace. Set once, before the first test.
_refusal: OSError | None = None


# Fixtures


@pytest.fixture
def veth(veth_factory: Callable[..., Veth]) -> Veth:
    """A veth pair with both ends up; deleted at the end of the test."""
    return veth_factory()


@pytest.fixture
def veth_factory(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Veth]]:
    """Like veth_pair(); the pairs are deleted at the end of the test."""
    pairs: list[Veth] = []

    def make(*names: str, **options: Any) -> Veth:
        try:
            pair = veth_pair(*names, **options)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
                raise
            _skip_or_fail(request.config, error)
        pairs.append(pair)
        return pair

    yield make
    for pair in pairs:
        pair.delete()


# Hooks


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "rawmmsg_require_namespace",
        "fail, instead of skipping, the tests that need a private network"
        " namespace if none can be made (default: true if CI is set)",
        type="bool",
        default=os.environ.get("CI", "").lower() not in ("", "0", "false"),
    )


def pytest_configure(config: pytest.Config) -> None:
    global _refusal
    config.addinivalue_line(
        "markers",
        "no_network: uses no network, so the test runs even if no private"
        " network namespace can be made (rawmmsg.testing)",
    )
    try:
        _enter(config)
    except OSError as error:
        _refusal = error


def pytest_report_header() -> str:
    if _refusal is not None:
        return f"rawmmsg: {_refusal.strerror}"
    return f"rawmmsg: private network namespace {namespace_number()}"


def pytest_terminal_summary(
    terminalreporter: "pytest.TerminalReporter",
) -> None:
    """Says why tests were skipped: with -q there is no header."""
    skipped = [
        report.longrepr
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    ]
    reasons = Counter(
        reason.removeprefix("Skipped: ")
        for path, _, reason in skipped
        if path == __file__
    )
    for reason, count in reasons.items():
        terminalreporter.write_line(f"rawmmsg: {count} skipped: {reason}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _refusal is not None and item.get_closest_marker("no_network") is None:
        _skip_or_fail(item.config, _refusal)


def _enter(config: pytest.Config) -> None:
    if has_restarted():
        # Or this run was started inside another one, by pytest.main().
        exec_in_namespace()
        return
    threads = len(os.listdir("/proc/self/task"))
    if hasattr(config, "workerinput") and threads > 1:
        # A worker of pytest-xdist cannot be restarted: a thread of execnet
        # has already read from its channel. The controller moved before it
        # started the worker, so the worker has the right to move its main
        # thread, which runs the tests, to another namespace.
        if threading.current_thread() is threading.main_thread():
            move_this_thread()
        return
    # When it is imported, Scapy reads interfaces and routes, and never again.
    # If a conftest has imported it, it knows those of the host.
    if threads == 1 and "scapy.config" not in sys.modules:
        enter_namespace()
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        # Restores descriptors 0, 1 and 2, which the new program inherits.
        capture.suspend_global_capture(in_=True)
    # The arguments may name files relative to where pytest was started.
    os.chdir(config.invocation_params.dir)
    exec_in_namespace()


def _skip_or_fail(config: pytest.Config, error: OSError) -> NoReturn:
    """Skips the test, or fails it if nothing may be skipped."""
    message = error.strerror or str(error)
    if config.getini("rawmmsg_require_namespace"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
