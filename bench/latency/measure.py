"""Latency: how long a frame takes there and back.

One CPU sends a frame and waits for it; another returns it, in C by recv(2) and
send(2), the same for all sides. Each frame that comes is compared with the one
that was sent. The figure is the median of a slice.

The sides: C, by sendmmsg(2) and recvmmsg(2) as rawmmsg calls them, and by
send(2) and recv(2), which blocks; rawmmsg's batches of one and its send() and
recv_into(); the socket module; libpcap in immediate mode, from C.
"""

import contextlib
import ctypes
import os
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, Self, TypeAlias

from rawmmsg import RawSocket
from rawmmsg.testing import veth_pair

from ..framework import Context, GroundTruthError, Side, Table, available
from ..network.link import PATIENCE, Frames
from ..sides.c_side import Elsewhere, Handle
from ..sides.ways import AUXDATA, ONE_BY_ONE, LoopSetup
from ..tools import cpus, native

SIZES: Final = (64, 1500)

_NUMBER: Final = struct.Struct("!Q")
_NUMBER_AT: Final = 14  # c/ping.h
_LOOK_SECONDS: Final = 0.02  # whether the mirror is to end

# Frames of a slice, by mode: some milliseconds, as a rule.
_FRAMES: Final = (100, 50, 10)


def _set_timeout(sock: socket.socket, seconds: float) -> None:
    # Not settimeout(), with which the socket module polls before each call.
    whole, part = divmod(seconds, 1)
    sock.setsockopt(
        *(socket.SOL_SOCKET, socket.SO_RCVTIMEO),
        struct.pack("ll", int(whole), int(part * 1e6)),
    )


class Mirror:
    """A veth pair whose end `b` returns each frame. A context manager."""

    def __init__(self, cpu: int) -> None:
        self._library = native.library("echo.c")
        with contextlib.ExitStack() as stack:
            self.veth = stack.enter_context(veth_pair())
            self._sock = stack.enter_context(RawSocket(self.veth.b))
            with socket.socket(fileno=os.dup(self._sock.fileno())) as copy:
                _set_timeout(copy, _LOOK_SECONDS)
            echo = Elsewhere("echo.c", cpu, self._run)
            stack.callback(echo.stop)
            self._stack = stack.pop_all()

    def _run(self, over: ctypes.c_int) -> int:
        result: int = self._library.echo_run(
            self._sock.fileno(), ctypes.byref(over)
        )
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


# Has a frame go there and back so many times: the nanoseconds of each.
Run: TypeAlias = Callable[[int], list[int]]

# Makes a way ready; what it opens is closed with the stack.
Start: TypeAlias = Callable[[Mirror, Frames, contextlib.ExitStack], Run]


def in_c(source: str, *libraries: str, options: int = 0) -> Start:
    """A side in C, of a library with the functions of c/ping.h. libpcap opens
    the interface itself, and does not want another socket there."""

    def start(
        mirror: Mirror, frames: Frames, stack: contextlib.ExitStack
    ) -> Run:
        descriptor = -1
        if not libraries:
            sock = _socket(mirror, stack, vlan=bool(options & AUXDATA))
            descriptor = sock.fileno()
        name = mirror.veth.a.encode()
        setup = LoopSetup(
            tx=descriptor,
            rx=descriptor,
            tx_name=name,
            rx_name=name,
            out=frames.address(frames.out),
            into=frames.address(frames.into),
            size=frames.size,
            room=frames.room,
            stride=frames.stride,
            batch=frames.batch,
            options=options,
        )
        side = Handle("pinging", source, libraries, setup, frames)
        stack.callback(side.close)

        def run(rounds: int) -> list[int]:
            taken = (ctypes.c_uint64 * rounds)()
            try:
                side.call("run", rounds, taken)
            except OSError as error:
                raise GroundTruthError(str(error)) from error
            return list(taken)

        return run

    return start


def _socket(
    mirror: Mirror, stack: contextlib.ExitStack, *, vlan: bool = True
) -> RawSocket:
    sock = stack.enter_context(RawSocket(mirror.veth.a, vlan=vlan))
    sock.settimeout(PATIENCE)
    with socket.socket(fileno=os.dup(sock.fileno())) as copy:
        _set_timeout(copy, PATIENCE)
    return sock


def _in_python(
    frames: Frames, send: Callable[[], object], receive: Callable[[], int]
) -> Run:
    """A side in Python: `receive` returns the length of the frame, which is in
    the batch's memory."""
    out, into = frames.out_views[0], frames.into_views[0]

    def run(rounds: int) -> list[int]:
        clock = time.perf_counter_ns
        taken: list[int] = []
        for number in range(1, rounds + 1):
            _NUMBER.pack_into(out, _NUMBER_AT, number)
            begin = clock()
            send()
            length = receive()
            taken.append(clock() - begin)
            if length != frames.size or into != out:
                raise GroundTruthError(f"frame {number} came changed")
        return taken

    return run


def batches(
    mirror: Mirror, frames: Frames, stack: contextlib.ExitStack
) -> Run:
    """rawmmsg, a batch of one frame."""
    sock = _socket(mirror, stack)
    lengths, receive = frames.into.lengths, sock.recvmmsg_into

    def receive_one() -> int:
        receive(frames.into)
        return lengths[0]

    return _in_python(frames, partial(sock.sendmmsg, frames.out), receive_one)


def one_by_one(
    mirror: Mirror, frames: Frames, stack: contextlib.ExitStack
) -> Run:
    """rawmmsg, without a batch."""
    sock = _socket(mirror, stack)
    out, into = frames.out_views[0], frames.into_views[0]
    return _in_python(
        frames, partial(sock.send, out), partial(sock.recv_into, into)
    )


def stdlib(mirror: Mirror, frames: Frames, stack: contextlib.ExitStack) -> Run:
    """The socket module."""
    raw = _socket(mirror, stack, vlan=False)
    sock = stack.enter_context(socket.socket(fileno=os.dup(raw.fileno())))
    out, into = frames.out_views[0], frames.into_views[0]
    return _in_python(
        frames, partial(sock.send, out), partial(sock.recv_into, into)
    )


LIMIT: Final = "C recvmmsg"
CONTROL: Final = "C recvmmsg, control"

CONTENDERS: Final[Mapping[str, Start]] = {
    LIMIT: in_c("ping_calls.c", options=AUXDATA),
    CONTROL: in_c("ping_calls.c", options=AUXDATA),
    "C recv": in_c("ping_calls.c", options=ONE_BY_ONE),
    "rawmmsg": batches,
    "rawmmsg, send and recv_into": one_by_one,
    "stdlib": stdlib,
    "libpcap (C)": in_c("ping_pcap.c", "pcap"),
}


def _side(
    name: str,
    start: Start,
    context: Context,
    size: int,
    stack: contextlib.ExitStack,
) -> Side:
    mirror = stack.enter_context(Mirror(context.receivers_cpu))
    run = start(mirror, Frames(1, size), stack)
    rounds = context.pick(*_FRAMES)
    run(rounds)  # warms up
    return Side(
        name,
        lambda: statistics.median(run(rounds)) / 1e3,
        limit=None if name == LIMIT else LIMIT,
        at_least=0.99 if name == CONTROL else None,
        at_most=1.01 if name == CONTROL else None,
    )


def measure(context: Context) -> Iterator[Table]:
    for size in SIZES:
        with (
            cpus.pinned(context.senders_cpu),
            contextlib.ExitStack() as stack,
        ):
            sides, missing = available(
                partial(_side, name, start, context, size, stack)
                for name, start in CONTENDERS.items()
            )
            yield Table(
                f"latency/{size}B",
                f"A {size}-byte frame there and back",
                "us",
                context.slices(sides),
                sides,
                missing,
            )
