"""Packets laid out in batches that are ready to send."""

import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, NamedTuple

from .. import PacketBatch
from .pace import Pace

MOST_FRAMES: Final = 1024
"""Frames of a load: as many as one system call takes."""

MOST_BYTES: Final = 1 << 20
"""Once a load has this many bytes, no further frame is added to it."""

_OFFLOAD_COLUMNS: Final = (
    *("vnet_flags", "gso_types", "header_lengths", "gso_sizes"),
    *("checksum_starts", "checksum_offsets"),
)


class Source(NamedTuple):
    """The packets of a user, before they are built.

    build    returns the bytes of an item, which the user may then change
    streams  the items are sent while `items` makes more of them; otherwise all
             of them are there
    """

    items: Iterable[Any]
    build: Callable[[Any], bytes]
    streams: bool


@dataclass(frozen=True, eq=False)
class Load:
    """A batch ready to send: how many bytes it has in all, and the position
    of each frame and of what follows the last, in rising order."""

    batch: PacketBatch
    size: int
    positions: Sequence[float]

    @property
    def frames(self) -> int:
        return len(self.positions) - 1

    def repeated(self, times: int) -> "Load":
        """Returns a load that holds the frames of this one `times` times."""
        frames = self.batch.tolist() * times
        *starts, end = self.positions
        positions = [i * end + start for i in range(times) for start in starts]
        batch = PacketBatch(len(frames), max(1, *map(len, frames)))
        batch.extend(frames)
        headers = offload_headers(self.batch)
        write_offload_headers(
            batch, {name: column * times for name, column in headers.items()}
        )
        return Load(batch, self.size * times, [*positions, times * end])


def offload_headers(batch: PacketBatch) -> dict[str, list[int]]:
    """Returns the columns of the offload headers; none if the batch holds no
    such headers."""
    count = len(batch)
    return {
        name: column[:count].tolist()
        for name in _OFFLOAD_COLUMNS
        if (column := getattr(batch, name, None)) is not None
    }


def write_offload_headers(
    batch: PacketBatch, headers: dict[str, list[int]]
) -> None:
    for name, values in headers.items():
        column = getattr(batch, name)
        column[: len(values)] = array(column.format, values)


def whole_batch(batch: PacketBatch, pace: Pace) -> list[Load]:
    """The user's own batch, which is sent from its own memory; no load if it
    is empty."""
    sizes = batch.lengths[: len(batch)].tolist()
    if not sizes:
        return []
    return [Load(batch, sum(sizes), pace.place(sizes, (), 0.0))]


def loads(source: Source, pace: Pace, seconds: float) -> Iterator[Load]:
    """Yields the packets in loads. Each load has the packets that `source`
    gives within `seconds`. An error of `source` is raised after the packets
    before it.

    If `seconds` is finite, the next load reuses the memory of this one.
    """
    items = iter(source.items)
    batch: PacketBatch | None = None
    position = 0.0
    failure: Exception | None = None
    while failure is None:
        frames: list[bytes] = []
        times: list[float] = []
        try:
            _gather(items, source.build, pace.time_of, seconds, frames, times)
        except Exception as error:
            failure = error
        if not frames:
            break
        sizes = list(map(len, frames))
        positions = pace.place(sizes, times, position)
        position = positions[-1]
        batch = fill(batch if seconds < math.inf else None, frames)
        yield Load(batch, sum(sizes), positions)
    if failure is not None:
        raise failure


def _gather(
    items: Iterator[Any],
    build: Callable[[Any], bytes],
    time_of: Callable[[Any], float] | None,
    seconds: float,
    frames: list[bytes],
    times: list[float],
) -> None:
    """Appends the frames of one load, and their times if the pace needs
    them."""
    until = time.monotonic() + seconds
    size = 0
    for item in items:
        frame = build(item)
        if time_of is not None:
            times.append(time_of(item))
        frames.append(frame)
        size += len(frame)
        if (
            len(frames) == MOST_FRAMES
            or size >= MOST_BYTES
            or time.monotonic() >= until
        ):
            return


def fill(batch: PacketBatch | None, frames: list[bytes]) -> PacketBatch:
    """Returns a batch of these frames: this one, or a new one if it is too
    small."""
    longest = max(1, *map(len, frames))
    if (
        batch is None
        or len(frames) > batch.capacity
        or longest > (batch.frame_size or 0)
    ):
        batch = PacketBatch(len(frames), longest)
    batch.clear()
    batch.extend(frames)
    return batch


def passes(built: list[Load], loop: int) -> Iterator[list[Load]]:
    """Yields the loads `loop` times. A short list is repeated within one load:
    otherwise each pass would cost a system call and a wake-up of the Pacer."""
    first = built[0]
    fit = min(MOST_FRAMES // first.frames, MOST_BYTES // max(1, first.size))
    if len(built) > 1 or loop == 1 or fit < 2:
        yield from repeat(built, loop) if loop else repeat(built)
        return
    if not loop:
        yield from repeat([first.repeated(fit)])
    full, rest = divmod(loop, fit)
    if full:
        yield from repeat([first.repeated(fit)], full)
    if rest:
        yield [first.repeated(rest)]
