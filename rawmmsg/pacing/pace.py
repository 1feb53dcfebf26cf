"""Where frames lie on the axis of a pace, and when a position is due."""

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple, SupportsFloat

TICK: Final = 0.0002
"""Seconds. What is due within a tick leaves in one call: at high rates a pace
has gaps of this size, and each of them costs no more than one wake-up."""

MOST_DEBT: Final = 1.0
"""The longest delay, in seconds, that a Pacer catches up with."""

NAP: Final = 0.05
"""Seconds. No sleep and no wait is longer, so that a stop is soon noticed."""

_AHEAD: Final = 0.005  # seconds that a generator may run ahead of its pace


class Pace(NamedTuple):
    """How fast frames are sent, and what is counted: packets, bits or seconds.

    rate     positions that pass in a second; infinite: as fast as possible
    place    place(sizes, times, start) returns the position of each frame,
             and the position after the last. `sizes` are their bytes, and
             `start` is where the frames before them ended
    time_of  returns the time of an item, if the pace needs times
    typical  the distance between two frames, roughly
    """

    rate: float
    place: Callable[[Sequence[int], Sequence[float], float], Sequence[float]]
    time_of: Callable[[Any], float] | None = None
    typical: float = 1

    @property
    def is_limited(self) -> bool:
        return self.rate < math.inf

    def frames_ahead(self, most: int) -> int:
        """How many frames a generator may be ahead of the pace."""
        return int(max(1, min(most, _AHEAD * self.rate / self.typical)))


def choose_pace(
    *,
    pps: float | None,
    mbps: float | None,
    inter: float | None,
    realtime: float = False,
    time_of: Callable[[Any], float] | None = None,
) -> Pace:
    """Returns the pace that these arguments of send() and sendp_batch() ask
    for; ValueError unless at most one of them does."""
    given = {"pps": pps, "mbps": mbps, "inter": inter or None}
    given["realtime"] = realtime or None
    paces = {
        name: _parse_number(name, value)
        for name, value in given.items()
        if value is not None
    }
    if len(paces) > 1:
        raise ValueError(f"choose one pace, not {' and '.join(paces)}")
    for name, number in paces.items():
        if name == "pps":
            return Pace(number, _count_frames)
        if name == "mbps":
            return Pace(number * 1e6, _count_bits, typical=8 * 1500)
        if name == "inter":
            return Pace(1 / number, _count_frames)
        return Pace(number, _follow_times, time_of, typical=0.001)
    return Pace(math.inf, _count_frames)


def _parse_number(name: str, value: object) -> float:
    # Not a str, which float() takes.
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} must be a number, not {value!r}")
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a positive number, not {value}")
    return number


def _count_frames(
    sizes: Sequence[int], times: Sequence[float], start: float
) -> Sequence[float]:
    return range(int(start), int(start) + len(sizes) + 1)


def _count_bits(
    sizes: Sequence[int], times: Sequence[float], start: float
) -> Sequence[float]:
    return list(accumulate((8 * size for size in sizes), initial=start))


def _follow_times(
    sizes: Sequence[int], times: Sequence[float], start: float
) -> Sequence[float]:
    """A packet older than the one before follows it at once."""
    rising = list(accumulate(times, max, initial=start))[1:]
    return [*rising, rising[-1]]


class Pacer:
    """Says when positions are due, `rate` of them in a second.

    If sending falls behind by up to MOST_DEBT, it catches up at no more than
    twice the rate; a longer delay moves all later positions.
    """

    def __init__(self, rate: float, stopped: Callable[[], bool]) -> None:
        self._rate = rate
        self._stopped = stopped
        self._start: float | None = None  # when position 0 was due
        self._earliest = -math.inf  # for the next frames, whatever is due
        self._now = 0.0  # when the last wait() ended

    def wait(self, position: float) -> bool:
        """Sleeps until the position is due; False if stopped before.

        The first position is due at once.
        """
        now = time.monotonic()
        if self._start is None:
            self._start = now - position / self._rate
        due = self._start + position / self._rate
        self._start += max(0.0, now - due - MOST_DEBT)
        due = max(due, self._earliest)
        while now < due:
            if self._stopped():
                return False
            time.sleep(min(due - now, NAP))
            now = time.monotonic()
        self._now = now
        return True

    def due(self, positions: Sequence[float], first: int, shift: float) -> int:
        """Returns the end of the frames that may leave now, after wait() for
        the frame `first`, which is one of them. `shift` is added to each
        position."""
        assert self._start is not None
        here = positions[first]
        reached = (self._now - self._start) * self._rate - shift
        allowed = here + 2 * TICK * self._rate
        end = len(positions) - 1
        last = bisect_right(positions, min(reached, allowed), first + 1, end)
        spent = (positions[last] - here) / (2 * self._rate)
        self._earliest = self._now + max(spent, TICK)
        return last
