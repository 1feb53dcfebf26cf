"""Runs contenders against each other.

The runner prepares the contenders, chooses how often a slice repeats the work
(calibrates), and runs rounds: a slice of each contender, in an order that is
drawn anew for each round. Whatever slows the machine down during the run
therefore affects all contenders alike.
"""

import contextlib
import enum
import random
import sys
import time
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

    FULL = "full"  # all measurements in less than 20 minutes
    QUICK = "quick"  # in less than 2 minutes
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


class Progress:
    """One line on a terminal that shows how far the run is; silent if standard
    error is not a terminal."""

    _INTERVAL: Final = 0.2  # seconds: to write must not cost the measurement

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._next = 0.0

    def show(self, text: str) -> None:
        if self._shown and time.monotonic() > self._next:
            self._next = time.monotonic() + self._INTERVAL
            self._write(text[:79])  # a longer line could not be overwritten

    def clear(self) -> None:
        if self._shown:
            self._write("")

    def _write(self, text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Lab:
    """How long to measure, with which packet sizes, and on which CPUs."""

    mode: Mode = Mode.FULL
    only_sizes: Sequence[int] = ()  # empty: all
    progress: Progress = field(default_factory=Progress)
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
        return {Mode.FULL: full, Mode.QUICK: quick, Mode.BRIEF: brief}[
            self.mode
        ]

    def sizes(self, sizes: Sequence[int]) -> list[int]:
        """The packet sizes, without those that the user does not want."""
        return [
            size
            for size in sizes
            if not self.only_sizes or size in self.only_sizes
        ]

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
        turns = _Turns(calibrate, pace.seconds)
        for one in contenders:
            with turns.missing_noted(one.name):
                turns.add(one.name, one.prepare(place))
        turns.calibrate()
        for number in range(pace.rounds):
            self.progress.show(f"{key}: round {number + 1} of {pace.rounds}")
            turns.round()
        self.progress.clear()
        return Table(
            key,
            title,
            unit,
            rows(contenders, comparisons, turns.samples),
            tuple(dict.fromkeys(turns.missing)),
            tuple(notes),
        )


class _Turns:
    """The contenders of a table that can run here, and their slices."""

    def __init__(self, calibrate: Calibrate, seconds: float) -> None:
        self.samples: dict[str, list[Slice]] = {}
        self.missing: list[Missing] = []
        self._calibrate = calibrate
        self._wanted_ns = seconds * 1e9
        self._ready: dict[str, Ready] = {}
        self._times: dict[str, int] = {}
        self._draw = random.Random(1)  # the same orders in every run

    @contextlib.contextmanager
    def missing_noted(self, name: str) -> Iterator[None]:
        """If the contender cannot run here, removes it and notes what is
        missing."""
        try:
            yield
        except UnavailableError as error:
            self.missing.append(error.missing)
            for by_name in (self._ready, self._times, self.samples):
                by_name.pop(name, None)

    def add(self, name: str, ready: Ready) -> None:
        self._ready[name] = ready
        if self._calibrate is not Calibrate.ONCE:
            _checked(ready, 1)  # warms up

    def calibrate(self) -> None:
        """Decides how often a slice of each contender repeats its work."""
        packets = 0
        for name, ready in self._ready.items():
            if self._calibrate is Calibrate.ONCE:
                times = 1
            elif self._calibrate is Calibrate.EACH or not packets:
                times = _fitting(ready, self._wanted_ns)
                packets = times * ready.work
            else:
                times = packets // ready.work
            self._times[name] = min(max(1, times), ready.most)
            self.samples[name] = []

    def round(self) -> None:
        """Runs a slice of each contender."""
        order = list(self._ready)
        self._draw.shuffle(order)
        for name in order:
            with self.missing_noted(name):
                slice_ = _checked(self._ready[name], self._times[name])
                self.samples[name].append(slice_)


def _fitting(ready: Ready, wanted_ns: float) -> int:
    """How often the work has to be repeated to take `wanted_ns`."""

    def taken(times: int) -> float:
        # The best of three: another process may have had the CPU.
        return min(_checked(ready, times).ns for _ in range(3))

    times = 1
    while (ns := taken(times)) < wanted_ns / 4 and times < ready.most:
        times *= 2
    return int(times * wanted_ns / ns)


def _checked(ready: Ready, times: int) -> Slice:
    """A slice that could be checked."""
    for _ in range(MOST_TRIES):
        with contextlib.suppress(AgainError):
            return ready.run(times)
    raise GroundTruthError("no slice could be checked")


class Measurement(Protocol):
    """The module measure.py of a question. Its docstring describes the
    measurement: one line, and the details after an empty line."""

    def measure(self, lab: Lab) -> Iterator[Table]: ...
