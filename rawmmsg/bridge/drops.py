"""Frames that are received and not sent: why, and how they are marked."""

from dataclasses import dataclass, fields
from enum import IntEnum

from .._rawmmsg import TRUNCATED, PacketBatch

__all__ = [
    "SHORTEST",
    "Dropped",
    "Mark",
    "mark",
    "mark_short",
    "mark_truncated",
]

# An Ethernet header. What is shorter is not a frame, and an empty datagram
# ends a connection for some receivers (QEMU).
SHORTEST = 14


class Mark(IntEnum):
    """Values of gso_types that linux/virtio_net.h does not define, so that no
    socket sends the frame."""

    TOO_SHORT = 0xFF
    TOO_LONG = 0xFE
    DROPPED = 0xFD
    """It has been counted already."""


@dataclass(slots=True)
class Dropped:
    """Frames that were received and not sent, by reason."""

    queue_full: int = 0
    too_long: int = 0
    link_down: int = 0
    refused: int = 0
    malformed: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def mark_truncated(batch: PacketBatch) -> None:
    """Marks frames that did not fit: they are not sent on, cut. An
    administrator can allow super-frames that long (ip link, gso_max_size)."""
    flags = batch.flags
    assert flags is not None
    for i in range(len(batch)):
        if flags[i] & TRUNCATED:
            mark(batch, i, Mark.TOO_LONG)


def mark_short(batch: PacketBatch) -> None:
    """Marks datagrams that are too short for a frame."""
    lengths = batch.lengths
    for i in range(len(batch)):
        if lengths[i] < SHORTEST:
            mark(batch, i, Mark.TOO_SHORT)


def mark(batch: PacketBatch, index: int, value: Mark) -> None:
    """Marks this frame so that sending it raises ValueError."""
    if batch.gso_types is None:
        count = len(batch)
        batch.clear()  # zeroes the headers
        batch.set_count(count)
    assert batch.gso_types is not None
    batch.gso_types[index] = value
