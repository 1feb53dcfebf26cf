"""Forwarders that join the ports of two hosts (hosts.py): programs, each in a
process of its own, and the kernel."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, TypeAlias

from ..lab import native, peers
from ..lab.contender import GroundTruthError, UnavailableError
from .hosts import PATIENCE, run, wait_until_listening

# A line of the summary of `rawmmsg bridge`: three of them for each direction.
_SUMMARY: Final = re.compile(
    r"^ +([\d,]+) frames (received|sent|dropped)(?:,.*|:.*)?$", re.MULTILINE
)

# Joins two interfaces while the context lasts. At its end it checks that every
# frame received was sent, or counted as dropped.
Join: TypeAlias = Callable[[str, str], AbstractContextManager[None]]


def worker(kind: str) -> Join:
    """A forwarder of worker.py."""
    # Compiled here, where an error is noticed, and not in each process.
    native.library(f"forward/{'pcap' if kind == 'libpcap' else 'calls'}.c")
    command = [sys.executable, "-P", "-m", f"{__package__}.worker", kind]

    def finish(process: subprocess.Popen[str]) -> Sequence[int]:
        out, err = _communicate(process)
        if process.returncode != 0:
            raise GroundTruthError(f"{kind} has failed: {err}")
        counts: list[int] = json.loads(out)
        return counts

    return _program(command, finish)


def rawmmsg_bridge() -> Join:
    """The command `rawmmsg bridge`."""

    def finish(process: subprocess.Popen[str]) -> Sequence[int]:
        process.terminate()
        _, summary = _communicate(process)
        found = _SUMMARY.findall(summary)
        if process.returncode != 0 or len(found) != 6:
            raise GroundTruthError(f"rawmmsg bridge has failed: {summary}")
        return [int(number.replace(",", "")) for number, _ in found]

    return _program([sys.executable, "-P", "-m", "rawmmsg", "bridge"], finish)


def _communicate(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ends a program; what it printed."""
    with process:
        try:
            return process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise GroundTruthError(f"{process.args!r} does not end") from None


def _program(
    command: Sequence[str],
    finish: Callable[[subprocess.Popen[str]], Sequence[int]],
) -> Join:
    """A Python program that takes the names of two interfaces; `finish` ends
    it and returns its counts."""

    @contextlib.contextmanager
    def join(a: str, b: str) -> Iterator[None]:
        # It finds the same packages as this process. A preloaded sanitizer
        # stays, because a build of the package may need it.
        path = os.pathsep.join(sys.path)
        more = {"PYTHONPATH": path, native.FOLDER: str(native.folder())}
        process = native.start([*command, a, b], os.environ | more)
        try:
            wait_until_listening((a, b), process)
            yield
        except BaseException:
            process.kill()
            process.communicate()
            raise
        check_counts(finish(process))

    return join


def check_counts(counts: Sequence[int]) -> None:
    """Checks that frames went in both directions, and that each is accounted
    for. `counts` are those of port a, then of port b: frames received, sent on
    and dropped."""
    for port, numbers in (("a", counts[:3]), ("b", counts[3:])):
        received, sent, dropped = numbers
        if received != sent + dropped or sent == 0:
            raise GroundTruthError(
                f"port {port}: {received} frames received, {sent} sent on,"
                f" {dropped} dropped"
            )


def kernel_bridge() -> Join:
    """The kernel's bridge, which has no process."""
    ip = peers.program("ip")
    name = f"bridge{os.getpid()}"
    add = [ip, "link", "add", "name", name, "type", "bridge"]
    # It would send reports of its own.
    add += ["mcast_snooping", "0"]
    try:
        run(add)
    except RuntimeError as error:
        raise UnavailableError(
            "the kernel's bridge", "modprobe bridge"
        ) from error
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
