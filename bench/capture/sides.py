"""Contenders that receive what another CPU sends. Each looks at the number of
every frame or batch, and now and then at all bytes of a frame, so that a frame
that is lost, duplicated or changed is found."""

import contextlib
import ctypes
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from rawmmsg import RawSocket

from ..lab.contender import GroundTruthError, Ready, Slice, UnavailableError
from ..lab.cpus import elsewhere
from ..lab.link import (
    PATIENCE,
    SHORTEST,
    Counter,
    Ends,
    Frames,
    Link,
    set_timeout,
)
from ..lab.native import FLOOD, Side, on_link

BATCH: Final = 64
WAIT_SECONDS: Final = 0.02  # WAIT_MS of side.c
_NUMBER: Final = struct.Struct("!Q")
_NUMBER_AT: Final = 14  # lab/side.h
_COMPARED_EVERY: Final = 64


@dataclass(frozen=True)
class Place:
    """A link that contenders share, the size of the frames, and how long and
    on which CPU they are sent."""

    link: Link
    size: int
    seconds: float
    senders_cpu: int


def _counts(names: str) -> list[tuple[str, type[ctypes.c_uint64]]]:
    return [(name, ctypes.c_uint64) for name in names.split()]


class Receipt(ctypes.Structure):
    """struct receipt: counts of the frames received."""

    _fields_ = _counts("frames disordered changed last_ns cpu_ns number")


class Flood(ctypes.Structure):
    """struct flood: counts of the frames sent."""

    _fields_ = _counts("sent begin_ns wall_ns cpu_ns")


@dataclass
class Receiver:
    """A contender: floods it, and checks what it received.

    `receive(over, receipt)` receives until the sender is `over` and nothing
    has arrived since, and adds to the receipt. `ends` is the veth pair on
    which `frames` are sent to it, `counter` the kernel's counts of its socket,
    if it has one. `options` are those of the shared link, if it uses that.
    """

    place: Place
    frames: Frames
    ends: Ends
    receive: Callable[[ctypes.c_int, Receipt], None]
    counter: Counter | None
    options: int | None = None

    def __post_init__(self) -> None:
        setup = ("capture/flood.c", self.ends.names, self.frames)
        tx = self.ends.tx.fileno()
        self._sender = Side(self.place.link, *setup, tx=tx)

    def run(self, _: int) -> Slice:
        """Million packets received per second."""
        self.begin()
        receipt, flood = Receipt(), Flood()
        ns = ctypes.c_uint64(int(self.place.seconds * 1e9))

        def send(over: ctypes.c_int) -> None:
            arguments = (ns, ctypes.byref(over), ctypes.byref(flood))
            self._sender.call("run", *arguments)

        with elsewhere(self.place.senders_cpu, send) as over:
            self.receive(over, receipt)
        self.check(flood, receipt)
        sent, received = flood.sent, receipt.frames
        taken = receipt.last_ns - flood.begin_ns
        extra = {
            "sent, Mpps": sent / flood.wall_ns * 1e3,
            "lost, %": 100 * (sent - received) / sent,
            "sender CPU, ns": flood.cpu_ns / sent,
            "receiver CPU, ns": receipt.cpu_ns / received,
        }
        return Slice(received / taken * 1e3, taken, extra)

    def begin(self) -> None:
        """Prepares the receiver, and resets its counts."""
        if self.options is not None:
            self.place.link.set_options(self.options)
        self._counts()

    def _counts(self) -> tuple[int, int]:
        counter = self.counter
        return counter.read() if counter is not None else (0, 0)

    def check(self, flood: Flood, receipt: Receipt) -> None:
        """Checks that every frame was received once, in order and unchanged,
        or was dropped by the kernel, which counts that if it can."""
        counted = self.counter is not None
        arrived, dropped = self._counts()
        deadline = time.monotonic() + PATIENCE
        # The kernel may not have passed on all of them.
        while (
            counted
            and receipt.frames + dropped < flood.sent
            and time.monotonic() < deadline
        ):
            self.receive(ctypes.c_int(1), receipt)
            more_arrived, more_dropped = self._counts()
            arrived, dropped = arrived + more_arrived, dropped + more_dropped
        told = f"{flood.sent} frames sent, {receipt.frames} received"
        if counted and (
            arrived != flood.sent or arrived != receipt.frames + dropped
        ):
            told += f", {arrived} arrived, {dropped} of these dropped"
            raise GroundTruthError(told)
        if not 0 < receipt.frames <= flood.sent:
            raise GroundTruthError(told)
        if receipt.disordered or receipt.changed:
            raise GroundTruthError(
                f"{told}, {receipt.disordered} out of order,"
                f" {receipt.changed} changed"
            )


Start: TypeAlias = Callable[[Place], Receiver]


def in_c(source: str, options: int = 0) -> Start:
    """A contender in C, with large rings."""

    def start(place: Place) -> Receiver:
        link, frames = place.link, Frames(BATCH, place.size)
        side, ends, counter = on_link(link, frames, source, options | FLOOD)

        def run(over: ctypes.c_int, receipt: Receipt) -> None:
            side.call("run", ctypes.byref(over), ctypes.byref(receipt))

        shared = options if ends is link else None
        return Receiver(place, frames, ends, run, counter, shared)

    return start


def xdp(place: Place) -> Receiver:
    """AF_XDP, which only the administrator may use."""
    try:
        return in_c("capture/side.c:xdp")(place)
    except OSError as error:
        raise UnavailableError(
            "AF_XDP", "run as root, on a kernel with CONFIG_XDP_SOCKETS"
        ) from error


def _in_python(
    place: Place, frames: Frames, options: int, take: Callable[[], int]
) -> Receiver:
    """A contender in Python. `take` receives a batch into the memory of
    `frames` and returns its size, or 0 if nothing arrived within
    WAIT_SECONDS."""
    views, size = frames.into_views, frames.size
    body = frames.packets[0][SHORTEST:]
    zeros = bytes(len(body))  # written over each frame that was compared

    def run(over: ctypes.c_int, receipt: Receipt) -> None:
        begin = time.thread_time_ns()
        frames = batches = last_ns = 0
        number = receipt.number
        while True:
            was_over = over.value
            count = take()
            if not count:
                if was_over:
                    break
                continue
            last_ns = time.monotonic_ns()
            frames += count
            before, view = number, views[count - 1]
            (number,) = _NUMBER.unpack_from(view, _NUMBER_AT)
            if number < before + count:
                receipt.disordered += 1
            batches += 1
            if batches % _COMPARED_EVERY == 1:
                receipt.changed += view[SHORTEST:size] != body
                view[SHORTEST:size] = zeros
        receipt.number = number
        receipt.frames += frames
        receipt.last_ns = last_ns or receipt.last_ns
        receipt.cpu_ns += time.thread_time_ns() - begin

    link = place.link
    return Receiver(place, frames, link, run, link.counter, options)


def rawmmsg(socket_of: Callable[[Link], RawSocket], options: int) -> Start:
    """rawmmsg with one of the link's sockets, which asks for `options`."""

    def start(place: Place) -> Receiver:
        frames, sock = Frames(BATCH, place.size), socket_of(place.link)
        sock.settimeout(WAIT_SECONDS)
        into, receive = frames.into, sock.recvmmsg_into

        def take() -> int:
            try:
                return receive(into)
            except TimeoutError:
                return 0

        return _in_python(place, frames, options, take)

    return start


def stdlib(place: Place) -> Receiver:
    """The socket module, one packet a call, into the same memory."""
    frames, sock = Frames(BATCH, place.size), place.link.rx_stdlib
    set_timeout(sock, WAIT_SECONDS)
    views, receive = frames.into_views, sock.recv_into

    def take() -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            for view in views:
                receive(view)
                count += 1
        return count

    return _in_python(place, frames, 0, take)


def prepared(start: Start) -> Callable[[Place], Ready]:
    """Makes a receiver ready for the runner."""
    return lambda place: Ready(start(place).run)
