"""Forwarders that join the ports of two hosts (hosts.py): C and Python in a
thread, the command `rawmmsg bridge`, and the kernel."""

import contextlib
import ctypes
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Final, TypeAlias

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket

from ..lab import native, peers
from ..lab.contender import GroundTruthError, UnavailableError
from ..lab.link import AUXDATA, SHORTEST, Frames
from ..lab.native import FORWARD, LARGE, VNET_HDR, Side
from .hosts import (
    PATIENCE,
    run,
    show,
    wait_until,
    wait_until_listening,
)

# The batches of `rawmmsg bridge`.
SUPER_CAPACITY: Final = 8
SMALL_CAPACITY: Final = 64

PLAIN_FRAME: Final = 2048

# A line of the summary of `rawmmsg bridge`: three of them for each direction.
_SUMMARY: Final = re.compile(
    r"^ +([\d,]+) frames (received|sent|dropped)(?:,.*|:.*)?$", re.MULTILINE
)

Ports: TypeAlias = tuple[str, str]

# Joins two interfaces while the context lasts. At its end it checks that every
# frame received was sent, or counted as dropped.
Join: TypeAlias = Callable[[str, str], AbstractContextManager[None]]

# Forwards until a pipe is closed at its other end. Returns how many frames it
# received from each port, sent on and dropped.
Forward: TypeAlias = Callable[[int], Sequence[int]]


def calls(
    stack: ExitStack,
    sockets: Sequence[RawSocket],
    options: int,
    capacity: int = SMALL_CAPACITY,
) -> Side:
    """C between two sockets, with a batch of `capacity` frames."""
    room = SUPER_FRAME if options & VNET_HDR else PLAIN_FRAME
    frames = Frames(capacity, SHORTEST, room=room)
    tx, rx = (sock.fileno() for sock in sockets)
    return Side(
        *(stack, "forward/calls.c", ("", ""), frames),
        tx=tx,
        rx=rx,
        options=options | FORWARD,
    )


def libpcap(stack: ExitStack, ports: Ports) -> Side:
    """libpcap, which opens the ports itself."""
    frames = Frames(SMALL_CAPACITY, SHORTEST)
    setup = ("forward/pcap.c", ports, frames)
    return Side(stack, *setup, options=FORWARD | LARGE)


def open_ports(
    stack: ExitStack, ports: Ports, options: int
) -> list[RawSocket]:
    """Sockets that forward whatever arrives at the ports, with AUXDATA and
    VNET_HDR as asked."""
    sockets = [
        RawSocket(
            name,
            promisc=True,
            ignore_outgoing=True,
            vlan=bool(options & AUXDATA),
            vnet_hdr=bool(options & VNET_HDR),
        )
        for name in ports
    ]
    for sock in sockets:
        stack.enter_context(sock).setblocking(False)
    return sockets


def in_c(options: int) -> Join:
    """C with the batch of `rawmmsg bridge`, and AUXDATA and VNET_HDR as
    asked."""

    def start(stack: ExitStack, ports: Ports) -> Forward:
        sockets = open_ports(stack, ports, options)
        return _in_c(calls(stack, sockets, options, SUPER_CAPACITY))

    return _in_a_thread(start)


def with_libpcap() -> Join:
    return _in_a_thread(lambda stack, ports: _in_c(libpcap(stack, ports)))


def bare_loop() -> Join:
    """The least that a bridge in Python can do: the library's calls in a
    loop."""

    def start(stack: ExitStack, ports: Ports) -> Forward:
        a, b = open_ports(stack, ports, AUXDATA | VNET_HDR)
        return lambda stop: _forward_all(a, b, stop)

    return _in_a_thread(start)


def _in_c(side: Side) -> Forward:
    def forward(stop: int) -> Sequence[int]:
        side.call("run", 0, stop)
        counts = (ctypes.c_uint64 * 6)()
        side.call("get_counts", counts)
        return list(counts)

    return forward


def _forward_all(a: RawSocket, b: RawSocket, stop: int) -> Sequence[int]:
    batch = PacketBatch(SUPER_CAPACITY, SUPER_FRAME)
    poll = select.poll()
    directions = {a.fileno(): (a, b), b.fileno(): (b, a)}
    for descriptor in (stop, *directions):
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if stop in ready:
            break
        for descriptor in ready:
            source, sink = directions[descriptor]
            count = source.recvmmsg_into(batch)
            sent = sink.sendmmsg(batch)
            while sent < count:
                sent += sink.sendmmsg(batch, sent)
    one, other = a.statistics(), b.statistics()
    return [
        *(one.packets_received, other.packets_sent, 0),
        *(other.packets_received, one.packets_sent, 0),
    ]


def _in_a_thread(start: Callable[[ExitStack, Ports], Forward]) -> Join:
    @contextlib.contextmanager
    def join(a: str, b: str) -> Iterator[None]:
        with ExitStack() as stack:
            forward = start(stack, (a, b))
            pool = stack.enter_context(ThreadPoolExecutor(1))
            reader, writer = os.pipe()
            stack.callback(os.close, reader)
            try:
                counts = pool.submit(forward, reader)
                yield
            finally:
                os.close(writer)
            check_counts(counts.result(PATIENCE))

    return join


def rawmmsg_bridge() -> Join:
    """The command `rawmmsg bridge`."""
    command = [sys.executable, "-P", "-m", "rawmmsg", "bridge"]

    @contextlib.contextmanager
    def join(a: str, b: str) -> Iterator[None]:
        # It finds the same packages as this process. A preloaded sanitizer
        # stays, because a build of the package may need it.
        more = {"PYTHONPATH": os.pathsep.join(sys.path)}
        with native.start([*command, a, b], os.environ | more) as process:
            try:
                wait_until_listening((a, b), process)
                yield
                process.terminate()
                _, summary = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                raise GroundTruthError("rawmmsg bridge does not end") from None
            finally:
                process.kill()
        found = _SUMMARY.findall(summary)
        if process.returncode != 0 or len(found) != 6:
            raise GroundTruthError(f"rawmmsg bridge has failed: {summary}")
        check_counts([int(number.replace(",", "")) for number, _ in found])

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


def _is_forwarding(port: str) -> bool:
    state = show(port)["linkinfo"]["info_slave_data"]["state"]
    return bool(state == "forwarding")


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
                wait_until(
                    partial(_is_forwarding, port),
                    "the kernel's bridge does not forward",
                )
            yield
        finally:
            run([ip, "link", "delete", name])

    return join
