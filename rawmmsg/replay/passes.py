"""How often, and how many, packets of a recording are sent."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count as count_up
from itertools import repeat

from ..pacing.loads import Load, passes
from .edits import select
from .packets import AnyLoad, Packets, SplitLoad


def in_passes(
    packets: Packets, loop: int, *, keep: bool
) -> Iterator[Iterable[AnyLoad]]:
    """Yields the packets `loop` times; 0: without end. If they are kept, they
    are read once; otherwise again and again."""
    if not keep:
        for number in range(loop) if loop else count_up():
            if number:
                packets.rewind()
            yield packets.loads()
        return
    kept = list(packets.loads())
    plain = [load for load in kept if isinstance(load, Load)]
    packets.kept = sum(load.frames for load in kept)
    if not kept:
        return
    if len(plain) == len(kept):
        yield from passes(plain, loop)
    else:
        yield from repeat(kept, loop) if loop else repeat(kept)


class Limit:
    """Ends after so many packets."""

    def __init__(self, packets: int) -> None:
        self._left = packets

    def apply(
        self, in_passes: Iterable[Iterable[AnyLoad]]
    ) -> Iterator[Iterable[AnyLoad]]:
        for one_pass in in_passes:
            if not self._left:
                return
            yield self._first(one_pass)

    def _first(self, loads: Iterable[AnyLoad]) -> Iterator[AnyLoad]:
        for load in loads:
            if self._left < load.frames:
                load = _shortened(load, self._left)
            self._left -= load.frames
            yield load
            if not self._left:
                return


def _shortened(load: AnyLoad, frames: int) -> AnyLoad:
    """Returns the first packets of a load."""
    positions = load.positions[: frames + 1]
    if isinstance(load, Load):
        batch = load.batch
        left_out = range(frames, len(batch))
        size = load.size - sum(batch.lengths[frames : len(batch)])
        return Load(select(batch, left_out), size, positions)
    sides = load.sides[:frames]
    first, second = (
        _first_of_part(part, sides.count(side))
        for side, part in enumerate(load.parts)
    )
    return replace(
        load, parts=(first, second), sides=sides, positions=positions
    )


def _first_of_part(part: Load | None, frames: int) -> Load | None:
    if part is None or frames == 0:
        return None
    if frames == part.frames:
        return part
    shortened = _shortened(part, frames)
    assert not isinstance(shortened, SplitLoad)
    return shortened
