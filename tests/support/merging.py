"""Flows whose frames can be merged, and what arrives of them."""

from dataclasses import replace
from typing import Final, Self

import pytest

from rawmmsg import (
    SUPER_FRAME,
    PacketBatch,
    RawSocket,
)
from support import WAIT
from support.datagrams import UDP, Datagram
from support.flows import held
from support.pacing import arrived

UDP4: Final = Datagram(protocol=UDP)
UDP6: Final = Datagram(protocol=UDP, version=6)
HEADERS: Final = UDP4.header_size


def flow(first: Datagram, count: int, size: int = 22) -> list[bytes]:
    """Consecutive frames of a flow, with `size` bytes of payload each."""
    return [
        replace(
            first,
            payload=bytes([i % 256]) * size,
            ident=(first.ident + i) % 2**16,
            sequence=(first.sequence + i * size) % 2**32,
        ).build()
        for i in range(count)
    ]


class Listener:
    """What arrives at an interface: frames, and how many each piece held. It
    is little, because the receive buffer of a plain user is small."""

    def __init__(self, interface: str) -> None:
        self._sock = RawSocket(interface, vnet_hdr=True, ignore_outgoing=True)
        self.frames: list[bytes] = []
        self.pieces: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def wait_for(self, count: int) -> None:
        """Until `count` frames are there, and no more."""
        self._sock.settimeout(WAIT)
        batch, segments = PacketBatch(8, SUPER_FRAME), PacketBatch(64)
        while len(self.frames) < count:
            self._sock.recvmmsg_into(batch)
            self.pieces += [held(batch, i) for i in range(len(batch))]
            at = 0, 0
            while at[0] < len(batch):
                at = batch.segment_into(segments, *at)
                self.frames += segments.tolist()
        self._sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            self._sock.recvmmsg_into(batch)


class Counted:
    """Counts the frames with 22 bytes of payload that arrive at an interface
    from now on. The headers of a super-frame arrive only once."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._before = arrived(interface)

    @property
    def frames(self) -> int:
        pieces, size = (
            now - before
            for now, before in zip(
                arrived(self._interface), self._before, strict=True
            )
        )
        payload = size - HEADERS * pieces
        assert payload % 22 == 0, "not only frames of the test have arrived"
        return payload // 22
