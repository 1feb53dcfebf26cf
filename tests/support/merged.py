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
from support.flows import Frame
from support.frames import HEADER_SIZE, LOCAL_EXPERIMENTAL

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
    """Two frames that one side has merged, one right after the other, and the
    other side has not. `before` are the numbers of those that each side has
    merged before the second, the first of the two included."""

    frames: list[Frame]
    first: int
    second: int
    by: str
    before: dict[str, tuple[int, ...]]
    openings: dict[str, int]
    """How many super-frames and single frames each side has begun between."""

    @property
    def a(self) -> Frame:
        return self.frames[self.first]

    @property
    def b(self) -> Frame:
        return self.frames[self.second]

    def between(self) -> list[Frame]:
        """The frames that came between the two."""
        return self.frames[self.first + 1 : self.second]

    def length(self, side: str) -> int:
        """The length of the side's super-frame with the second."""
        frames = [self.frames[number] for number in self.before[side]]
        headers = len(frames[0].data) - frames[0].size
        return headers + sum(one.size for one in frames) + self.b.size


def differences(
    frames: list[Frame], sides: dict[str, list[Made]]
) -> Iterator[Pair]:
    """All pairs that only one of the two sides has merged."""
    groups = {
        side: {number: one.numbers for one in made for number in one.numbers}
        for side, made in sides.items()
    }
    joined = {
        side: {
            pair
            for one in made
            for pair in zip(one.numbers, one.numbers[1:], strict=False)
        }
        for side, made in sides.items()
    }
    for side in sides:
        (other,) = sides.keys() - {side}
        for first, second in sorted(joined[side] - joined[other]):
            yield Pair(
                frames,
                first,
                second,
                side,
                {
                    name: tuple(n for n in group[first] if n <= first)
                    for name, group in groups.items()
                },
                {
                    name: len(
                        {group[n][0] for n in range(second)}
                        & {*range(group[first][0] + 1, second)}
                    )
                    for name, group in groups.items()
                },
            )
