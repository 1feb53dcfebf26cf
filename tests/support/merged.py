"""Which frames super-frames were made of, and where two ways to merge the same
frames differ."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from rawmmsg import GSO_NONE, VNET_NEEDS_CSUM, PacketBatch
from support.datagrams import (
    CHECKSUM_OFFSETS,
    HEADER_COLUMNS,
    TCP,
    columns,
    write_header,
)
from support.frames import HEADER_SIZE, LOCAL_EXPERIMENTAL
from support.random_flows import Frame

_COMPARED: Final = {*HEADER_COLUMNS} - {"header_lengths"}
"""GRO counts the payload of the first frame into the length of the headers
(net/core/gro.c: it has pulled that much into the skb's head)."""


def batch_of_frames(frames: list[Frame]) -> PacketBatch:
    """A batch that holds the frames, with offload headers."""
    batch = PacketBatch(len(frames))
    batch.extend([one.data for one in frames])
    for i, one in enumerate(frames):
        if one.is_open:
            write_header(
                batch,
                i,
                vnet_flags=VNET_NEEDS_CSUM,
                checksum_starts=one.segment.transport_offset,
                checksum_offsets=CHECKSUM_OFFSETS[one.segment.protocol],
            )
    return batch


@dataclass(frozen=True)
class Made:
    """A frame or super-frame that was made of the frames with these
    numbers."""

    numbers: tuple[int, ...]
    data: bytes
    header: dict[str, int]


@dataclass
class Recognizer:
    """Finds out which frames of a sequence a batch holds."""

    frames: list[Frame]
    made: list[Made] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._whole: dict[bytes, list[int]] = {}
        self._parts: dict[tuple[int, bytes], int] = {}
        self._missing = set(range(len(self.frames)))
        for number, one in enumerate(self.frames):
            self._whole.setdefault(one.data, []).append(number)
            self._parts[one.segment.flow, one.segment.payload] = number

    def read(self, batch: PacketBatch) -> bool:
        """Reads the batch. Returns whether all frames have been seen."""
        found = columns(batch)
        for i, view in enumerate(batch):
            data = bytes(view)
            header = {name: found[name][i] for name in _COMPARED}
            if header["gso_types"] != GSO_NONE:
                numbers = tuple(self._segments(data, header))
            elif data in self._whole:
                numbers = (self._whole[data].pop(0),)
            else:
                # It is not of the sequence: the oracle has sent it.
                ethertype = int.from_bytes(data[12:HEADER_SIZE], "big")
                assert ethertype == LOCAL_EXPERIMENTAL, (
                    f"a frame was changed: {data.hex()}"
                )
                continue
            assert self._missing.issuperset(numbers), "a frame came twice"
            self._missing.difference_update(numbers)
            self.made.append(Made(numbers, data, header))
        return not self._missing

    def _segments(self, data: bytes, header: dict[str, int]) -> Iterator[int]:
        start = header["checksum_starts"]
        flow = int.from_bytes(data[start : start + 2], "big")
        is_tcp = header["checksum_offsets"] == CHECKSUM_OFFSETS[TCP]
        at = start + (4 * (data[start + 12] >> 4) if is_tcp else 8)
        size = header["gso_sizes"]
        for begin in range(at, len(data), size):
            yield self._parts[flow, data[begin : begin + size]]


@dataclass(frozen=True)
class Pair:
    """Two frames, given by their numbers, that one side has merged, one right
    after the other, and the other side has not."""

    frames: list[Frame]
    first: int
    second: int
    by: str
    groups: dict[str, dict[int, tuple[int, ...]]]
    """For each side and frame: the frames that are merged with it."""

    @property
    def a(self) -> Frame:
        return self.frames[self.first]

    @property
    def b(self) -> Frame:
        return self.frames[self.second]

    def between(self) -> list[Frame]:
        """The frames that came between the two."""
        return self.frames[self.first + 1 : self.second]

    def before(self, side: str) -> tuple[int, ...]:
        """What the side had merged with the first one when the second
        came."""
        group = self.groups[side][self.first]
        return tuple(number for number in group if number <= self.first)

    def length(self, side: str) -> int:
        """The length that the side's super-frame has with the second one."""
        frames = [self.frames[number] for number in self.before(side)]
        headers = len(frames[0].data) - frames[0].size
        return headers + sum(one.size for one in frames) + self.b.size

    def begun(self, side: str) -> int:
        """How many super-frames and single frames the side has begun after
        that of the first one, before the second came."""
        start = self.before(side)[0]
        groups = self.groups[side]
        return sum(groups[n][0] == n for n in range(start + 1, self.second))


def differences(
    frames: list[Frame], sides: dict[str, list[Made]]
) -> Iterator[Pair]:
    """All pairs that only one of the two sides has merged."""
    groups = {
        side: {number: one.numbers for one in made for number in one.numbers}
        for side, made in sides.items()
    }
    pairs = {
        side: {
            pair
            for one in made
            for pair in zip(one.numbers, one.numbers[1:], strict=False)
        }
        for side, made in sides.items()
    }
    for side in sides:
        (other,) = sides.keys() - {side}
        for first, second in sorted(pairs[side] - pairs[other]):
            yield Pair(frames, first, second, side, groups)
