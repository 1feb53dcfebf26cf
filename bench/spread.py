"""A median with its quartiles, of figures and of ratios."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(figures: Sequence[float], limits: Sequence[float]) -> Spread:
    """What multiple of the limit's figure a side's is, turn by turn: a machine
    that gets slower meanwhile does not change it."""
    pairs = zip(figures, limits, strict=True)
    return Spread.of([figure / limit for figure, limit in pairs])
