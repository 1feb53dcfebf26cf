"""A test whose tool is not installed is skipped, and names the remedy."""

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
        "bench/test_bench_scapy.py::test_system_calls_are_counted",
    ],
)
def test_skips_with_the_command_that_installs_it(
    tmp_path: Path, test: str
) -> None:
    """The first test looks for strace itself, the second has bench/ do it."""
    inherited = environment()
    for name in ("CI", "PYTEST_ADDOPTS"):  # where a skip may be a failure
        inherited.pop(name, None)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
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
