"""Ways to receive what another CPU sends: in C, with rawmmsg and with the
socket module.

Each looks at the number of every frame or batch, and now and then at all bytes
of a frame, so that a frame that is lost, duplicated or changed is found.
"""

import contextlib
import ctypes
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeAlias

from rawmmsg import RawSocket

from ..lab.contender import (
    GroundTruthError,
    Ready,
    Slice,
    UnavailableError,
)
from ..lab.cpus import Elsewhere
from ..lab.link import (
    PATIENCE,
    SHORTEST,
    Counter,
    Ends,
    Frames,
    Link,
    set_timeout,
)
from ..lab.native import AUXDATA, FLOOD, STAMPS, Side

BATCH: Final = 64
WAIT_SECONDS: Final = 0.02  # WAIT_MS of receive.h
_NUMBER: Final = struct.Struct("!Q")
_NUMBER_AT: Final = 14  # lab/side.h
_COMPARED_EVERY: Final = 64


@dataclass(frozen=True)
class Place:
    """A link that contenders share, the frames, and how long and on which CPU
    they are sent."""

    stack: contextlib.ExitStack
    link: Link
    size: int
    seconds: float
    senders_cpu: int


class Receipt(ctypes.Structure):
    """struct receipt: what has been received."""

    frames: int
    disordered: int
    changed: int
    last_ns: int
    cpu_ns: int
    number: int

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("frames", "disordered", "changed"),
            *("last_ns", "cpu_ns", "number"),
        )
    )


class Receiver(Protocol):
    """One of the ways, ready to run."""

    @property
    def frames(self) -> Frames:
        """The frames that are sent to it."""

    @property
    def ends(self) -> Ends:
        """The veth pair on which they are sent."""

    @property
    def counter(self) -> Counter | None:
        """The kernel's counts of its socket; None if it has no such socket."""

    def set_options(self) -> None:
        """Asks the kernel for what this way needs."""

    def run(self, over: ctypes.c_int, receipt: Receipt) -> None:
        """Receives until the sender is `over` and nothing has arrived since;
        adds to the receipt."""


class _InC:
    """A contender in C. `options` is what it asks of the shared link; None
    for one with a socket of its own."""

    def __init__(
        self,
        side: Side,
        frames: Frames,
        ends: Ends,
        place: Place,
        options: int | None = None,
    ) -> None:
        self.frames = frames
        self.ends = ends
        self._options = options
        self._side = side
        self._place = place
        self.counter: Counter | None = None
        if side.fileno >= 0:
            self.counter = place.stack.enter_context(
                contextlib.closing(Counter(side.fileno))
            )

    def set_options(self) -> None:
        if self._options is not None:
            _set_options(self._place.link, self._options)

    def run(self, over: ctypes.c_int, receipt: Receipt) -> None:
        self._side.call("run", ctypes.byref(over), ctypes.byref(receipt))


def _set_options(link: Link, options: int) -> None:
    link.set_options(
        auxdata=bool(options & AUXDATA), stamps=bool(options & STAMPS)
    )


Start: TypeAlias = Callable[[Place], Receiver]


def calls(options: int) -> Start:
    """recvmmsg(2) in C, on the shared socket."""

    def start(place: Place) -> Receiver:
        frames, link = Frames(BATCH, place.size), place.link
        setup = ("capture/calls.c", link.names, frames)
        rx = link.rx.fileno()
        side = Side(place.stack, *setup, rx=rx, options=options)
        return _InC(side, frames, link, place, options)

    return start


def in_c(source: str, options: int = 0) -> Start:
    """Another contender in C, which receives with a socket of its own on a
    veth pair of its own: two sockets on one pair would slow each other
    down."""

    def start(place: Place) -> Receiver:
        frames = Frames(BATCH, place.size)
        ends = place.stack.enter_context(Ends())
        setup = (source, ends.names, frames)
        side = Side(place.stack, *setup, options=options | FLOOD)
        return _InC(side, frames, ends, place)

    return start


def xdp(place: Place) -> Receiver:
    """AF_XDP, which only the administrator may use."""
    try:
        return in_c("capture/xdp.c")(place)
    except OSError as error:
        raise UnavailableError(
            "AF_XDP", "run as root, on a kernel with CONFIG_XDP_SOCKETS"
        ) from error


class _InPython:
    """A contender in Python. `take` receives a batch into the memory of
    `frames` and returns its size, or 0 if nothing arrived within
    WAIT_SECONDS."""

    def __init__(
        self,
        link: Link,
        frames: Frames,
        options: int,
        take: Callable[[], int],
    ) -> None:
        self.frames = frames
        self.ends = link
        self.counter = link.counter
        self._link = link
        self._options = options
        self._take = take
        self._body = frames.packets[0][SHORTEST:]
        # Written over each frame that has been compared.
        self._zeros = bytes(len(self._body))

    def set_options(self) -> None:
        _set_options(self._link, self._options)

    def run(self, over: ctypes.c_int, receipt: Receipt) -> None:
        begin = time.thread_time_ns()
        take, views = self._take, self.frames.into_views
        size = self.frames.size
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
                receipt.changed += view[SHORTEST:size] != self._body
                view[SHORTEST:size] = self._zeros
        receipt.number = number
        receipt.frames += frames
        receipt.last_ns = last_ns or receipt.last_ns
        receipt.cpu_ns += time.thread_time_ns() - begin


def rawmmsg(socket_of: Callable[[Link], RawSocket], options: int) -> Start:
    """rawmmsg with one of the link's sockets, which asks for `options`."""

    def start(place: Place) -> Receiver:
        frames = Frames(BATCH, place.size)
        into, sock = frames.into, socket_of(place.link)
        sock.settimeout(WAIT_SECONDS)
        receive = sock.recvmmsg_into

        def take() -> int:
            try:
                return receive(into)
            except TimeoutError:
                return 0

        return _InPython(place.link, frames, options, take)

    return start


def stdlib(place: Place) -> Receiver:
    """The socket module, one packet a call, into the same memory."""
    frames, sock = Frames(BATCH, place.size), place.link.rx_stdlib
    views = frames.into_views
    set_timeout(sock, WAIT_SECONDS)
    receive = sock.recv_into

    def take() -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            for view in views:
                receive(view)
                count += 1
        return count

    return _InPython(place.link, frames, 0, take)


# ---- The flood -------------------------------------------------------------


class Flood(ctypes.Structure):
    """struct flood: what has been sent."""

    sent: int
    begin_ns: int
    wall_ns: int
    cpu_ns: int

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("sent", "begin_ns", "wall_ns", "cpu_ns")
    )


@dataclass
class Slices:
    """Floods a receiver, and checks what it received."""

    receiver: Receiver
    sender: Side
    place: Place

    def run(self, _: int) -> Slice:
        """Million packets received per second."""
        self.begin()
        receipt, flood = Receipt(), Flood()
        ns = ctypes.c_uint64(int(self.place.seconds * 1e9))

        def send(over: ctypes.c_int) -> None:
            self.sender.call(
                "run", ns, ctypes.byref(over), ctypes.byref(flood)
            )

        thread = Elsewhere(self.place.senders_cpu, send)
        try:
            self.receiver.run(thread.over, receipt)
        finally:
            thread.finish()
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
        self.receiver.set_options()
        self._counts()

    def _counts(self) -> tuple[int, int]:
        counter = self.receiver.counter
        return counter.read() if counter is not None else (0, 0)

    def check(self, flood: Flood, receipt: Receipt) -> None:
        """Checks that every frame was received once, in order and unchanged,
        or was dropped by the kernel, which counts that if it can."""
        counted = self.receiver.counter is not None
        arrived, dropped = self._counts()
        deadline = time.monotonic() + PATIENCE
        # The kernel may not have passed on all of them.
        while (
            counted
            and receipt.frames + dropped < flood.sent
            and time.monotonic() < deadline
        ):
            self.receiver.run(ctypes.c_int(1), receipt)
            more_arrived, more_dropped = self._counts()
            arrived, dropped = arrived + more_arrived, dropped + more_dropped
        told = f"{flood.sent} frames sent, {receipt.frames} received"
        if counted and (
            arrived != flood.sent or arrived != receipt.frames + dropped
        ):
            raise GroundTruthError(
                f"{told}, {arrived} arrived, {dropped} of these dropped"
            )
        if not 0 < receipt.frames <= flood.sent:
            raise GroundTruthError(told)
        if receipt.disordered or receipt.changed:
            raise GroundTruthError(
                f"{told}, {receipt.disordered} out of order,"
                f" {receipt.changed} changed"
            )


def slices(start: Start, place: Place) -> Slices:
    """A receiver in its place, and the flood for it."""
    receiver = start(place)
    ends = receiver.ends
    setup = ("capture/flood.c", ends.names, receiver.frames)
    sender = Side(place.stack, *setup, tx=ends.tx.fileno())
    return Slices(receiver, sender, place)


def prepared(start: Start) -> Callable[[Place], Ready]:
    """A receiver as the runner takes it."""
    return partial(_prepare, start)


def _prepare(start: Start, place: Place) -> Ready:
    return Ready(slices(start, place).run)
