"""Loops that send a batch over a veth pair and receive it back, with or
without offload headers: in C and with rawmmsg."""

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from rawmmsg import RawSocket

from ..lab.contender import GroundTruthError, Ready, Slice
from ..lab.link import AUXDATA, PATIENCE, Counter, Ends, Frames, require_room
from ..lab.native import VNET_HDR, Side
from ..loop.sides import Loop
from .frames import VIRTIO_NET_HDR, Kind, OffloadHeader


class Place(contextlib.ExitStack):
    """A veth pair with sockets for offload headers and one with sockets
    without: two sockets that listen on one pair would slow each other down.
    A context manager."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self._pairs = {}
        for vnet_hdr in (False, True):
            ends = self.enter_context(Ends(vnet_hdr=vnet_hdr))
            rx = self.enter_context(RawSocket(ends.veth.b, vnet_hdr=vnet_hdr))
            rx.settimeout(PATIENCE)
            self._pairs[vnet_hdr] = ends.tx, rx

    def sockets(self, kind: Kind) -> tuple[RawSocket, RawSocket]:
        """The sockets that send and receive frames of a kind. Raises
        UnavailableError if the receive buffer is too small for a batch."""
        tx, rx = self._pairs[kind.vnet_hdr]
        require_room(
            *(rx, self.batch * kind.truesize),
            f"a receive buffer for {self.batch} {kind.name}",
        )
        return tx, rx


class PythonLoop(Loop):
    """rawmmsg: a loop that checks offload headers, too."""

    def __init__(self, place: Place, kind: Kind) -> None:
        tx, rx = place.sockets(kind)
        super().__init__(
            Frames(place.batch, kind.size, room=kind.room, make=kind.frame),
            place.enter_context(Counter(rx.fileno())),
            self._write_headers,
        )
        self.kind = kind
        self._send = tx.sendmmsg_all
        self._receive = rx.recvmmsg_into

    def _write_headers(self) -> None:
        """Writes the headers of the frames to send."""
        if self.kind.header is not None:
            for i in range(self.frames.batch):
                self.write_header(i, self.kind.header)

    def write_header(self, index: int, header: OffloadHeader) -> None:
        for name, value in header._asdict().items():
            getattr(self.frames.out, name)[index] = value

    def read_header(self, index: int) -> OffloadHeader:
        into = self.frames.into
        return OffloadHeader(
            *(getattr(into, name)[index] for name in OffloadHeader._fields)
        )

    def run(self, times: int) -> None:
        out, into = self.frames.out, self.frames.into
        send, receive, size = self._send, self._receive, self.frames.batch
        for _ in range(times):
            send(out)
            done = receive(into)
            while done < size:
                done += receive(into)

    def prove(self) -> Sequence[int]:
        lengths = self.lengths()
        wanted = self.kind.header
        for i in range(len(lengths) if wanted is not None else 0):
            header = self.read_header(i)
            assert wanted is not None
            # The kernel makes this hint anew.
            header = header._replace(header_lengths=wanted.header_lengths)
            if header != wanted:
                raise GroundTruthError(f"frame {i} has the header {header}")
        return lengths

    def lengths(self) -> Sequence[int]:
        """Of the frames that the last call received."""
        into = self.frames.into
        return into.lengths[: len(into)]

    def slice(self, times: int) -> Slice:
        """Gbit/s."""
        try:
            ns = self.time(times)
        except TimeoutError:
            raise GroundTruthError("a frame did not arrive") from None
        frames = self.frames
        return Slice(8 * frames.size * frames.batch * times / ns, ns)


class CLoop(PythonLoop):
    """C, on the same sockets and memory."""

    def __init__(self, place: Place, kind: Kind) -> None:
        super().__init__(place, kind)
        tx, rx = (sock.fileno() for sock in place.sockets(kind))
        options = AUXDATA | (VNET_HDR if kind.vnet_hdr else 0)
        setup = ("superframes/calls.c", ("", ""), self.frames)
        self._side = Side(place, *setup, tx=tx, rx=rx, options=options)
        self._lengths = (ctypes.c_uint32 * place.batch)()

    def _header(self, received: bool, index: int) -> Any:
        address = self._side.address("header", received, index)
        return (ctypes.c_char * VIRTIO_NET_HDR.size).from_address(address)

    def write_header(self, index: int, header: OffloadHeader) -> None:
        VIRTIO_NET_HDR.pack_into(self._header(False, index), 0, *header)

    def read_header(self, index: int) -> OffloadHeader:
        header = self._header(True, index)
        return OffloadHeader(*VIRTIO_NET_HDR.unpack(header))

    def run(self, times: int) -> None:
        self._side.call("run", times, None)

    def lengths(self) -> Sequence[int]:
        count = self._side.call("prove", self._lengths)
        return self._lengths[:count]


def prepared(
    make: Callable[[Place, Kind], PythonLoop], kind: Kind
) -> Callable[[Place], Ready]:
    """Makes a loop with frames of a kind ready for the runner."""
    return lambda place: Ready(make(place, kind).slice, place.batch)
