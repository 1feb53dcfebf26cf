"""Contenders that send a frame and wait for its return, and the mirror that
returns it."""

import contextlib
import ctypes
import os
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from rawmmsg import RawSocket
from rawmmsg.testing import Veth, veth_pair

from ..lab import native
from ..lab.contender import GroundTruthError, Ready, Slice
from ..lab.cpus import elsewhere
from ..lab.link import AUXDATA, PATIENCE, Frames, set_timeout
from ..lab.native import INJECT, Side

_NUMBER: Final = struct.Struct("!Q")
_NUMBER_AT: Final = 14  # lab/side.h
_LOOK_SECONDS: Final = 0.02  # how often the mirror checks whether it is over


@dataclass(frozen=True)
class Place:
    """The CPU of the mirrors, and the size of the frame. Each contender has a
    mirror of its own."""

    stack: contextlib.ExitStack
    mirrors_cpu: int
    size: int


@contextlib.contextmanager
def mirror(cpu: int) -> Iterator[Veth]:
    """A veth pair whose end `b` returns each frame, on another CPU."""
    library = native.library("latency/echo.c")
    with veth_pair() as veth, RawSocket(veth.b) as sock:
        with _as_stdlib(sock) as copy:
            set_timeout(copy, _LOOK_SECONDS)

        def echo(over: ctypes.c_int) -> None:
            result = library.echo_run(sock.fileno(), ctypes.byref(over))
            native.succeeded(result, "latency/echo.c")

        with elsewhere(cpu, echo):
            yield veth


def _as_stdlib(sock: RawSocket) -> socket.socket:
    return socket.socket(fileno=os.dup(sock.fileno()))


class Near(NamedTuple):
    """What a contender sends, and where."""

    interface: str
    frames: Frames
    stack: contextlib.ExitStack


# Sends a frame and waits for its return, so many times: the nanoseconds of
# each.
Run: TypeAlias = Callable[[int], list[int]]
Start: TypeAlias = Callable[[Near], Run]


def prepared(start: Start) -> Callable[[Place], Ready]:
    """Makes a contender ready; the figure of a slice is the median."""

    def prepare(place: Place) -> Ready:
        veth = place.stack.enter_context(mirror(place.mirrors_cpu))
        run = start(Near(veth.a, Frames(1, place.size), place.stack))

        def run_slice(times: int) -> Slice:
            taken = run(times)
            return Slice(statistics.median(taken) / 1e3, sum(taken))

        return Ready(run_slice)

    return prepare


def in_c(source: str, options: int = 0) -> Start:
    """A contender in C. libpcap opens the interface itself; another socket
    there would slow it down."""

    def start(near: Near) -> Run:
        fd = -1
        if not options & INJECT:
            fd = _socket(near, vlan=bool(options & AUXDATA)).fileno()
        setup = (source, (near.interface, near.interface), near.frames)
        side = Side(near.stack, *setup, tx=fd, rx=fd, options=options)

        def run(times: int) -> list[int]:
            taken = (ctypes.c_uint64 * times)()
            try:
                side.call("run", times, taken)
            except OSError as error:
                raise GroundTruthError(str(error)) from error
            return list(taken)

        return run

    return start


def _socket(near: Near, *, vlan: bool = True) -> RawSocket:
    sock = near.stack.enter_context(RawSocket(near.interface, vlan=vlan))
    sock.settimeout(PATIENCE)
    with _as_stdlib(sock) as copy:
        set_timeout(copy, PATIENCE)
    return sock


def _in_python(
    frames: Frames, send: Callable[[], object], receive: Callable[[], int]
) -> Run:
    """A contender in Python. `receive` returns the length of the frame, which
    it puts into the memory of `frames`."""
    out, into = frames.out_views[0], frames.into_views[0]

    def run(times: int) -> list[int]:
        clock = time.perf_counter_ns
        taken: list[int] = []
        for number in range(1, times + 1):
            _NUMBER.pack_into(out, _NUMBER_AT, number)
            begin = clock()
            send()
            length = receive()
            taken.append(clock() - begin)
            if length != frames.size or into != out:
                raise GroundTruthError(f"frame {number} was changed")
        return taken

    return run


def batches(near: Near) -> Run:
    """rawmmsg with a batch of one frame."""
    sock, frames = _socket(near), near.frames
    lengths, receive = frames.into.lengths, sock.recvmmsg_into

    def receive_one() -> int:
        receive(frames.into)
        return lengths[0]

    return _in_python(frames, partial(sock.sendmmsg, frames.out), receive_one)


def one_by_one(near: Near) -> Run:
    """rawmmsg without a batch."""
    return _one_by_one(_socket(near), near.frames)


def stdlib(near: Near) -> Run:
    """The socket module."""
    copy = _as_stdlib(_socket(near, vlan=False))
    return _one_by_one(near.stack.enter_context(copy), near.frames)


def _one_by_one(sock: RawSocket | socket.socket, frames: Frames) -> Run:
    out, into = frames.out_views[0], frames.into_views[0]
    send, receive = partial(sock.send, out), partial(sock.recv_into, into)
    return _in_python(frames, send, receive)
