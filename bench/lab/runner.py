"""How a measurement declares its sides, and how they take their turns.

A measurement is a module with a function measure(context) that yields tables.
A side is one way to do the work, a function that does it once, checks that no
frame was lost or changed, and returns the figure. Sides are compared turn by
turn, in an order drawn anew each time, so that none always follows the same
one and whatever slows the machine down meanwhile hits all of them.
"""

import enum
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from .progress import Progress
from .tools import cpus

_T = TypeVar("_T")

# The units of figures, and whether more is better.
UNITS: Final[Mapping[str, bool | None]] = {
    "ns/packet": False,
    "us/packet": False,
    "us": False,
    "Mpps": True,
    "kpps": True,
    "Gbit/s": True,
    "calls/packet": False,
    "% lost": False,
    "%": False,
    "ms": False,
    "of the pace": None,  # neither: 1 is best
}


class GroundTruthError(AssertionError):
    """A frame was lost, doubled or changed: the measurement is void."""


@dataclass(frozen=True)
class Missing:
    """A peer that is not there, and the command that installs it."""

    what: str
    install: str

    def __str__(self) -> str:
        return f"missing here: {self.what} ({self.install})"


class Unavailable(Exception):
    """A side cannot run here: what it needs is not installed."""

    def __init__(self, what: str, install: str) -> None:
        super().__init__(what, install)
        self.missing = Missing(what, install)

    def __str__(self) -> str:
        return str(self.missing)


@dataclass(frozen=True)
class Side:
    """One way to do the work.

    `run` does a slice or a round of it and returns the figure, in the unit of
    the table; it has asserted its ground truth, and raises GroundTruthError
    otherwise. `extra`, read after each run, gives further figures, named with
    their units ("sender CPU, %"). `limit` names the side it is compared with;
    `at_least` and `at_most` bound the ratio of its figure to that side's, or
    the figure itself where there is no limit.
    """

    name: str
    run: Callable[[], float]
    limit: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    extra: Callable[[], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Samples:
    """What the sides measured, by name: the figures, and the extra ones. The
    figures of one turn have the same place in every list."""

    figures: Mapping[str, list[float]]
    extras: Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True)
class Table:
    """Sides that did the same work.

    `key` tells it from all others and never changes ("loop/64B/batch64"):
    plots and claims find it by that. The order of `sides` is that of rows.
    """

    key: str
    title: str
    unit: str
    samples: Samples
    sides: Sequence[Side]
    missing: Sequence[Missing] = ()
    notes: Sequence[str] = ()


class Mode(enum.Enum):
    """How much time a run takes."""

    FULL = "full"  # under 20 minutes, all measurements
    QUICK = "quick"  # under 2 minutes
    BRIEF = "brief"  # a fraction of a second each; the figures say nothing


@dataclass(frozen=True)
class _Turns:
    """How many turns each side takes, and for how long."""

    slices: int
    slice_seconds: float
    rounds: int
    round_seconds: float


_TURNS: Final = {
    Mode.FULL: _Turns(200, 0.008, 15, 0.3),
    Mode.QUICK: _Turns(20, 0.006, 3, 0.15),
    Mode.BRIEF: _Turns(2, 0.001, 1, 0.02),
}


@dataclass(frozen=True)
class Context:
    """How long and how often to measure, and on which CPUs."""

    mode: Mode = Mode.FULL
    progress: Progress = field(default_factory=Progress)
    senders_cpu: int = field(default_factory=cpus.first)
    receivers_cpu: int = field(default_factory=cpus.last)

    @property
    def quick(self) -> bool:
        return self.mode is Mode.QUICK

    @property
    def brief(self) -> bool:
        """Whether this is the smoke test: ground truth is all that counts."""
        return self.mode is Mode.BRIEF

    @property
    def slice_seconds(self) -> float:
        """About how long a slice takes."""
        return _TURNS[self.mode].slice_seconds

    @property
    def round_seconds(self) -> float:
        """About how long a round takes."""
        return _TURNS[self.mode].round_seconds

    def pick(self, full: _T, quick: _T, brief: _T) -> _T:
        """A value by mode."""
        values = {Mode.FULL: full, Mode.QUICK: quick, Mode.BRIEF: brief}
        return values[self.mode]

    def slices(self, sides: Sequence[Side]) -> Samples:
        """Sides that live in this process take turns of a few milliseconds,
        which any drift of the machine spans."""
        return self._interleave(sides, _TURNS[self.mode].slices)

    def rounds(
        self, sides: Sequence[Side], turns: int | None = None
    ) -> Samples:
        """Sides in processes of their own take turns of a part of a second,
        beside which starting one does not count; `turns` of them, where not
        as many as the mode has."""
        return self._interleave(sides, turns or _TURNS[self.mode].rounds)

    def _interleave(self, sides: Sequence[Side], count: int) -> Samples:
        draw = random.Random(1)  # the same order in every run
        figures: dict[str, list[float]] = {side.name: [] for side in sides}
        extras: dict[str, dict[str, list[float]]] = {
            side.name: {} for side in sides
        }
        order = list(sides)
        for turn in range(count):
            self.progress.turn(turn + 1, count)
            draw.shuffle(order)
            for side in order:
                figures[side.name].append(side.run())
                if side.extra is not None:
                    for name, value in side.extra().items():
                        extras[side.name].setdefault(name, []).append(value)
        return Samples(figures, extras)


def available(
    makers: Iterable[Callable[[], _T]],
) -> tuple[list[_T], list[Missing]]:
    """Makes what can be made here: the sides, or whatever, and what is
    missing for the others, which raise Unavailable."""
    made: list[_T] = []
    missing: list[Missing] = []
    for make in makers:
        try:
            made.append(make())
        except Unavailable as error:
            if error.missing not in missing:
                missing.append(error.missing)
    return made, missing


class Measurement(Protocol):
    """What a module of this package that measures has. Its docstring says
    what is measured and how: a line, and after an empty line the rest."""

    def measure(self, context: Context) -> Iterator[Table]: ...
