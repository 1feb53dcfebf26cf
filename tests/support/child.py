"""Child processes: programs, Python code in a new interpreter, and functions
in a forked child."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import rawmmsg

# The Debian packages of the programs that tests run.
PACKAGES: Final = {
    "gcc": "gcc",
    "bridge": "iproute2",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "ovs-vsctl": "openvswitch-switch",
    "ovs-vswitchd": "openvswitch-switch",
    "ovsdb-server": "openvswitch-switch",
    "ovsdb-tool": "openvswitch-switch",
    "readelf": "binutils",
    "setcap": "libcap2-bin",
    "strace": "strace",
    "tc": "iproute2",
}

# Put before a command, it drops all capabilities.
WITHOUT_CAPABILITIES: Final = (
    "setpriv",
    "--inh-caps=-all",
    "--bounding-set=-all",
)


def missing(what: str, package: str) -> FileNotFoundError:
    """The error of a test that needs something that is not installed;
    conftest.py then skips the test."""
    return FileNotFoundError(
        errno.ENOENT, f"the test needs {what}: apt-get install {package}"
    )


def tool(name: str) -> str:
    """The path of a program. Raises missing() if it is not installed."""
    # Plain users often have no sbin in their PATH.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise missing(name, PACKAGES[name])
    return found


def environment() -> dict[str, str]:
    """Environment variables for a child that can import the tested package and
    the tests' helpers."""
    paths = [
        str(Path(rawmmsg.__file__).parents[1]),
        str(Path(__file__).parents[1]),
    ]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def run_python(code: str, *prefix: str) -> str:
    """Runs Python code in a child, started by the command `prefix` if there is
    one. Returns what the code prints."""
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fork() -> int:
    with warnings.catch_warnings():
        # From 3.12, Python warns about a fork in a process with threads. The
        # children here take no locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class Child:
    """Runs a function in a forked child."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._reader, writer = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            end_child(function, writer)
        os.close(writer)

    def join(self) -> None:
        """Waits for the end of the child and raises what failed there."""
        with open(self._reader, encoding="utf-8") as pipe:
            report = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        assert not report, f"in the child:\n{report}"
        assert status == 0, f"the child ended with status {status}"


def end_child(function: Callable[[], Any], writer: int) -> None:
    """Runs the function, writes the traceback of an exception to `writer`, and
    ends the process."""
    try:
        function()
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(0)


def in_child(function: Callable[[], Any]) -> None:
    Child(function).join()
