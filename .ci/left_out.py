"""A plugin for pytest: leaves tests out by name, and says which and why.

    pytest -p left_out --left-out FILE

A line of FILE begins with "#", which gives a reason, or names tests that are
left out for the last reason: a file, a test, a test with parameters, or all
tests with a fixture ("fixture:NAME"). "*" stands for any text.
"""

import re
from collections import Counter
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--left-out",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="leave out the tests that FILE names",
    )


def pytest_configure(config: pytest.Config) -> None:
    files = config.getoption("--left-out")
    config.pluginmanager.register(LeftOut(files))


class LeftOut:
    """The tests that are left out of this run."""

    def __init__(self, files: list[Path]) -> None:
        text = "\n".join(file.read_text() for file in files)
        self._lines = list(filter(None, text.splitlines()))
        self._patterns = {
            line: re.compile(re.escape(line).replace(r"\*", ".*"))
            for line in self._lines
            if not line.startswith("#")
        }
        self._counts: Counter[str] = Counter()

    def _find(self, item: pytest.Item) -> str | None:
        """Returns the first line that names the test."""
        test = item.nodeid.partition("[")[0]
        fixtures = getattr(item, "fixturenames", ())
        names = [f"fixture:{name}" for name in fixtures]
        names += [item.nodeid, test, test.partition("::")[0]]
        for line, pattern in self._patterns.items():
            if any(map(pattern.fullmatch, names)):
                return line
        return None

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        kept, left_out = [], []
        for item in items:
            line = self._find(item)
            if line is None:
                kept.append(item)
            else:
                left_out.append(item)
                self._counts[line] += 1
        items[:] = kept
        config.hook.pytest_deselected(items=left_out)

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        terminalreporter.section("left out")
        for line in self._lines:
            if line.startswith("#"):
                terminalreporter.line(line.removeprefix("# "))
            elif self._counts[line]:
                terminalreporter.line(f"{self._counts[line]:6} {line}")
