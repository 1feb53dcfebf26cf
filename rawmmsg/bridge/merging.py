"""Merges frames into super-frames before they are sent: one system call and
one pass through the kernel's stack then serve up to 64 of them.

Only frames of one received batch are merged, so no frame waits for another.
The kernel, or the network card, cuts a super-frame into exactly the frames
that it was made of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .._rawmmsg import PacketBatch
from .._super_frames import frames_in
from ..constants import GSO_UDP_L4, SUPER_FRAME
from .drops import SHORTEST, Mark, Marked, mark
from .outgoing import Unchanged
from .ports import Port

__all__ = ["Merged", "Merging"]

_MARKS: Final = frozenset(map(int, Mark))

# How many flows may be interleaved in a batch.
_FLOWS: Final = 8

# If no two frames of a batch could be merged, the next batch is sent without
# trying, then 3 batches after the next failure, 7, and at most this many. So
# traffic that cannot be merged is not slowed down.
_LONGEST_PAUSE: Final = 15


@dataclass(frozen=True)
class Merging:
    """What to merge: TCP, and UDP if `udp`. `report` is called with a line for
    the user."""

    udp: bool
    report: Callable[[str], object]


class Merged(Unchanged):
    """Merges the frames of each batch. A frame that cannot be merged is sent
    as it is."""

    def __init__(self, sink: Port, merging: Merging) -> None:
        super().__init__(sink)
        self._sink = sink
        self._udp = merging.udp
        self._report = merging.report
        self._last_pause = self._pause = 0
        # Each batch that is loaded has a batch for its merged frames.
        self._merged: dict[PacketBatch, PacketBatch] = {}
        self._sources: dict[PacketBatch, PacketBatch] = {}

    def load(self, batch: PacketBatch) -> None:
        count = len(batch)
        if count > 1:
            if self._pause:
                self._pause -= 1
            elif self._can_merge(batch):
                return
        # As _continue_with(). This is called for each batch of a few frames,
        # where a call more can be felt.
        self._batch = batch
        self._at = 0
        self._count = count

    def _can_merge(self, batch: PacketBatch) -> bool:
        """Merges the frames if there are any that can be merged, and continues
        with the result."""
        merged = self._merged.get(batch)
        if merged is None:
            merged = self._make_merged(batch)
        # The kernel does not check the length of segments. A frame that is
        # too long stays as it is, so that the kernel refuses it.
        longest = self._sink.mtu + SHORTEST
        batch.merge_into(
            merged, flows=_FLOWS, max_length=longest, udp=self._udp
        )
        if len(merged) == len(batch):
            longer = 2 * self._last_pause + 1
            self._pause = self._last_pause = min(longer, _LONGEST_PAUSE)
            return False
        self._last_pause = 0
        self._continue_with(merged)
        return True

    def _make_merged(self, batch: PacketBatch) -> PacketBatch:
        """Makes the batch for the merged frames of this one."""
        merged = PacketBatch(batch.capacity, SUPER_FRAME)
        self._merged[batch] = merged
        self._sources[merged] = batch
        return merged

    def needs(self, batch: PacketBatch) -> bool:
        return super().needs(batch) or super().needs(
            self._merged.get(batch, batch)
        )

    def send(self) -> bool:
        taken = self._sendmmsg(self._batch, self._at)
        if self._batch in self._sources:
            self.joined += self._frames_in_next(taken) - taken
        self._at += taken
        return self._at == self._count and self._is_last_batch()

    def _frames_in_next(self, count: int) -> int:
        """Returns how many received frames the next `count` frames are made
        of."""
        if count == self._count:
            return len(self._sources[self._batch])
        return sum(frames_in(self._batch, self._at, self._at + count))

    def _frames_in(self, i: int) -> int:
        if self._batch not in self._sources:
            return 1
        return frames_in(self._batch, i, i + 1)[0]

    def unmerge(self) -> bool:
        """UDP super-frames came with Linux 6.2. An older kernel refuses the
        first one, and each that was made by then."""
        if self._batch not in self._sources or self.mark() != GSO_UDP_L4:
            return False
        if self._udp:
            self._udp = False
            self._report(
                f"{self._sink.name}: the kernel does not take UDP super-frames"
                " (Linux before 6.2); UDP is not merged any more"
            )
        # If frames are passed over, they are not sent either.
        first, start = self._first if self.passed else (self._batch, self._at)
        is_first = first is self._batch
        self._continue_with(self._cut(start if is_first else 0))
        if is_first:
            self.passed = self._frames_passed = 0
        else:
            self.go_back()
        return True

    def _cut(self, start: int) -> PacketBatch:
        """Cuts the super-frames from index `start` on into the frames that
        they were made of. Returns the batch from which they came. It has room
        for all of them, and the frames in it are not needed any more."""
        merged, frames = self._batch, 0
        marked: list[Marked] = []
        for i in range(start, len(merged)):
            value = merged.gso_types[i]
            if value in _MARKS:
                marked.append((frames, Mark(value)))
                merged.gso_types[i] = merged.vnet_flags[i] = 0
                frames += 1
            else:
                frames += self._frames_in(i)
        source = self._sources[merged]
        merged.segment_into(source, start)
        mark(source, marked)
        return source
