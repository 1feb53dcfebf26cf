"""What joins the ports of two hosts (hosts.py): programs, each in a process of
its own, and the kernel."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, TypeAlias

from rawmmsg import SUPER_FRAME

from ..framework import GroundTruthError, Unavailable
from ..network.hosts import run, wait_until_listening
from ..tools import native, peers
from . import bare_bridge

PATIENCE: Final = 30.0  # seconds, for what takes a part of one

PLAIN_FRAME: Final = 2048

# Of the summary of `rawmmsg bridge`: three such lines for each direction.
_SUMMARY: Final = re.compile(
    r"^ +([\d,]+) frames (received|sent|dropped)(?:,.*|:.*)?$", re.MULTILINE
)

# Joins two interfaces as long as the context lasts, and asserts at its end
# that every frame received was sent, or counted as dropped.
Join: TypeAlias = Callable[[str, str], AbstractContextManager[None]]


def in_c(*, vnet_hdr: bool, auxdata: bool) -> Join:
    """forward.c, with the batch of `rawmmsg bridge`."""
    path = native.program("forward.c")
    size = SUPER_FRAME if vnet_hdr else PLAIN_FRAME
    options = map(
        str, (bare_bridge.CAPACITY, size, int(vnet_hdr), int(auxdata))
    )
    return _Program([path], options)


def with_libpcap() -> Join:
    """pcap_forward.c."""
    return _Program([native.program("pcap_forward.c", "pcap")])


def bare() -> Join:
    """bare_bridge.py."""
    # -P: the folder of the script has modules of its own.
    return _PythonProgram([sys.executable, "-P", bare_bridge.__file__])


def rawmmsg_bridge() -> Join:
    """The command `rawmmsg bridge`."""
    return _RawmmsgBridge([sys.executable, "-P", "-m", "rawmmsg", "bridge"])


class _Program:
    """A program that takes the names of two interfaces, and `options` after
    them. It ends when its standard input does and then prints what it has
    counted."""

    def __init__(
        self, command: Sequence[str | Path], options: Iterable[str] = ()
    ) -> None:
        self.command = list(command)
        self.options = list(options)

    @contextlib.contextmanager
    def __call__(self, a: str, b: str) -> Iterator[None]:
        process = self.start([*self.command, a, b, *self.options])
        try:
            wait_until_listening((a, b), process)
            yield
        except BaseException:
            process.kill()
            process.communicate()
            raise
        check_counts(self.finish(process))

    def start(self, argv: Sequence[str | Path]) -> subprocess.Popen[str]:
        return native.start(argv)

    def finish(self, process: subprocess.Popen[str]) -> Mapping[str, float]:
        """Ends it; what it has counted."""
        return native.finish(process, PATIENCE)


class _PythonProgram(_Program):
    def start(self, argv: Sequence[str | Path]) -> subprocess.Popen[str]:
        """It finds the same packages as this program. (A sanitizer that is
        preloaded stays: a build of the package may need it.)"""
        path = os.pathsep.join(sys.path)
        return native.start(argv, os.environ | {"PYTHONPATH": path})


class _RawmmsgBridge(_PythonProgram):
    def finish(self, process: subprocess.Popen[str]) -> Mapping[str, float]:
        """Reads its summary, which is for people."""
        process.terminate()
        with process:
            try:
                _, words = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise GroundTruthError("rawmmsg bridge does not end") from None
        found = _SUMMARY.findall(words)
        if process.returncode != 0 or len(found) != 6:
            raise GroundTruthError(f"rawmmsg bridge has failed: {words}")
        ports = ["a"] * 3 + ["b"] * 3
        return {
            f"{port} {what}": int(number.replace(",", ""))
            for port, (number, what) in zip(ports, found, strict=True)
        }


def check_counts(counts: Mapping[str, float]) -> None:
    """Asserts that frames went both ways, and where each of them is."""
    for port in ("a", "b"):
        received = counts[f"{port} received"]
        sent, dropped = counts[f"{port} sent"], counts[f"{port} dropped"]
        if received != sent + dropped or sent == 0:
            raise GroundTruthError(
                f"port {port}: {received:.0f} frames received,"
                f" {sent:.0f} sent on, {dropped:.0f} dropped"
            )


def kernel_bridge() -> Join:
    """The kernel's own, which has no process."""
    ip = peers.program("ip")
    name = f"bridge{os.getpid()}"
    add = [ip, "link", "add", "name", name, "type", "bridge"]
    # It would send reports of its own.
    add += ["mcast_snooping", "0"]
    try:
        run(add)
    except RuntimeError as error:
        raise Unavailable("the kernel's bridge", "modprobe bridge") from error
    run([ip, "link", "delete", name])

    @contextlib.contextmanager
    def join(a: str, b: str) -> Iterator[None]:
        run(add)
        try:
            run([ip, "link", "set", name, "addrgenmode", "none"])
            for port in (a, b):
                run([ip, "link", "set", port, "master", name])
            run([ip, "link", "set", name, "up"])
            for port in (a, b):
                _wait_until_forwarding(port)
            yield
        finally:
            run([ip, "link", "delete", name])

    return join


def _wait_until_forwarding(port: str) -> None:
    command = [peers.program("ip"), "-json", "-details", "link", "show", port]
    deadline = time.monotonic() + PATIENCE
    while True:
        (link,) = json.loads(run(command))
        if link["linkinfo"]["info_slave_data"]["state"] == "forwarding":
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"the kernel's bridge does not forward: {link}")
        time.sleep(0.002)
