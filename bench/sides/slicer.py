"""Slices: ways to move the same batch take turns on one CPU.

One CPU does it all, the kernel's part on either end included, so the time is
the whole cost of a packet.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ..framework import Context, GroundTruthError, Side, Table, available
from ..network.link import Frames, Link
from ..tools import cpus
from .ways import SharedLink, Start, Way

# A slice whose last batch came in parts cannot be checked: it is run again.
_MOST_TRIES: Final = 100

# Sending and receiving are timed apart in every so many slices only, and in
# this part of one: to read the clock twice a round costs something, too.
_SPLIT_EVERY: Final = 4
_SPLIT_PART: Final = 4


@dataclass(frozen=True)
class Contender:
    """A side of a loop, before it is made ready for its frames: those of the
    table, unless it has others."""

    name: str
    start: Start
    limit: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    frames: Frames | None = None


@dataclass
class Slicer:
    """Runs the slices of one way, each of which is checked."""

    way: Way
    frames: Frames
    tell_stamps: bool  # how many packets had one
    rounds: int = 1  # in a slice
    slices: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)

    def run(self) -> float:
        """A slice: the nanoseconds that a packet took."""
        self.slices += 1
        self.parts = {}
        if self.slices % _SPLIT_EVERY == 1:
            self.parts = self._split(max(1, self.rounds // _SPLIT_PART))
        return self.time(self.rounds) / (self.rounds * self.frames.batch)

    def time(self, rounds: int) -> int:
        """The nanoseconds that so many rounds take."""
        taken = 0

        def timed() -> None:
            nonlocal taken
            begin = time.perf_counter_ns()
            self.way.run(rounds)
            taken = time.perf_counter_ns() - begin

        self._checked(rounds, timed)
        return taken

    def _split(self, rounds: int) -> dict[str, float]:
        """What of a packet's time sending takes, and receiving; and how many
        have come with a time so far."""
        parts = 0, 0

        def timed() -> None:
            nonlocal parts
            parts = self.way.split(rounds)

        self._checked(rounds, timed)
        packets = rounds * self.frames.batch
        found = {"tx, ns": parts[0] / packets, "rx, ns": parts[1] / packets}
        share = self.way.stamped() if self.tell_stamps else None
        return found if share is None else {**found, "stamped, %": share}

    def _checked(self, rounds: int, work: Callable[[], None]) -> None:
        for _ in range(_MOST_TRIES):
            self.frames.number()
            self.way.prepare()
            self.way.counter.reset()
            work()
            lengths = self.way.prove()
            self.way.counter.check(rounds * self.frames.batch)
            if self.frames.is_whole(lengths):
                self.frames.check(lengths)
                return
        raise GroundTruthError("no batch comes in one piece")


def _packets_in(seconds: float, slicer: Slicer) -> int:
    """How many packets a way moves in so much time."""
    rounds, wanted = 1, int(seconds * 1e9)
    # The best of three, for another process may have had the CPU.
    while (taken := min(slicer.time(rounds) for _ in range(3))) < wanted // 4:
        rounds *= 2
    return max(1, rounds * wanted // taken) * slicer.frames.batch


def table(
    context: Context,
    contenders: Sequence[Contender],
    frames: Frames,
    *,
    key: str,
    title: str,
    notes: Sequence[str] = (),
    tell_stamps: bool = False,
) -> Table:
    """Has the contenders take their turns.

    All move the same number of packets in a slice, as many as the first one
    does in the time of a slice.
    """
    context.progress.step(title)
    with contextlib.ExitStack() as stack:
        # A socket that a way opens is bound to the CPU that uses it.
        stack.enter_context(cpus.pinned(context.receivers_cpu))
        link = stack.enter_context(Link())
        shared = SharedLink(link)

        def make(contender: Contender) -> tuple[Side, Slicer]:
            mine = contender.frames or frames
            link.require_room(mine)
            way = contender.start(shared, mine, stack)
            slicer = Slicer(way, mine, tell_stamps)
            slicer.time(1)  # warms up
            return _side(contender, slicer), slicer

        made, missing = available(
            [partial(make, contender) for contender in contenders]
        )
        sides = [side for side, _ in made]
        if made:
            packets = _packets_in(context.slice_seconds, made[0][1])
        for _, slicer in made:
            slicer.rounds = max(1, packets // slicer.frames.batch)
        samples = context.slices(sides)
    return Table(key, title, "ns/packet", samples, sides, missing, notes)


def _side(contender: Contender, slicer: Slicer) -> Side:
    return Side(
        contender.name,
        slicer.run,
        limit=contender.limit,
        at_least=contender.at_least,
        at_most=contender.at_most,
        note=contender.note,
        extra=lambda: slicer.parts,
    )
