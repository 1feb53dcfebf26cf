"""Runs contenders against each other: prepares them, chooses how often a slice
repeats the work (calibrates), and runs rounds. The order of the slices is new
in each round, so whatever slows the machine down affects all alike.
"""

import contextlib
import enum
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar

from . import cpus
from .contender import (
    UNITS,
    AgainError,
    Comparison,
    Contender,
    GroundTruthError,
    Missing,
    P,
    Ready,
    Slice,
    UnavailableError,
)
from .result import Table, rows

_T = TypeVar("_T")

# How often a slice that could not be checked is run again.
MOST_TRIES: Final = 100


class Mode(enum.Enum):
    """How much time a run takes."""

    FULL = "full"  # all measurements in about 30 minutes
    QUICK = "quick"  # in about 4 minutes
    BRIEF = "brief"  # a fraction of a second each: a test, not a measurement


class Pace(NamedTuple):
    """The number of rounds, and about how many seconds a slice takes."""

    rounds: int
    seconds: float


class Calibrate(enum.Enum):
    """How often a slice repeats the work."""

    EQUAL = enum.auto()  # the same work for all, as much as the first can do
    EACH = enum.auto()  # each contender as much as it can do
    ONCE = enum.auto()  # once: the work takes the right time as it is


@dataclass(frozen=True)
class Lab:
    """How long to measure, with which packet sizes, and on which CPUs."""

    mode: Mode = Mode.FULL
    only_sizes: Sequence[int] = ()  # empty: all
    senders_cpu: int = field(default_factory=cpus.first)
    receivers_cpu: int = field(default_factory=cpus.last)

    @property
    def slices(self) -> Pace:
        """For contenders in this process: many slices of some milliseconds."""
        return self.pick(Pace(200, 0.008), Pace(20, 0.006), Pace(2, 0.001))

    @property
    def long_slices(self) -> Pace:
        """For contenders in processes of their own: fewer and longer slices,
        so that the time to start a process does not matter."""
        return self.pick(Pace(15, 0.3), Pace(3, 0.15), Pace(1, 0.02))

    def pick(self, full: _T, quick: _T, brief: _T) -> _T:
        """The value for this mode."""
        values = dict(zip(Mode, (full, quick, brief), strict=True))
        return values[self.mode]

    def sizes(self, sizes: Sequence[int]) -> list[int]:
        """Those of the packet sizes that the user wants."""
        return [one for one in sizes if one in (self.only_sizes or sizes)]

    def table(
        self,
        key: str,
        title: str,
        unit: str,
        contenders: Sequence[Contender[P]],
        place: P,
        pace: Pace,
        *,
        calibrate: Calibrate = Calibrate.EQUAL,
        comparisons: Sequence[Comparison] = (),
        notes: Sequence[str] = (),
    ) -> Table:
        """Runs the contenders in `place` and returns their table."""
        names = [one.name for one in contenders]
        assert len(set(names)) == len(names), f"{key}: a name appears twice"
        assert unit in UNITS, f"{key}: unknown unit {unit}"
        turns: dict[str, _Turn] = {}
        missing: dict[Missing, None] = {}

        @contextlib.contextmanager
        def missing_noted(name: str) -> Iterator[None]:
            """Removes the contender if it cannot run here."""
            try:
                yield
            except UnavailableError as error:
                missing[error.missing] = None
                turns.pop(name, None)

        for one in contenders:
            with missing_noted(one.name):
                turns[one.name] = _Turn(one.prepare(place))
                if calibrate is not Calibrate.ONCE:
                    turns[one.name].run(1)  # warms up
        _calibrate(list(turns.values()), calibrate, pace.seconds * 1e9)
        draw = random.Random(1)  # the same orders in every run
        for number in range(pace.rounds):
            _show(f"{key}: round {number + 1} of {pace.rounds}")
            for name in draw.sample(list(turns), len(turns)):
                with missing_noted(name):
                    turn = turns[name]
                    turn.slices.append(turn.run(turn.times))
        _show("")
        samples = {name: turn.slices for name, turn in turns.items()}
        found = rows(contenders, comparisons, samples)
        return Table(key, title, unit, found, tuple(missing), tuple(notes))


def _show(text: str) -> None:
    """Shows how far the run is, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:79]}", end="", file=sys.stderr, flush=True)


@dataclass
class _Turn:
    """A contender that can run here, how often a slice repeats its work, and
    its slices."""

    ready: Ready
    times: int = 1
    slices: list[Slice] = field(default_factory=list)

    def run(self, times: int) -> Slice:
        """A slice that could be checked."""
        for _ in range(MOST_TRIES):
            with contextlib.suppress(AgainError):
                return self.ready.run(times)
        raise GroundTruthError("no slice could be checked")

    def fitting(self, wanted_ns: float) -> int:
        """How often the work has to be repeated to take so long."""
        times, ns = 1, self._best(1)
        while ns < wanted_ns / 4 and times < self.ready.most:
            times = min(2 * times, self.ready.most)
            ns = self._best(times)
        return int(times * wanted_ns / ns)

    def _best(self, times: int) -> float:
        # Of three: another process may have had the CPU.
        return min(self.run(times).ns for _ in range(3))


def _calibrate(
    turns: Sequence[_Turn], calibrate: Calibrate, wanted_ns: float
) -> None:
    """Decides how often a slice of each contender repeats its work."""
    packets = 0
    for turn in turns if calibrate is not Calibrate.ONCE else ():
        if calibrate is Calibrate.EACH or not packets:
            times = turn.fitting(wanted_ns)
            packets = times * turn.ready.work
        else:
            times = packets // turn.ready.work
        turn.times = min(max(1, times), turn.ready.most)


class Measurement(Protocol):
    """The module measure.py of a question. Its docstring describes the
    measurement: one line, and the details after an empty line."""

    def measure(self, lab: Lab) -> Iterator[Table]: ...
