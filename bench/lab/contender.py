"""A contender: one way to do the work of a measurement.

Words used throughout: a *slice* is one turn of a contender, which does its
work a number of times and checks the result; a *round* is a slice of every
contender, in random order; the *baseline* is the contender that another one is
compared with.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar

UNLIMITED: Final = 1 << 40

# The units of figures; whether more is better (None: 1 is best).
UNITS: Final[Mapping[str, bool | None]] = {
    "ns/packet": False,
    "us/packet": False,
    "us": False,
    "ms": False,
    "Mpps": True,
    "kpps": True,
    "Gbit/s": True,
    "MB": False,
    "calls/packet": False,
    "% lost": False,
    "of the pace": None,
}


class GroundTruthError(AssertionError):
    """A frame was lost, duplicated or changed: the measurement is void."""


class AgainError(Exception):
    """This slice cannot be checked, through no fault of the contender: the
    runner runs it again."""


@dataclass(frozen=True)
class Missing:
    """Something that is not installed, and the command that installs it."""

    what: str
    install: str

    def __str__(self) -> str:
        return f"missing here: {self.what} ({self.install})"


class UnavailableError(Exception):
    """A contender cannot run here, because something is not installed."""

    def __init__(self, what: str, install: str) -> None:
        self.missing = Missing(what, install)
        super().__init__(str(self.missing))


class Slice(NamedTuple):
    """The result of one slice, which has been checked.

    `figure` is in the unit of the table, `ns` the time that the work took.
    `extra` holds further figures, each named with its unit ("rx, ns").
    """

    figure: float
    ns: float = 0.0
    extra: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Ready:
    """A contender that has been prepared.

    `run(times)` runs a slice: it does the work that many times, with `work`
    packets each, and checks it; it raises GroundTruthError or AgainError.
    `most` is the highest `times` that can be checked.
    """

    run: Callable[[int], Slice]
    work: int = 1
    most: int = UNLIMITED


# The place where contenders meet: sockets, frames, whatever they share.
P = TypeVar("P")


@dataclass(frozen=True)
class Contender(Generic[P]):
    """One way to do the work, and the target that it has to meet.

    `prepare(place)` makes it ready to run; it raises UnavailableError if
    something is not installed. `at_least` and `at_most` limit the ratio of its
    figure to that of `baseline`, or the figure itself without a baseline.
    """

    name: str
    prepare: Callable[[P], Ready]
    baseline: str | None = None
    at_least: float | None = None
    at_most: float | None = None


def control(
    contender: Contender[P], within: float | None = 0.01
) -> Contender[P]:
    """The same contender a second time, compared with the first. Its ratio
    shows how large a difference must be to mean something."""
    return dataclasses.replace(
        contender,
        name=f"{contender.name}, control",
        baseline=contender.name,
        at_least=None if within is None else 1 - within,
        at_most=None if within is None else 1 + within,
    )


@dataclass(frozen=True)
class Comparison:
    """A second baseline for a contender, shown as a row of its own."""

    name: str
    baseline: str
    at_least: float | None = None
    at_most: float | None = None
