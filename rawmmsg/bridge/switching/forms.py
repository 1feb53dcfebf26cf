"""What a sink needs: frames as they are, cut into segments, or merged."""

from collections.abc import Iterator
from typing import Final

from ..._rawmmsg import PacketBatch
from ...constants import SUPER_FRAME
from ..drops import SHORTEST
from ..ports import Port

__all__ = ["Cutter", "Merger"]

# A super-frame of TCP has about 45 segments.
_SEGMENTS: Final = 64

# As for a bridge: flows that may be interleaved in a batch, and the longest
# pause after batches in which nothing could be merged.
_FLOWS: Final = 8
_LONGEST_PAUSE: Final = 15


class Cutter:
    """Cuts super-frames into segments and completes checksums, for a sink
    without offloads."""

    def __init__(self) -> None:
        self.made = 0
        """How many more frames there are after cutting than before."""
        self.refused = 0
        """Frames whose offload header does not fit them."""
        self.segments = PacketBatch(_SEGMENTS, SUPER_FRAME)
        """What cut() yields."""

    def cut(self, batch: PacketBatch) -> Iterator[PacketBatch]:
        """Yields `segments` again and again, each time with the next ones."""
        segments, count = self.segments, len(batch)
        frame = segment = 0
        while frame < count:
            before = frame
            try:
                frame, segment = batch.segment_into(segments, frame, segment)
            except ValueError:
                frame, segment = frame + 1, 0
                self.refused += 1
                continue
            self.made += len(segments) - (frame - before)
            yield segments


class Merger:
    """Merges TCP segments into super-frames, for an interface."""

    def __init__(self, sink: Port) -> None:
        self.joined = 0
        """How many fewer frames there are after merging than before."""
        self._sink = sink
        self._merged: dict[int, PacketBatch] = {}
        self._pause = self._last_pause = 0

    def merge(self, batch: PacketBatch) -> PacketBatch:
        """Returns a batch with the frames, merged if possible."""
        count = len(batch)
        if count < 2:
            return batch
        if self._pause:
            self._pause -= 1
            return batch
        merged = self._merged.get(batch.capacity)
        if merged is None:
            merged = PacketBatch(batch.capacity, SUPER_FRAME)
            self._merged[batch.capacity] = merged
        longest = self._sink.mtu + SHORTEST
        batch.merge_into(merged, flows=_FLOWS, max_length=longest, udp=False)
        if len(merged) == count:
            longer = 2 * self._last_pause + 1
            self._pause = self._last_pause = min(longer, _LONGEST_PAUSE)
            return batch
        self._last_pause = 0
        self.joined += count - len(merged)
        return merged
