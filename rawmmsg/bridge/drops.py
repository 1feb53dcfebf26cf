"""Frames that are received but not sent: the reasons, and the marks."""

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

# The length of an Ethernet header. A shorter message is not a frame, and some
# receivers (QEMU) take an empty datagram for the end of the connection.
SHORTEST = 14


class Mark(IntEnum):
    """Values of gso_types that linux/virtio_net.h does not define, so that no
    socket sends the frame."""

    TOO_SHORT = 0xFF
    TOO_LONG = 0xFE
    FROM_STRANGER = 0xFD
    DROPPED = 0xFC
    """The frame has been counted already."""


Marked = tuple[int, Mark]
"""The index of a frame and its mark."""


@dataclass(slots=True)
class Dropped:
    """How many frames were received but not sent, by reason."""

    queue_full: int = 0
    too_long: int = 0
    link_down: int = 0
    refused: int = 0
    malformed: int = 0
    from_strangers: int = 0

    def __add__(self, other: "Dropped") -> "Dropped":
        names = (field.name for field in fields(self))
        return Dropped(
            *(getattr(self, name) + getattr(other, name) for name in names)
        )

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def truncated(batch: PacketBatch) -> list[Marked]:
    """Finds frames that were cut because they are longer than a row of the
    batch. An administrator can allow such super-frames (ip link,
    gso_max_size)."""
    return _flagged(batch, TRUNCATED, Mark.TOO_LONG)


def short(batch: PacketBatch) -> list[Marked]:
    """Finds datagrams that are shorter than an Ethernet header."""
    lengths = batch.lengths
    return [
        (i, Mark.TOO_SHORT) for i in range(len(batch)) if lengths[i] < SHORTEST
    ]


def foreign(
    batch: PacketBatch, is_peer: Callable[[object], bool]
) -> list[Marked]:
    """Finds datagrams whose sender is not the peer."""
    return [
        (i, value)
        for i, value in _flagged(batch, FOREIGN, Mark.FROM_STRANGER)
        if not is_peer(batch.address(i))
    ]


def _flagged(batch: PacketBatch, flag: int, value: Mark) -> list[Marked]:
    flags = batch.flags
    return [(i, value) for i in range(len(batch)) if flags[i] & flag]


def mark(batch: PacketBatch, marked: Iterable[Marked]) -> None:
    """Marks these frames so that sending them raises ValueError. If the batch
    had no offload headers, its other columns are lost."""
    if not hasattr(batch, "gso_types"):
        count = len(batch)
        batch.clear()  # zeroes the headers
        batch.set_count(count)
    for index, value in marked:
        batch.gso_types[index] = value
