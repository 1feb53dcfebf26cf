"""A test whose tool is not installed is skipped, with the command that
installs it."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.child import environment

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "test",
    [
        "core/test_system_calls.py::test_constructor_binds_last",
        "bench/test_with_scapy.py::test_system_calls_are_counted",
    ],
)
def test_skip_names_the_command_that_installs_the_tool(
    tmp_path: Path, test: str
) -> None:
    """The first test looks for strace itself; in the second, bench/ does."""
    inherited = environment()
    for name in ("CI", "PYTEST_ADDOPTS"):  # with which a skip can be a failure
        inherited.pop(name, None)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *("-p", "no:hypothesispytest"),
            str(TESTS / test),
        ],
        cwd=TESTS.parent,
        env=inherited | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 skipped" in done.stdout
    assert "apt-get install strace" in done.stdout
