"""Frames that are received and not sent: why, and how they are marked."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from enum import IntEnum

from .._rawmmsg import PacketBatch
from ..constants import FOREIGN, TRUNCATED

__all__ = [
    "SHORTEST",
    "Dropped",
    "Mark",
    "Marked",
    "foreign",
    "mark",
    "short",
    "truncated",
]

# An Ethernet header. What is shorter is not a frame, and an empty datagram
# ends a connection for some receivers (QEMU).
SHORTEST = 14


class Mark(IntEnum):
    """Values of gso_types that linux/virtio_net.h does not define, so that no
    socket sends the frame."""

    TOO_SHORT = 0xFF
    TOO_LONG = 0xFE
    FROM_STRANGER = 0xFD
    DROPPED = 0xFC
    """It has been counted already."""


Marked = tuple[int, Mark]
"""The index of a frame, and its mark."""


@dataclass(slots=True)
class Dropped:
    """Frames that were received and not sent, by reason."""

    queue_full: int = 0
    too_long: int = 0
    link_down: int = 0
    refused: int = 0
    malformed: int = 0
    from_strangers: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def truncated(batch: PacketBatch) -> list[Marked]:
    """Frames that did not fit: they are not sent on, cut. An administrator can
    allow super-frames that long (ip link, gso_max_size)."""
    return _flagged(batch, TRUNCATED, Mark.TOO_LONG)


def short(batch: PacketBatch) -> list[Marked]:
    """Datagrams that are too short for a frame."""
    lengths = batch.lengths
    return [
        (i, Mark.TOO_SHORT) for i in range(len(batch)) if lengths[i] < SHORTEST
    ]


def foreign(
    batch: PacketBatch, is_peer: Callable[[object], bool]
) -> list[Marked]:
    """Datagrams of others than the peer."""
    return [
        (i, value)
        for i, value in _flagged(batch, FOREIGN, Mark.FROM_STRANGER)
        if not is_peer(batch.address(i))
    ]


def _flagged(batch: PacketBatch, flag: int, value: Mark) -> list[Marked]:
    flags = batch.flags
    return [(i, value) for i in range(len(batch)) if flags[i] & flag]


def mark(batch: PacketBatch, marked: Iterable[Marked]) -> None:
    """Marks these frames so that sending them raises ValueError. Afterwards
    the batch may have no other columns."""
    if not hasattr(batch, "gso_types"):
        count = len(batch)
        batch.clear()  # zeroes the headers
        batch.set_count(count)
    for index, value in marked:
        batch.gso_types[index] = value
