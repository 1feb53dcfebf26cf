"""Child processes: programs that the tests run, and Python code run in an
interpreter of its own."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import rawmmsg

# The Debian packages of the programs that tests run.
_PACKAGES: Final = {
    "gcc": "gcc",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "readelf": "binutils",
    "strace": "strace",
    "tc": "iproute2",
}


def missing(what: str, package: str) -> FileNotFoundError:
    """The error of a test that needs `what`; conftest.py skips the test."""
    return FileNotFoundError(
        errno.ENOENT, f"the test needs {what}: apt-get install {package}"
    )


def tool(name: str) -> str:
    """The path of a program; raises missing() if it is not installed."""
    # Plain users often have no sbin in their PATH.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise missing(name, _PACKAGES[name])
    return found


def environment() -> dict[str, str]:
    """For child processes: ours, able to import the package under test and
    what the tests share."""
    paths = [
        str(Path(rawmmsg.__file__).parents[1]),
        str(Path(__file__).parents[1]),
    ]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def run_python(code: str, *prefix: str) -> str:
    """Runs Python code in a child, behind the command `prefix`; returns what
    it prints."""
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
