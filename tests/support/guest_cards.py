"""The card of a guest of the tests' own: its rings in C, and packet sockets
that exchange frames with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from rawmmsg import (
    GSO_NONE,
    SUPER_FRAME,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg._rawmmsg import _GuestRings
from rawmmsg.vhost import Feature
from support.calls import eventually
from support.datagrams import CHECKSUM_OFFSETS, Datagram
from support.guest_driver import NEGOTIATED, NOTHING, Guest, OffloadHeader
from support.guest_driver import Received as Received
from support.guest_links import RingsLink
from support.guest_memory import GuestMemory

# What guests negotiate: Linux as it is, Linux with an old device, drivers with
# headers of 10 bytes, and with the three other combinations.
NEGOTIATIONS: Final = {
    "all": NEGOTIATED,
    "without mergeable buffers": NEGOTIATED & ~Feature.MRG_RXBUF,
    "without VERSION_1": NEGOTIATED & ~Feature.VERSION_1,
    "10-byte headers": NEGOTIATED & ~(Feature.VERSION_1 | Feature.MRG_RXBUF),
    "mergeable buffers only": Feature.MRG_RXBUF,
    "nothing": NOTHING,
}


@dataclass(frozen=True)
class Card:
    guest: Guest
    rings: _GuestRings
    link: RingsLink

    def send(self, sock: RawSocket) -> int:
        """Sends all that the guest has. Returns how many frames."""
        total = 0
        while sent := self.rings.send(sock):
            total += sent
        return total

    def receive(self, sock: RawSocket) -> int:
        """Receives one batch; 0 if nothing waits or the ring is full."""
        try:
            return self.rings.receive(sock)
        except BlockingIOError:
            return 0

    def give(self, sock: RawSocket, count: int) -> list[Received]:
        """Waits until the guest was given so many frames, and no others. Makes
        their buffers available again."""
        frames: list[Received] = []

        def is_done() -> bool:
            self.receive(sock)
            frames.extend(self.guest.received())
            return len(frames) >= count

        eventually(is_done, f"not all of {count} frames reach the guest")
        assert len(frames) == count
        return frames

    def until_queued(self, sock: RawSocket, count: int) -> None:
        """Waits until the rings have taken so many frames of the socket, as
        the ring is full."""
        taken = 0

        def is_done() -> bool:
            nonlocal taken
            taken += self.receive(sock)
            return taken >= count

        eventually(is_done, f"{taken} of {count} frames were received")

    def give_once(self, sock: RawSocket, frames: list[bytes]) -> None:
        """Waits until the guest has these frames. Their buffers stay with the
        guest."""
        self.until_queued(sock, len(frames))
        got = self.guest.received(again=False)
        assert [one.frame for one in got] == frames

    @property
    def counted(self) -> dict[str, int]:
        """The counters of frames and batches that are not 0."""
        return {
            name: count
            for name, count in self.rings.statistics().items()
            if count and not name.endswith("_bytes")
        }

    def count(self, name: str) -> int:
        return self.rings.statistics()[name]


@contextmanager
def card(
    features: Feature = NEGOTIATED,
    *,
    batch: int = 64,
    filter: bytes | None = None,
    memory: Callable[[], GuestMemory] = GuestMemory,
    **options: Any,
) -> Iterator[Card]:
    """A card whose rings run. At the end, asserts that nothing was written
    where it must not be. `options`: of Guest."""
    with memory() as made:
        guest = Guest(made, features, **options)
        rings = _GuestRings(batch, filter)
        with RingsLink(rings, guest) as link:
            yield Card(guest, rings, link)
        made.check()


def offload_header(datagram: Datagram, gso_size: int = 0) -> OffloadHeader:
    """The header with which the datagram is sent whose checksum is open; as a
    super-frame if gso_size is given."""
    return OffloadHeader(
        flags=VNET_NEEDS_CSUM,
        gso_type=datagram.gso_type if gso_size else GSO_NONE,
        header_length=datagram.header_size if gso_size else 0,
        gso_size=gso_size,
        checksum_start=datagram.transport_offset,
        checksum_offset=CHECKSUM_OFFSETS[datagram.protocol],
    )


def header_of(batch: PacketBatch, i: int) -> OffloadHeader:
    return OffloadHeader(
        batch.vnet_flags[i],
        batch.gso_types[i],
        batch.header_lengths[i],
        batch.gso_sizes[i],
        batch.checksum_starts[i],
        batch.checksum_offsets[i],
    )


def write_header_of(batch: PacketBatch, i: int, header: OffloadHeader) -> None:
    batch.vnet_flags[i] = header.flags
    batch.gso_types[i] = header.gso_type
    batch.header_lengths[i] = header.header_length
    batch.gso_sizes[i] = header.gso_size
    batch.checksum_starts[i] = header.checksum_start
    batch.checksum_offsets[i] = header.checksum_offset


def same_offload(got: OffloadHeader, wanted: OffloadHeader) -> bool:
    """Whether both ask for the same work. The length of the headers is only a
    hint."""
    fields = ("gso_type", "gso_size", "checksum_start", "checksum_offset")
    return got.flags & VNET_NEEDS_CSUM == wanted.flags & VNET_NEEDS_CSUM and (
        all(getattr(got, name) == getattr(wanted, name) for name in fields)
    )


def arrived(sock: RawSocket, count: int) -> list[tuple[OffloadHeader, bytes]]:
    """Waits for so many frames at a socket with offload headers, and no
    others."""
    sock.setblocking(False)
    batch = PacketBatch(64, SUPER_FRAME)
    frames: list[tuple[OffloadHeader, bytes]] = []

    def is_done() -> bool:
        try:
            n = sock.recvmmsg_into(batch)
        except BlockingIOError:
            return len(frames) >= count
        frames.extend((header_of(batch, i), bytes(batch[i])) for i in range(n))
        return False

    eventually(is_done, f"not all of {count} frames arrive")
    assert len(frames) == count
    return frames


def bytes_arrived(sock: RawSocket, count: int) -> list[bytes]:
    return [frame for _, frame in arrived(sock, count)]
