"""Ways to receive what another CPU sends: in C, with rawmmsg and with the
socket module.

Each looks at the number of frames as they come, and now and then at all of
one, so that what is lost, doubled or changed is found.
"""

import contextlib
import ctypes
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from rawmmsg import RawSocket

from ..framework import Unavailable
from ..network.link import SHORTEST, Ends, Frames, Link
from .c_side import Handle
from .ways import SharedLink, loop_setup

# c/receiving.h
WAIT_SECONDS: Final = 0.02
_NUMBER: Final = struct.Struct("!Q")
_NUMBER_AT: Final = 14
_COMPARED_EVERY: Final = 64


class Receipt(ctypes.Structure):
    """struct receipt: what came."""

    frames: int
    disordered: int
    changed: int
    last_ns: int
    cpu_ns: int

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("frames", "disordered", "changed", "last_ns", "cpu_ns")
    )


class Receiver(Protocol):
    """A way, ready."""

    frames: Frames  # to be sent to it

    @property
    def ends(self) -> Ends:
        """Where they are sent."""

    @property
    def counted(self) -> int:
        """The descriptor whose drops the kernel counts; -1: of none."""

    def prepare(self) -> None:
        """Has the kernel do for packets what this way asks of it."""

    def run(self, over: ctypes.c_int, more: bool, receipt: Receipt) -> None:
        """Receives until the sender is `over` and nothing has come since;
        numbers begin anew unless `more`."""


# Makes a receiver; what it opens is closed with the stack. Those whose socket
# is the shared link's take turns on it.
Start: TypeAlias = Callable[
    [SharedLink, Frames, contextlib.ExitStack], Receiver
]


class _InC:
    """A side in C, of a library with the functions of c/receiving.h."""

    def __init__(
        self,
        source: str,
        libraries: Sequence[str],
        ends: Ends,
        frames: Frames,
        rx: int,
        options: int,
        prepare: Callable[[], None],
    ) -> None:
        self.ends = ends
        self.frames = frames
        self.prepare = prepare
        setup = loop_setup(ends, rx, frames, options)
        self._side = Handle("receiving", source, libraries, setup, frames)
        self.counted = self._side.ask("fileno")

    def run(self, over: ctypes.c_int, more: bool, receipt: Receipt) -> None:
        self._side.call("run", ctypes.byref(over), more, ctypes.byref(receipt))

    def close(self) -> None:
        self._side.close()


def limit(options: int) -> Start:
    """recvmmsg(2) in C, on the socket of the others."""

    def start(
        shared: SharedLink, frames: Frames, stack: contextlib.ExitStack
    ) -> Receiver:
        side = _InC(
            "receive_mmsg.c",
            (),
            shared.link,
            frames,
            shared.link.rx.fileno(),
            options,
            lambda: shared.switch(options),
        )
        stack.callback(side.close)
        return side

    return start


def _nothing() -> None:
    """A socket of its own is asked for nothing else."""


def in_c(source: str, *libraries: str, options: int = 0) -> Start:
    """Another side in C, which receives with a socket of its own, on a veth
    pair of its own: a second socket on the same one would cost both."""

    def start(
        _: SharedLink, frames: Frames, stack: contextlib.ExitStack
    ) -> Receiver:
        ends = stack.enter_context(Ends())
        side = _InC(source, libraries, ends, frames, -1, options, _nothing)
        stack.callback(side.close)
        return side

    return start


def xdp(options: int = 0) -> Start:
    """AF_XDP, which only the administrator may use."""
    start_in_c = in_c("receive_xdp.c", options=options)

    def start(
        shared: SharedLink, frames: Frames, stack: contextlib.ExitStack
    ) -> Receiver:
        try:
            return start_in_c(shared, frames, stack)
        except OSError as error:
            raise Unavailable(
                "AF_XDP", "run as root, on a kernel with CONFIG_XDP_SOCKETS"
            ) from error

    return start


class _InPython:
    """A side in Python: `take` receives a batch, or nothing within
    WAIT_SECONDS, into the frames' memory, and returns how many came."""

    def __init__(
        self,
        shared: SharedLink,
        frames: Frames,
        options: int,
        take: Callable[[], int],
    ) -> None:
        self.ends = shared.link
        self.frames = frames
        self.counted = shared.link.rx.fileno()
        self._shared = shared
        self._options = options
        self._take = take
        self._number = 0
        self._body = frames.packets[0][SHORTEST:]
        # What is there before the frame that is compared next.
        self._wiped = bytes(len(self._body))

    def prepare(self) -> None:
        self._shared.switch(self._options)

    def run(self, over: ctypes.c_int, more: bool, receipt: Receipt) -> None:
        begin = time.thread_time_ns()
        take, views = self._take, self.frames.into_views
        size = self.frames.size
        frames = batches = last_ns = 0
        number = self._number if more else 0
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
                view[SHORTEST:size] = self._wiped
        self._number = number
        receipt.frames += frames
        receipt.last_ns = last_ns or receipt.last_ns
        receipt.cpu_ns += time.thread_time_ns() - begin


def rawmmsg(side: Callable[[Link], RawSocket], options: int) -> Start:
    """rawmmsg with one of the link's sockets, which asks for `options`."""

    def start(
        shared: SharedLink, frames: Frames, _: contextlib.ExitStack
    ) -> Receiver:
        into, sock = frames.into, side(shared.link)
        sock.settimeout(WAIT_SECONDS)
        receive = sock.recvmmsg_into

        def take() -> int:
            try:
                return receive(into)
            except TimeoutError:
                return 0

        return _InPython(shared, frames, options, take)

    return start


def stdlib(
    shared: SharedLink, frames: Frames, _: contextlib.ExitStack
) -> Receiver:
    """The socket module, one packet a call, into the same memory."""
    views = frames.into_views
    sock = shared.link.rx_stdlib
    # Not settimeout(), with which it would poll before each call.
    sock.setsockopt(
        *(socket.SOL_SOCKET, socket.SO_RCVTIMEO),
        struct.pack("ll", 0, int(WAIT_SECONDS * 1e6)),
    )
    receive = sock.recv_into

    def take() -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            for view in views:
                receive(view)
                count += 1
        return count

    return _InPython(shared, frames, 0, take)
