"""Frames of a load, merged into super-frames in another batch."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from .. import PacketBatch
from .._super_frames import frames_in
from .loads import Load, offload_headers, write_offload_headers

_ROWS: Final = 64  # super-frames that are made at a time
_LONGEST: Final = 65_535  # bytes of a super-frame


class Merged(NamedTuple):
    """A batch in which frames of a load are merged. Row i has the frames from
    starts[i] up to starts[i + 1]."""

    batch: PacketBatch
    starts: Sequence[int]


class Merger:
    """Merges the frames of loads.

    max_length  longer frames are not merged
    udp         whether datagrams of UDP are merged, and not only TCP
    """

    def __init__(self) -> None:
        self.max_length = 0
        self.udp = True
        self._load: Load | None = None  # for which there is room
        self._scratch = PacketBatch(1, 1)  # until the first load is known

    def merge(self, load: Load, first: int, last: int) -> Merged:
        """Merges the frames from `first` up to `last`, or fewer, in memory
        that is used again."""
        source, target = load.batch, self._room_for(load)
        end = source.merge_into(
            target, first, last, max_length=self.max_length, udp=self.udp
        )
        starts = _starts(source, target, first)
        assert starts[-1] == end, "frames are missing"
        return Merged(target, starts)

    def merge_all(self, load: Load) -> Merged:
        """Merges all frames of the load, in memory of their own."""
        frames: list[bytes] = []
        headers: dict[str, list[int]] = {}
        starts = [0]
        while starts[-1] < load.frames:
            part = self.merge(load, starts[-1], load.frames)
            frames += part.batch.tolist()
            starts += part.starts[1:]
            for name, column in offload_headers(part.batch).items():
                headers.setdefault(name, []).extend(column)
        batch = PacketBatch(buffers=[bytearray(len(one)) for one in frames])
        batch.extend(frames)
        write_offload_headers(batch, headers)
        return Merged(batch, starts)

    def _room_for(self, load: Load) -> PacketBatch:
        """Returns a batch that holds super-frames, and every frame of the
        load."""
        if load is not self._load:
            self._load = load
            source = load.batch
            longest = source.frame_size or max(source.lengths[: load.frames])
            if longest > (self._scratch.frame_size or 0):
                self._scratch = PacketBatch(_ROWS, max(_LONGEST, longest))
        return self._scratch


def _starts(source: PacketBatch, target: PacketBatch, first: int) -> list[int]:
    """Returns the first frame of each row, and what follows the last row."""
    given = getattr(source, "gso_types", None)
    starts = [first]
    for frames in frames_in(target, 0, len(target)):
        # A super-frame that the user has given is one frame.
        first += 1 if given and given[first] else frames
        starts.append(first)
    return starts
