"""Sides measured in turns, slice by slice, and what their times say."""

import contextlib
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# "cpu" leaves out the time in which other processes had the CPU; but also, on
# kernels with CONFIG_IRQ_TIME_ACCOUNTING, that of the softirq in which a frame
# goes through the veth pair.
CLOCKS: Final[Mapping[str, Callable[[], int]]] = {
    "wall": time.perf_counter_ns,
    "cpu": time.thread_time_ns,
}


@dataclass(frozen=True)
class Claim:
    """What a side's time is compared with, and what it is to be, as a multiple
    of that other side's."""

    against: str
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, ratio: float) -> bool:
        return (self.at_most is None or ratio <= self.at_most) and (
            self.at_least is None or ratio >= self.at_least
        )

    def __str__(self) -> str:
        bounds = [f">= {self.at_least}"] if self.at_least is not None else []
        bounds += [f"<= {self.at_most}"] if self.at_most is not None else []
        return ", ".join(bounds)


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@contextlib.contextmanager
def pinned(cpu: int | None = None) -> Iterator[int]:
    """Keeps the calling thread on one CPU: the last that it may use, unless
    one is given."""
    before = os.sched_getaffinity(0)
    cpu = max(before) if cpu is None else cpu
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def interleave(
    sides: Mapping[str, Callable[[], float]], count: int
) -> dict[str, list[float]]:
    """Has each side run `count` slices, in turns whose order is drawn anew
    each time, so that none always follows the same one.

    A side is a function that runs a slice and returns its time. The results
    of one turn have the same place in every list.
    """
    draw = random.Random(1)
    times: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(count):
        draw.shuffle(order)
        for name in order:
            times[name].append(sides[name]())
    return times


def ratio(times: Mapping[str, Sequence[float]], of: str, to: str) -> Spread:
    """How many times the time of `to` `of` takes, turn by turn."""
    pairs = zip(times[of], times[to], strict=True)
    return Spread.of([ours / theirs for ours, theirs in pairs])


def table(
    times: Mapping[str, Sequence[float]], claims: Mapping[str, Claim]
) -> str:
    """A line per side: its time, and how it compares."""
    width = max(map(len, times))
    lines = [f"{'':{width}}  ns/packet    ratio  quartiles"]
    for name, values in times.items():
        line = f"{name:{width}}  {statistics.median(values):9.1f}"
        claim = claims.get(name)
        if claim is not None:
            found = ratio(times, name, claim.against)
            line += f"  {found.median:7.4f}  {found.low:.4f}-{found.high:.4f}"
            line += f"  of {claim.against}"
            if str(claim):
                verdict = claim.holds(found.median)
                line += f"; {claim}: {'holds' if verdict else 'DOES NOT HOLD'}"
        lines.append(line)
    return "\n".join(lines)
