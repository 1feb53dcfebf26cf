"""Contenders that send a batch over a veth pair and receive it back in one
thread. At the end of a slice, all of them have the frames of the last batch in
the memory of the batch, where the slice checks them."""

import abc
import ctypes
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from rawmmsg import PacketBatch, RawSocket

from ..lab.contender import GroundTruthError, Ready, Slice
from ..lab.link import STAMPS, Counter, Frames, Link
from ..lab.native import on_link

# One slice in _SPLIT_EVERY, and 1/_SPLIT_PART of it, times sending and
# receiving separately: reading the clock twice per batch has a cost, too.
_SPLIT_EVERY: Final = 2
_SPLIT_PART: Final = 4

_STAMP_SIZE: Final = 16  # struct timespec
_STAMP_SPACE: Final = socket.CMSG_SPACE(_STAMP_SIZE)


@dataclass(frozen=True)
class Place:
    """A link that contenders share, and the frames that they send."""

    link: Link
    frames: Frames


Prepare: TypeAlias = Callable[[Place], Ready]


class Loop(abc.ABC):
    """A contender: runs and checks its slices. `counter` is that of the socket
    that receives."""

    _slices = 0

    def __init__(
        self,
        frames: Frames,
        counter: Counter,
        set_options: Callable[[], None] = lambda: None,
    ) -> None:
        self.frames = frames
        self.counter = counter
        self._set_options = set_options  # asks the kernel for its options
        self.arrivals = frames.batch  # frames of a batch as they arrive

    @abc.abstractmethod
    def run(self, times: int) -> None:
        """Sends and receives the batch `times` times."""

    def split(self, times: int) -> Mapping[str, float]:
        """Does the same; returns the nanoseconds of a packet for sending and
        receiving, and other figures."""
        raise NotImplementedError

    @abc.abstractmethod
    def prove(self) -> Sequence[int]:
        """Puts the frames of the last batch into the memory of the batch;
        returns the lengths of those that the last call received."""

    def slice(self, times: int) -> Slice:
        """The nanoseconds that a packet takes."""
        self._slices += 1
        extra: Mapping[str, float] = {}
        if self._slices % _SPLIT_EVERY == 1:
            extra = self.parts(max(1, times // _SPLIT_PART))
        taken = self.time(times)
        return Slice(taken / (times * self.frames.batch), taken, extra)

    def parts(self, times: int) -> Mapping[str, float]:
        """A slice that times sending and receiving separately."""
        self._begin()
        found = self.split(times)
        self._check(times)
        return found

    def time(self, times: int) -> int:
        """The nanoseconds that a slice takes."""
        self._begin()
        begin = time.perf_counter_ns()
        self.run(times)
        taken = time.perf_counter_ns() - begin
        self._check(times)
        return taken

    def _begin(self) -> None:
        self.frames.number()
        self._set_options()
        self.counter.read()

    def _check(self, times: int) -> None:
        lengths = self.prove()
        self.counter.check(times * self.arrivals)
        self.frames.check(lengths)


def ready(loop: Loop, place: Place) -> Ready:
    """Makes a loop ready for the runner."""
    place.link.require_room(place.frames)
    return Ready(loop.slice, work=place.frames.batch)


def _parts(parts: Sequence[int], packets: int) -> dict[str, float]:
    sending, receiving = parts
    return {"tx, ns": sending / packets, "rx, ns": receiving / packets}


class CLoop(Loop):
    """A loop in C, with the functions of side.c."""

    def __init__(self, place: Place, source: str, options: int) -> None:
        link, frames = place.link, place.frames
        self._side, ends, counter = on_link(link, frames, source, options)
        assert counter is not None
        shared = [partial(link.set_options, options)] if ends is link else []
        super().__init__(frames, counter, *shared)
        self._lengths = (ctypes.c_uint32 * frames.batch)()

    def run(self, times: int) -> None:
        self._side.call("run", times, None)

    def split(self, times: int) -> Mapping[str, float]:
        parts = (ctypes.c_uint64 * 2)()
        self._side.call("run", times, parts)
        packets, _, _, stamps = self.totals()
        found = _parts(parts[:], times * self.frames.batch)
        if packets:  # a lazy receiver may not have passed on any
            found["stamped, %"] = 100 * stamps / packets
        return found

    def prove(self) -> Sequence[int]:
        count = self._side.call("prove", self._lengths)
        return self._lengths[:count]

    def totals(self) -> list[int]:
        """struct totals of lab/exchange.h: how many packets and bytes, and how
        many packets with a VLAN tag and with a timestamp."""
        totals = (ctypes.c_uint64 * 4)()
        self._side.call("get_totals", totals)
        return list(totals)


def in_c(source: str, options: int = 0) -> Prepare:
    """A loop in C with the options of lab/side.h."""
    return lambda place: ready(CLoop(place, source, options), place)


class PythonLoop(Loop):
    """A loop in Python, made of two functions that send and receive the
    batch, and one that returns the lengths received last."""

    def __init__(
        self,
        place: Place,
        options: int,
        send: Callable[[], object],
        receive: Callable[[], object],
        lengths: Callable[[], Sequence[int]],
    ) -> None:
        set_options = partial(place.link.set_options, options)
        super().__init__(place.frames, place.link.counter, set_options)
        self._send = send
        self._receive = receive
        self._lengths = lengths

    def run(self, times: int) -> None:
        send, receive = self._send, self._receive
        for _ in range(times):
            send()
            receive()

    def split(self, times: int) -> Mapping[str, float]:
        send, receive, clock = self._send, self._receive, time.perf_counter_ns
        sending = receiving = 0
        for _ in range(times):
            begin = clock()
            send()
            middle = clock()
            receive()
            end = clock()
            sending += middle - begin
            receiving += end - middle
        return _parts((sending, receiving), times * self.frames.batch)

    def prove(self) -> Sequence[int]:
        return self._lengths()


def rawmmsg(
    socket_of: Callable[[Link], RawSocket],
    options: int = 0,
    *,
    from_list: bool = False,
    handle: Callable[[PacketBatch], object] | None = None,
) -> Prepare:
    """rawmmsg with one of the link's sockets, which asks for `options`. It
    calls `handle` with each batch that it receives."""

    def prepare(place: Place) -> Ready:
        frames = place.frames
        into, size = frames.into, frames.batch
        take = socket_of(place.link).recvmmsg_into

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

        packets = frames.packets if from_list else frames.out
        loop = PythonLoop(
            *(place, options),
            send=partial(place.link.tx.sendmmsg_all, packets),
            receive=receive if handle is None else receive_and_handle,
            lengths=lambda: into.lengths[: len(into)],
        )
        return ready(loop, place)

    return prepare


def stdlib(
    options: int = 0, handle: Callable[[memoryview], object] | None = None
) -> Prepare:
    """The socket module, one packet a call, into the same memory."""

    def prepare(place: Place) -> Ready:
        frames, link = place.frames, place.link
        packets, views = frames.packets, frames.into_views
        send_one = link.tx_stdlib.send
        receive_one = link.rx_stdlib.recv_into
        if options & STAMPS:
            receive_one = partial(_receive_stamped, link.rx_stdlib)
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

        take = receive if handle is None else receive_and_handle
        loop = PythonLoop(place, options, send, take, lambda: lengths)
        return ready(loop, place)

    return prepare


def _receive_stamped(sock: socket.socket, view: memoryview) -> int:
    length, control, _, _ = sock.recvmsg_into([view], _STAMP_SPACE)
    ((_, _, stamp),) = control
    if len(stamp) != _STAMP_SIZE:
        raise GroundTruthError("a packet without a timestamp")
    return length
