"""Slices of sending, each checked on the far side."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

from ..framework import GroundTruthError, Missing, Side, available
from ..network.far_side import FarSide
from ..network.link import Ends, Frames
from .senders import Sender, Start

# A slice on whose way the kernel's own queue was full is run again.
_MOST_TRIES: Final = 20


@dataclass(frozen=True)
class Contender:
    """A side, to be made ready for its frames."""

    name: str
    start: Start
    limit: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""


class _Slicer:
    """Runs a sender's slices."""

    def __init__(
        self, sender: Sender, frames: Frames, far_side: FarSide
    ) -> None:
        self._sender = sender
        self._frames = frames
        self._far_side = far_side
        self._kept = 0  # of the batch, by the far side
        self.rounds = 1

    def run(self) -> float:
        """A slice: million packets a second."""
        taken = self.time(self.rounds)
        return self.rounds * self._frames.batch / taken * 1e3

    def prove(self) -> None:
        """Sends a batch and checks each frame of it."""
        self._checked(1, None)

    def calibrate(self, seconds: float) -> None:
        """Finds how many rounds take so long."""
        wanted, most = int(seconds * 1e9), self._far_side.capacity
        # The best of two, for another process may have had the CPU.
        while (
            taken := min(self.time(self.rounds) for _ in range(2))
        ) < wanted // 4 and self.rounds < most:
            self.rounds = min(2 * self.rounds, most)
        self.rounds = min(max(1, self.rounds * wanted // taken), most)

    def time(self, rounds: int) -> int:
        """The nanoseconds that so many rounds take."""
        self._kept = (self._kept + 1) % self._frames.batch
        return self._checked(rounds, self._kept)

    def _checked(self, rounds: int, kept: int | None) -> int:
        frames = self._frames
        for _ in range(_MOST_TRIES):
            frames.number()
            self._sender.prepare()
            self._far_side.expect(kept)
            begin = time.perf_counter_ns()
            try:
                said = self._sender.run(rounds)
            except Exception:
                # What the sender makes of ENOBUFS is its own exception.
                if self._far_side.has_dropped():
                    continue
                raise
            taken = time.perf_counter_ns() - begin
            sample = frames.packets if kept is None else [frames.packets[kept]]
            if self._far_side.check(rounds, frames.batch, sample):
                return taken if said is None else said
        raise GroundTruthError("the kernel's queue was full in every slice")


class Arena:
    """Where contenders send the same frames: the veth pair that they share,
    and what far sides there are. A context manager."""

    def __init__(self, batch: int, size: int) -> None:
        with contextlib.ExitStack() as stack:
            self._shared = stack.enter_context(Ends())
            self._far_sides: dict[str, FarSide] = {}
            self._slicers: list[_Slicer] = []
            self._stack = stack
            capacity = self._far_side(self._shared).capacity
            self.frames = Frames(min(batch, capacity), size)
            self._stack = stack.pop_all()

    def sides(
        self, contenders: Sequence[Contender], seconds: float | None
    ) -> tuple[list[Side], list[Missing]]:
        """Makes the contenders ready, as many as can run here, each of which
        has been proved; and what is missing for others.

        All do the same work, for which the first takes about `seconds`; None:
        they send their frames once.
        """
        sides, missing = available(
            partial(self._side, contender) for contender in contenders
        )
        if seconds is not None:
            self._slicers[0].calibrate(seconds)
        for slicer in self._slicers:
            slicer.rounds = self._slicers[0].rounds
        return sides, missing

    def _side(self, contender: Contender) -> Side:
        sender = contender.start(self._shared, self.frames, self._stack)
        slicer = _Slicer(sender, self.frames, self._far_side(sender.ends))
        slicer.prove()
        self._slicers.append(slicer)
        return Side(
            contender.name,
            slicer.run,
            limit=contender.limit,
            at_least=contender.at_least,
            at_most=contender.at_most,
            note=contender.note,
        )

    def _far_side(self, ends: Ends) -> FarSide:
        """One for each veth pair."""
        known = self._far_sides.get(ends.veth.b)
        if known is None:
            known = self._stack.enter_context(FarSide(ends.veth))
            self._far_sides[ends.veth.b] = known
        return known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
