"""Loops that send a batch over a veth pair and receive it back, with or
without offload headers: in C, and with rawmmsg."""

import ctypes
from typing import Final, Protocol, TypeAlias

from rawmmsg import PacketBatch, RawSocket

from ..network.super_frames import Kind, OffloadHeader, VirtioNetHeader
from ..tools import native
from .c_side import succeeded

Frame: TypeAlias = tuple[bytes, OffloadHeader | None]

# Of a batch, for the fields of OffloadHeader.
_COLUMNS: Final = (
    "vnet_flags",
    "gso_types",
    "header_lengths",
    "gso_sizes",
    "checksum_starts",
    "checksum_offsets",
)


class SuperLoop(Protocol):
    """A loop, ready for its frames."""

    def load(self, frames: list[bytes]) -> None:
        """Takes what is to be sent from now on, and wipes what was received
        before."""

    def run(self, rounds: int) -> int:
        """Sends and receives the batch so many times; how many frames came
        with the last call."""

    def received(self, index: int) -> Frame:
        """A frame of the last call, and its header."""

    def close(self) -> None: ...


class RawmmsgLoop:
    """rawmmsg."""

    def __init__(
        self, tx: RawSocket, rx: RawSocket, batch: int, kind: Kind
    ) -> None:
        self._send = tx.sendmmsg_all
        self._receive = rx.recvmmsg_into
        self._size = batch
        self._header = kind.header
        self._out = PacketBatch(batch, kind.room)
        self._into = PacketBatch(batch, kind.room)

    def load(self, frames: list[bytes]) -> None:
        out, into = self._out, self._into
        out.clear()
        out.extend(frames)
        into.clear()
        into.extend(bytes(len(frame)) for frame in frames)
        if self._header is not None:
            for name, value in zip(_COLUMNS, self._header, strict=True):
                column = getattr(out, name)
                for i in range(len(out)):
                    column[i] = value

    def run(self, rounds: int) -> int:
        out, into, size = self._out, self._into, self._size
        send, receive = self._send, self._receive
        for _ in range(rounds):
            send(out)
            done = receive(into)
            while done < size:
                done += receive(into)
        return len(into)

    def received(self, index: int) -> Frame:
        frame = bytes(self._into[index])
        if self._header is None:
            return frame, None
        columns = [getattr(self._into, name) for name in _COLUMNS]
        return frame, OffloadHeader(*(column[index] for column in columns))

    def close(self) -> None:
        """Its memory goes with it."""


class CLoop:
    """The limit: c/super_loop.c, on the same sockets."""

    def __init__(
        self, tx: RawSocket, rx: RawSocket, batch: int, kind: Kind
    ) -> None:
        library = native.library("super_loop.c")
        pointer, unsigned = ctypes.c_void_p, ctypes.c_uint
        number, size = ctypes.c_int, ctypes.c_size_t
        library.super_open.restype = pointer
        library.super_open.argtypes = (number, number, unsigned, size, number)
        library.super_frame.restype = pointer
        library.super_frame.argtypes = (pointer, number, unsigned)
        library.super_header.restype = ctypes.POINTER(VirtioNetHeader)
        library.super_header.argtypes = (pointer, number, unsigned)
        library.super_set_length.argtypes = (pointer, unsigned, size)
        library.super_get_length.restype = size
        library.super_get_length.argtypes = (pointer, unsigned)
        library.super_run.argtypes = (pointer, unsigned)
        library.super_close.argtypes = (pointer,)
        self._library = library
        self._kind = kind
        self._loop: int | None = library.super_open(
            tx.fileno(), rx.fileno(), batch, kind.room, kind.vnet_hdr
        )
        if self._loop is None:
            raise MemoryError

    def load(self, frames: list[bytes]) -> None:
        library, header = self._library, self._kind.header
        for i, frame in enumerate(frames):
            out = library.super_frame(self._loop, False, i)
            into = library.super_frame(self._loop, True, i)
            ctypes.memmove(out, frame, len(frame))
            ctypes.memset(into, 0, len(frame))
            library.super_set_length(self._loop, i, len(frame))
            if header is not None:
                at = library.super_header(self._loop, False, i)
                at[0] = VirtioNetHeader(*header)

    def run(self, rounds: int) -> int:
        count = self._library.super_run(self._loop, rounds)
        return succeeded(count, "super_loop.c")

    def received(self, index: int) -> Frame:
        library = self._library
        length = library.super_get_length(self._loop, index)
        frame = ctypes.string_at(
            library.super_frame(self._loop, True, index), length
        )
        if self._kind.header is None:
            return frame, None
        at = library.super_header(self._loop, True, index)
        fields = VirtioNetHeader._fields_
        return frame, OffloadHeader(
            *(getattr(at[0], name) for name, _ in fields)
        )

    def close(self) -> None:
        loop, self._loop = self._loop, None
        self._library.super_close(loop)
