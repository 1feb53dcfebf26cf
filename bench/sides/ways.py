"""Ways to send a batch over a veth pair and to receive it back, in one thread:
in C, with rawmmsg, and with the socket module.

All of them have the frames of the last round in the batch's memory at the end
of a slice, where they are checked.
"""

import contextlib
import ctypes
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeAlias

from rawmmsg import PacketBatch, RawSocket

from ..framework import GroundTruthError
from ..network.link import Counter, Ends, Frames, Link
from ..tools import native

# c/loop.h
_ERROR_SIZE: Final = 256
AUXDATA: Final = 1
STAMPS: Final = 2
V3: Final = 4
COPY: Final = 8
ONE_BY_ONE: Final = 16
INJECT: Final = 32
LARGE: Final = 64
DEAF: Final = 128
BUFFERED: Final = 256

_STAMP_SIZE: Final = 16  # struct timespec
_STAMP_SPACE: Final = socket.CMSG_SPACE(_STAMP_SIZE)


class Way(Protocol):
    """A way, ready for its frames."""

    @property
    def counter(self) -> Counter:
        """Of the socket that receives."""

    def prepare(self) -> None:
        """Has the kernel do for packets what this way asks of it."""

    def run(self, rounds: int) -> None:
        """Sends and receives the batch so many times."""

    def split(self, rounds: int) -> tuple[int, int]:
        """The same; the nanoseconds that sending took, and receiving."""

    def prove(self) -> Sequence[int]:
        """Has the frames of the last round in the batch's memory; the lengths
        of what the last call received."""

    def stamped(self) -> float | None:
        """How many of the packets came with a time stamp so far, in percent,
        where that is counted."""


# Makes a way ready, on a link that several share or its own; what it opens is
# closed with the stack.
Start: TypeAlias = Callable[["SharedLink", Frames, contextlib.ExitStack], Way]


class SharedLink:
    """A link whose socket is asked now for this with each packet, now for
    that."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._options: int | None = None

    def switch(self, options: int) -> None:
        """Asks for AUXDATA, STAMPS, both or neither; returns when it is so."""
        before, self._options = self._options, options
        if before == options:
            return
        self.link.set_options(
            auxdata=bool(options & AUXDATA), stamps=bool(options & STAMPS)
        )


class LoopSetup(ctypes.Structure):
    """struct loop_setup"""

    _fields_ = (
        ("tx", ctypes.c_int),
        ("rx", ctypes.c_int),
        ("tx_name", ctypes.c_char_p),
        ("rx_name", ctypes.c_char_p),
        ("out", ctypes.c_void_p),
        ("into", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("room", ctypes.c_size_t),
        ("stride", ctypes.c_size_t),
        ("batch", ctypes.c_uint),
        ("options", ctypes.c_uint),
    )


class Totals(ctypes.Structure):
    """struct loop_totals: what a loop in C has seen."""

    packets: int
    bytes: int
    tags: int
    stamps: int

    _fields_ = (
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("tags", ctypes.c_uint64),
        ("stamps", ctypes.c_uint64),
    )


class Loop:
    """A loop in C, of a library with the functions of c/loop.h."""

    def __init__(
        self, source: str, libraries: Sequence[str], setup: LoopSetup
    ) -> None:
        self._library = native.library(source, *libraries)
        self._library.loop_open.restype = ctypes.c_void_p
        self._source = source
        self._setup = setup  # its strings, too, must stay
        self._lengths = (ctypes.c_uint32 * setup.batch)()
        self._parts = (ctypes.c_uint64 * 2)()
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        self._loop = ctypes.c_void_p(
            self._library.loop_open(ctypes.byref(setup), error)
        )
        if not self._loop:
            raise OSError(error.value.decode())
        self.counter = Counter(self._library.loop_fileno(self._loop))

    def prepare(self) -> None:
        """Its socket is its own, and asked for nothing else."""

    def run(self, rounds: int) -> None:
        self._check(self._library.loop_run(self._loop, rounds, None))

    def split(self, rounds: int) -> tuple[int, int]:
        self._parts[:] = [0, 0]
        self._check(self._library.loop_run(self._loop, rounds, self._parts))
        return self._parts[0], self._parts[1]

    def prove(self) -> Sequence[int]:
        count = self._library.loop_prove(self._loop, self._lengths)
        lengths: list[int] = self._lengths[: self._check(count)]
        return lengths

    def stamped(self) -> float:
        totals = self.totals()
        return 100 * totals.stamps / totals.packets

    def totals(self) -> Totals:
        found = Totals()
        self._library.loop_get_totals(self._loop, ctypes.byref(found))
        return found

    def close(self) -> None:
        self.counter.close()
        self._library.loop_close(self._loop)

    def _check(self, result: int) -> int:
        if result < 0:
            words = os.strerror(-result)
            raise OSError(-result, f"{self._source}: {words}")
        return result


class _LimitLoop(Loop):
    """The one on a shared socket."""

    def __init__(self, shared: SharedLink, setup: LoopSetup) -> None:
        super().__init__("limit.c", (), setup)
        self._shared = shared
        self._options = int(setup.options)

    def prepare(self) -> None:
        self._shared.switch(self._options)


def loop_setup(ends: Ends, rx: int, frames: Frames, options: int) -> LoopSetup:
    return LoopSetup(
        tx=ends.tx.fileno(),
        rx=rx,
        tx_name=ends.veth.a.encode(),
        rx_name=ends.veth.b.encode(),
        out=frames.address(frames.out),
        into=frames.address(frames.into),
        size=frames.size,
        room=frames.room,
        stride=frames.stride,
        batch=frames.batch,
        options=options,
    )


def limit(options: int = 0) -> Start:
    """recvmmsg and sendmmsg in C, on the sockets and memory of the others,
    with AUXDATA and STAMPS as asked."""

    def start(
        shared: SharedLink, frames: Frames, stack: contextlib.ExitStack
    ) -> Loop:
        link = shared.link
        setup = loop_setup(link, link.rx.fileno(), frames, options)
        return stack.enter_context(
            contextlib.closing(_LimitLoop(shared, setup))
        )

    return start


def in_c(source: str, *libraries: str, options: int = 0) -> Start:
    """Another loop in C, which receives with a socket of its own, on a veth
    pair of its own: a second socket on the same one would cost both."""

    def start(
        _: SharedLink, frames: Frames, stack: contextlib.ExitStack
    ) -> Loop:
        ends = stack.enter_context(Ends())
        setup = loop_setup(ends, -1, frames, options)
        return stack.enter_context(
            contextlib.closing(Loop(source, libraries, setup))
        )

    return start


@dataclass(frozen=True)
class PythonLoop:
    """A loop in Python, of two halves that each do their part of a round."""

    shared: SharedLink
    options: int
    send: Callable[[], object]
    receive: Callable[[], object]
    prove: Callable[[], Sequence[int]]

    @property
    def counter(self) -> Counter:
        return self.shared.link.counter

    def prepare(self) -> None:
        self.shared.switch(self.options)

    def stamped(self) -> None:
        """They are not looked at here, but in C."""

    def run(self, rounds: int) -> None:
        send, receive = self.send, self.receive
        for _ in range(rounds):
            send()
            receive()

    def split(self, rounds: int) -> tuple[int, int]:
        send, receive, clock = self.send, self.receive, time.perf_counter_ns
        sending = receiving = 0
        for _ in range(rounds):
            begin = clock()
            send()
            middle = clock()
            receive()
            end = clock()
            sending += middle - begin
            receiving += end - middle
        return sending, receiving


# What is done with a batch when it has come.
Handle: TypeAlias = Callable[[PacketBatch], object]


def rawmmsg(
    side: Callable[[Link], RawSocket],
    options: int = 0,
    *,
    packets: Callable[[Frames], PacketBatch | list[bytes]] = (
        lambda frames: frames.out
    ),
    handle: Handle | None = None,
) -> Start:
    """rawmmsg with one of the link's sockets, which asks for `options`; what
    it sends from, and what it does with what comes."""

    def start(
        shared: SharedLink, frames: Frames, _: contextlib.ExitStack
    ) -> PythonLoop:
        into, size = frames.into, frames.batch
        take = side(shared.link).recvmmsg_into

        def receive() -> None:
            done = take(into)
            while done < size:
                done += take(into)

        def receive_and_handle() -> None:
            assert handle is not None
            done = 0
            while done < size:
                done += take(into)
                handle(into)

        return PythonLoop(
            shared,
            options,
            send=partial(shared.link.tx.sendmmsg_all, packets(frames)),
            receive=receive if handle is None else receive_and_handle,
            prove=lambda: into.lengths[: len(into)],
        )

    return start


def stdlib(
    options: int = 0,
    handle: Callable[[memoryview], object] | None = None,
) -> Start:
    """The socket module, one packet a call, into the same memory."""

    def start(
        shared: SharedLink, frames: Frames, _: contextlib.ExitStack
    ) -> PythonLoop:
        packets, views = frames.packets, frames.into_views
        send_one = shared.link.tx_stdlib.send
        receive_one = shared.link.rx_stdlib.recv_into
        if options & STAMPS:
            receive_one = partial(_receive_stamped, shared.link.rx_stdlib)
        lengths = [0] * frames.batch

        def send() -> None:
            for packet in packets:
                send_one(packet)

        def receive() -> None:
            lengths[:] = [receive_one(view) for view in views]

        def receive_and_handle() -> None:
            assert handle is not None
            for i, view in enumerate(views):
                lengths[i] = receive_one(view)
                handle(view)

        return PythonLoop(
            shared,
            options,
            send,
            receive=receive if handle is None else receive_and_handle,
            prove=lambda: lengths,
        )

    return start


def _receive_stamped(sock: socket.socket, view: memoryview) -> int:
    length, control, _, _ = sock.recvmsg_into([view], _STAMP_SPACE)
    ((_, _, stamp),) = control
    if len(stamp) != _STAMP_SIZE:
        raise GroundTruthError("a packet without a time stamp")
    return length
