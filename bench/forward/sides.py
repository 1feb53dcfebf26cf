"""Forwarders that join the ports of two hosts (hosts.py): C and Python in a
thread, the command `rawmmsg bridge`, and the kernel."""

import contextlib
import ctypes
import itertools
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket

from ..lab import native, peers
from ..lab.contender import GroundTruthError, UnavailableError
from ..lab.link import AUXDATA, SHORTEST, Frames
from ..lab.native import FORWARD, LARGE, VNET_HDR, Side
from .hosts import PATIENCE, run, show, wait_until, wait_until_listening

# The batches of `rawmmsg bridge`.
SUPER_CAPACITY: Final = 8
SMALL_CAPACITY: Final = 64

PLAIN_FRAME: Final = 2048

# A line of the summary of `rawmmsg bridge`: three of them for each direction,
# and one more if super-frames were cut.
_SUMMARY: Final = re.compile(
    r"^ +([\d,]+) (?:more )?frames (received|by segmentation|sent|dropped)"
    r"(?:,.*|:.*)?$",
    re.MULTILINE,
)

_numbers: Final = itertools.count()  # of the kernel's bridges

Ports: TypeAlias = tuple[str, str]

# Joins two interfaces while the context lasts. At its end it checks that every
# frame received was sent, or counted as dropped.
Join: TypeAlias = Callable[[str, str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Forwarder:
    """Forwards between two ports in this process.

    `run(frames, stop)` moves so many frames; with 0, whatever arrives until
    `stop`, a pipe, is closed at its other end. `counts()` are for each port
    the frames received, sent on and dropped.
    """

    run: Callable[[int, int], object]
    counts: Callable[[], Sequence[int]]


Start: TypeAlias = Callable[[ExitStack, Ports], Forwarder]


def open_ports(
    stack: ExitStack, ports: Ports, options: int
) -> Sequence[RawSocket]:
    """Sockets that forward whatever arrives at the ports, with AUXDATA and
    VNET_HDR as asked."""
    sockets = [
        stack.enter_context(
            RawSocket(
                name,
                promisc=True,
                ignore_outgoing=True,
                vlan=bool(options & AUXDATA),
                vnet_hdr=bool(options & VNET_HDR),
            )
        )
        for name in ports
    ]
    for sock in sockets:
        sock.setblocking(False)
    return sockets


def in_c(
    options: int,
    capacity: int,
    open_sockets: Callable[
        [ExitStack, Ports, int], Sequence[RawSocket]
    ] = open_ports,
) -> Start:
    """C with a batch of so many frames."""

    def start(stack: ExitStack, ports: Ports) -> Forwarder:
        tx, rx = (one.fileno() for one in open_sockets(stack, ports, options))
        frames = Frames(capacity, SHORTEST, room=_room(options))
        setup = ("forward/calls.c", ("", ""), frames)
        side = Side(stack, *setup, tx=tx, rx=rx, options=options | FORWARD)
        return _of_side(side)

    return start


def _room(options: int) -> int:
    return SUPER_FRAME if options & VNET_HDR else PLAIN_FRAME


def with_libpcap(stack: ExitStack, ports: Ports) -> Forwarder:
    """libpcap, which opens the ports itself."""
    frames = Frames(SMALL_CAPACITY, SHORTEST)
    setup = ("forward/pcap.c", ports, frames)
    return _of_side(Side(stack, *setup, options=FORWARD | LARGE))


def _of_side(side: Side) -> Forwarder:
    def counts() -> Sequence[int]:
        found = (ctypes.c_uint64 * 6)()
        side.call("get_counts", found)
        return found[:]

    return Forwarder(partial(side.call, "run"), counts)


def in_python(options: int, capacity: int) -> Start:
    """The least that a forwarder in Python can do: the library's calls in a
    loop."""

    def start(stack: ExitStack, ports: Ports) -> Forwarder:
        a, b = open_ports(stack, ports, options)
        batch = PacketBatch(capacity, _room(options))
        ready = select.poll()
        directions = {
            a.fileno(): (a.recvmmsg_into, b.sendmmsg_all),
            b.fileno(): (b.recvmmsg_into, a.sendmmsg_all),
        }
        for descriptor in directions:
            ready.register(descriptor, select.POLLIN)

        def run(frames: int, stop: int) -> None:
            if stop >= 0:
                ready.register(stop, select.POLLIN)
            moved = 0
            while not frames or moved < frames:
                for descriptor in wait(ready, PATIENCE if frames else None):
                    if descriptor == stop:
                        return
                    receive, send = directions[descriptor]
                    moved += receive(batch)
                    send(batch)

        def counts() -> Sequence[int]:
            one, other = a.statistics(), b.statistics()
            return [
                *(one.packets_received, other.packets_sent, 0),
                *(other.packets_received, one.packets_sent, 0),
            ]

        return Forwarder(run, counts)

    return start


def wait(ready: select.poll, seconds: float | None) -> list[int]:
    """The descriptors that are ready."""
    events = ready.poll(None if seconds is None else seconds * 1000)
    if not events:
        raise GroundTruthError("no frame arrived at the forwarder")
    return [descriptor for descriptor, _ in events]


def in_a_thread(start: Start) -> Join:
    """Lets a forwarder run while the context lasts."""

    @contextlib.contextmanager
    def join(a: str, b: str) -> Iterator[None]:
        with ExitStack() as stack:
            forwarder = start(stack, (a, b))
            pool = stack.enter_context(ThreadPoolExecutor(1))
            reader, writer = os.pipe()
            stack.callback(os.close, reader)
            try:
                done = pool.submit(forwarder.run, 0, reader)
                yield
            finally:
                os.close(writer)
            done.result(PATIENCE)
            check_counts(forwarder.counts())

    return join


@contextlib.contextmanager
def rawmmsg_bridge(
    a: str, b: str, *options: str, both_ways: bool = True
) -> Iterator[int]:
    """The command `rawmmsg bridge` between two ports, of which at least the
    second is an interface; gives the id of its process. `both_ways`: whether
    frames go in both directions."""
    command = [sys.executable, "-P", "-m", "rawmmsg", "bridge", a, b]
    command += options
    # It finds the same packages as this process. A preloaded sanitizer stays,
    # because a build of the package may need it.
    more = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with native.start(command, os.environ | more) as process:
        try:
            ports = [port for port in (a, b) if ":" not in port]
            wait_until_listening(ports, process)
            yield process.pid
            process.terminate()
            _, summary = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise GroundTruthError("rawmmsg bridge does not end") from None
        finally:
            process.kill()
    counts: list[int] = []
    for number, what in _SUMMARY.findall(summary):
        if what == "by segmentation":
            counts[-1] += int(number.replace(",", ""))
        else:
            counts.append(int(number.replace(",", "")))
    if process.returncode != 0 or len(counts) != 6:
        raise GroundTruthError(f"rawmmsg bridge has failed: {summary}")
    check_counts(counts, both_ways)


def check_counts(counts: Sequence[int], both_ways: bool = True) -> None:
    """Checks that each frame is accounted for, and that frames went in both
    directions if they should. `counts` are those of port a, then of port b:
    frames received, sent on and dropped."""
    for port, numbers in (("a", counts[:3]), ("b", counts[3:])):
        received, sent, dropped = numbers
        if received != sent + dropped or (both_ways and sent == 0):
            raise GroundTruthError(
                f"port {port}: {received} frames received, {sent} sent on,"
                f" {dropped} dropped"
            )


@contextlib.contextmanager
def kernel_bridge(a: str, b: str) -> Iterator[None]:
    """The kernel's bridge, which needs no process."""
    ip = peers.program("ip")
    name = f"bridge{next(_numbers)}n{os.getpid()}"
    add = [ip, "link", "add", "name", name, "type", "bridge"]
    try:
        # With snooping it would send reports of its own.
        run([*add, "mcast_snooping", "0"])
    except RuntimeError as error:
        raise UnavailableError(
            "the kernel's bridge", "modprobe bridge"
        ) from error
    try:
        run([ip, "link", "set", name, "addrgenmode", "none"])
        for port in (a, b):
            run([ip, "link", "set", port, "master", name])
        run([ip, "link", "set", name, "up"])
        wait_until(
            lambda: all(
                show(port)["linkinfo"]["info_slave_data"]["state"]
                == "forwarding"
                for port in (a, b)
            ),
            "the kernel's bridge does not forward",
        )
        yield
    finally:
        run([ip, "link", "delete", name])
