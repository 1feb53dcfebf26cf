"""What is changed in packets before they are sent: addresses and VLAN tags."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from .._rawmmsg import PacketBatch, _copy_frames, _FrameSorter, _set_addresses

WITHOUT_TAG: Final = 0
"""As a VLAN: the tag is taken out."""

_UNCHANGED: Final = 0xFFFE  # a choice for _FrameSorter.show()


@dataclass(frozen=True)
class Edits:
    """The new destination and source address of each packet, and its VLAN:
    1 to 4,094, or WITHOUT_TAG. None: as it was."""

    destination: bytes | None = None
    source: bytes | None = None
    vlan: int | None = None

    def __bool__(self) -> bool:
        return self != Edits()


class Editor:
    """Changes packets in copies of them.

    keep  every batch has memory of its own; otherwise the next one reuses the
          memory of this one
    """

    def __init__(self, edits: Edits, *, keep: bool) -> None:
        self._edits = edits
        self._keep = keep
        self._copies = PacketBatch(1, 1)  # until the first batch is known
        self._sorter = _FrameSorter(self._copies)

    def edit(self, batch: PacketBatch, sizes: Sequence[int]) -> PacketBatch:
        """Returns a batch with the changed packets. `sizes` are their
        lengths."""
        self._make_room(len(sizes), max(sizes))
        copies, edits = self._copies, self._edits
        copies.clear()
        end = _copy_frames(batch, 0, len(sizes), copies)
        assert end == len(sizes), "packets are missing"
        if edits.destination is not None or edits.source is not None:
            _set_addresses(copies, edits.destination, edits.source)
        if edits.vlan is not None:
            keys = self._sorter.sort()
            copies = self._sorter.show(array("H", [edits.vlan]) * len(keys))
        return _packed(copies) if self._keep else copies

    def _make_room(self, count: int, longest: int) -> None:
        capacity, size = self._copies.capacity, self._copies.frame_size or 0
        if count > capacity or longest > size:
            self._copies = PacketBatch(
                max(count, capacity), max(longest, size)
            )
            self._sorter = _FrameSorter(self._copies)


def select(batch: PacketBatch, left_out: Sequence[int]) -> PacketBatch:
    """Returns a view of the batch without some of its frames, which must all
    have an Ethernet header."""
    sorter = _FrameSorter(batch)
    keys = sorter.sort(left_out)
    view = sorter.show(array("H", [_UNCHANGED]) * len(keys))
    assert len(view) == len(batch) - len(left_out), "packets are missing"
    return view


def _packed(batch: PacketBatch) -> PacketBatch:
    """Returns a batch with the same packets, one behind the other in memory.
    In rows, a short packet would need as much memory as the longest."""
    lengths = batch.lengths[: len(batch)]
    *offsets, _ = accumulate(lengths, initial=0)
    return PacketBatch(
        buffer=b"".join(batch),
        offsets=array("q", offsets),
        lengths=array("I", lengths),
    )
