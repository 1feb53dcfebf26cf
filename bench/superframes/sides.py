"""Loops that send a batch over a veth pair and receive it back, with or
without offload headers: in C and with rawmmsg."""

import contextlib
import ctypes
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import veth_pair

from ..lab.contender import (
    AgainError,
    GroundTruthError,
    Ready,
    Slice,
    UnavailableError,
)
from ..lab.link import PATIENCE, Counter
from ..lab.native import AUXDATA, VNET_HDR, Side
from .frames import Kind, OffloadHeader, VirtioNetHeader

Frame: TypeAlias = tuple[bytes, OffloadHeader | None]


class Place:
    """A veth pair with sockets for offload headers and one with sockets
    without: two sockets that listen on one pair would slow each other down.
    What it opens is closed with `stack`."""

    def __init__(self, stack: contextlib.ExitStack, batch: int) -> None:
        self.stack = stack
        self.batch = batch
        self._pairs = {
            vnet_hdr: self._open(vnet_hdr) for vnet_hdr in (False, True)
        }

    def _open(self, vnet_hdr: bool) -> tuple[RawSocket, RawSocket]:
        veth = self.stack.enter_context(veth_pair())
        tx = RawSocket(veth.a, protocol=0, vnet_hdr=vnet_hdr)
        rx = RawSocket(veth.b, vnet_hdr=vnet_hdr)
        for sock in (tx, rx):
            self.stack.enter_context(sock)
            sock.settimeout(PATIENCE)
        return tx, rx

    def sockets(self, kind: Kind) -> tuple[RawSocket, RawSocket]:
        """The sockets that send and receive frames of a kind. Raises
        UnavailableError if the receive buffer is too small for a batch."""
        tx, rx = self._pairs[kind.vnet_hdr]
        needed = self.batch * kind.truesize
        if rx.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < needed:
            raise UnavailableError(
                f"a receive buffer for {self.batch} {kind.name}",
                f"run as root, or sysctl -w net.core.rmem_max={needed}",
            )
        return tx, rx


class Loop(Protocol):
    """A loop, ready to run."""

    def load(self, frames: list[bytes]) -> None:
        """Takes the frames to send, and overwrites those received."""

    def run(self, times: int) -> int:
        """Sends and receives the batch so many times; returns how many frames
        the last call received."""

    def received(self, index: int) -> Frame:
        """A frame of the last call, and its header."""


class PythonLoop:
    """rawmmsg."""

    def __init__(self, place: Place, kind: Kind) -> None:
        tx, rx = place.sockets(kind)
        self._send = tx.sendmmsg_all
        self._receive = rx.recvmmsg_into
        self._size = place.batch
        self._header = kind.header
        self._out = PacketBatch(place.batch, kind.room)
        self._into = PacketBatch(place.batch, kind.room)

    def load(self, frames: list[bytes]) -> None:
        out, into = self._out, self._into
        out.clear()
        out.extend(frames)
        into.clear()
        into.extend(bytes(len(frame)) for frame in frames)
        if self._header is not None:
            for name, value in self._header._asdict().items():
                column = getattr(out, name)
                for i in range(len(out)):
                    column[i] = value

    def run(self, times: int) -> int:
        out, into, size = self._out, self._into, self._size
        send, receive = self._send, self._receive
        for _ in range(times):
            send(out)
            done = receive(into)
            while done < size:
                done += receive(into)
        return len(into)

    def received(self, index: int) -> Frame:
        frame = bytes(self._into[index])
        if self._header is None:
            return frame, None
        return frame, OffloadHeader(
            *(getattr(self._into, n)[index] for n in OffloadHeader._fields)
        )


class CLoop:
    """calls.c, on the same sockets."""

    def __init__(self, place: Place, kind: Kind) -> None:
        tx, rx = place.sockets(kind)
        self._kind = kind
        self._side = Side(
            place.stack,
            "superframes/calls.c",
            *((), None, ("", "")),
            tx=tx.fileno(),
            rx=rx.fileno(),
            options=AUXDATA | (VNET_HDR if kind.vnet_hdr else 0),
            batch=place.batch,
            room=kind.room,
        )

    def _at(self, what: str, type_: Any, received: bool, index: int) -> Any:
        address = self._side.address(what, received, index)
        return type_.from_address(address)

    def load(self, frames: list[bytes]) -> None:
        header = self._kind.header
        for i, frame in enumerate(frames):
            size = len(frame)
            bytes_of = ctypes.c_char * size
            self._at("frame", bytes_of, False, i).raw = frame
            self._at("frame", bytes_of, True, i).raw = bytes(size)
            self._at("length", ctypes.c_size_t, False, i).value = size
            if header is not None:
                into = self._at("header", VirtioNetHeader, False, i)
                ctypes.pointer(into)[0] = VirtioNetHeader(*header)

    def run(self, times: int) -> int:
        return self._side.call("run", times)

    def received(self, index: int) -> Frame:
        length = self._at("length", ctypes.c_size_t, True, index).value
        frame = self._at("frame", ctypes.c_char * length, True, index).raw
        if self._kind.header is None:
            return frame, None
        header = self._at("header", VirtioNetHeader, True, index)
        return frame, OffloadHeader(
            *(getattr(header, name) for name, _ in header._fields_)
        )


@dataclass
class Slices:
    """Runs and checks the slices of a loop."""

    loop: Loop
    kind: Kind
    batch: int
    counter: Counter
    number: int = 0

    def run(self, times: int) -> Slice:
        self.number += 1
        frames = [self.kind.frame(self.number, i) for i in range(self.batch)]
        self.loop.load(frames)
        self.counter.read()
        begin = time.perf_counter_ns()
        try:
            count = self.loop.run(times)
        except TimeoutError:
            raise GroundTruthError(
                f"{self.kind.name}: a frame did not arrive"
            ) from None
        taken = time.perf_counter_ns() - begin
        self.counter.check(times * self.batch)
        if count < self.batch:
            raise AgainError
        self._check(frames)
        return Slice(8 * self.kind.size * self.batch * times / taken, taken)

    def _check(self, frames: Sequence[bytes]) -> None:
        wanted = self.kind.header
        for i, frame in enumerate(frames):
            received, header = self.loop.received(i)
            if header is not None and wanted is not None:
                header = header._replace(header_lengths=wanted.header_lengths)
            if received != frame or header != wanted:
                raise GroundTruthError(
                    f"{self.kind.name}: frame {i} of slice {self.number}"
                    f" differs from the one sent; header {header}"
                )


def prepared(
    make: Callable[[Place, Kind], Loop], kind: Kind
) -> Callable[[Place], Ready]:
    """A loop with frames of a kind, as the runner takes it."""

    def prepare(place: Place) -> Ready:
        _, rx = place.sockets(kind)
        loop = make(place, kind)
        counter = place.stack.enter_context(
            contextlib.closing(Counter(rx.fileno()))
        )
        return Ready(Slices(loop, kind, place.batch, counter).run, place.batch)

    return prepare


LOOPS: Final = {"C": CLoop, "rawmmsg": PythonLoop}
