"""Frames that wait for a sink, copied."""

from collections import deque
from typing import Final

from ..._rawmmsg import PacketBatch, _copy_frames
from ...constants import SUPER_FRAME

__all__ = ["MOST_BYTES", "MOST_FRAMES", "Queue"]

MOST_FRAMES: Final = 256
MOST_BYTES: Final = 4 << 20

# Frames of one batch. A batch that was not used yet occupies no memory.
_ROWS: Final = 64


class Queue:
    """Frames in batches, in order. It is full when it holds `most_frames`
    frames, or `most_bytes` bytes."""

    def __init__(
        self, most_frames: int = MOST_FRAMES, most_bytes: int = MOST_BYTES
    ) -> None:
        self.most_frames = most_frames
        self.most_bytes = most_bytes
        self._batches: deque[PacketBatch] = deque()
        self._spare: list[PacketBatch] = []
        self._frames = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._frames

    def add(
        self, batch: PacketBatch, start: int, stop: int, others: int
    ) -> int:
        """Copies the frames from `start` to before `stop`. `others`: frames
        that do not wait here any more, but count too. Returns how many frames
        did not fit."""
        room = min(self.most_frames - self._frames - others, stop - start)
        end = start + self._count_fitting(batch, start, room)
        at = start
        while at < end:
            target = self._last()
            copied = _copy_frames(batch, at, end, target) - at
            if not copied:
                break  # user code has written a length beyond its frame
            at += copied
        self._frames += at - start
        self._bytes += sum(batch.lengths[start:at])
        return stop - at

    def _count_fitting(self, batch: PacketBatch, start: int, room: int) -> int:
        """Returns how many frames from `start` on may be added: at most
        `room`."""
        size, count = self._bytes, 0
        for length in batch.lengths[start : len(batch)][: max(room, 0)]:
            size += length
            if size > self.most_bytes:
                break
            count += 1
        return count

    def _last(self) -> PacketBatch:
        """Returns the batch for the next frame."""
        if not self._batches or len(self._batches[-1]) == _ROWS:
            batch = (
                self._spare.pop()
                if self._spare
                else PacketBatch(_ROWS, SUPER_FRAME)
            )
            self._batches.append(batch)
        return self._batches[-1]

    def take(self) -> PacketBatch | None:
        """Takes the first batch out, or returns None if there is none."""
        if not self._batches:
            return None
        batch = self._batches.popleft()
        self._frames -= len(batch)
        self._bytes -= sum(batch.lengths[: len(batch)])
        return batch

    def give_back(self, batch: PacketBatch) -> None:
        """The frames of this batch, which was taken out, are not needed any
        more."""
        batch.clear()
        if not self._spare:
            self._spare.append(batch)

    def clear(self) -> int:
        """Drops all frames. Returns how many."""
        frames = self._frames
        self._batches.clear()
        self._frames = self._bytes = 0
        return frames
