"""Figures of a run, as claims look them up."""

from collections.abc import Mapping
from typing import Final

from ..results import Run

# Two sides whose figures are closer than this do the same: the control, which
# is the same program twice, may be off by a third of it.
SAME: Final = 0.03
SAME_WORDS: Final = f"{100 * SAME:.0f} %"

BULK: Final = "forwarding/two-way"

BATCH: Final = 64
SIZES: Final = (64, 1500)


class NotMeasured(LookupError):
    """The run has no such figure."""


def figure(run: Run, key: str, side: str) -> float:
    """The median of a side; raises NotMeasured."""
    result = run.result(key)
    row = result.row(side) if result is not None else None
    if row is None:
        raise NotMeasured(f"no figure of {side} in {key}")
    return row.figure.median


def extra(run: Run, key: str, side: str, name: str) -> float:
    """The median of one of its further figures; raises NotMeasured."""
    result = run.result(key)
    row = result.row(side) if result is not None else None
    if row is None or name not in row.extra:
        raise NotMeasured(f"no {name} of {side} in {key}")
    return row.extra[name].median


def ratio(run: Run, key: str, side: str, limit: str) -> float:
    """One median as a multiple of another; turn by turn, where the run has
    compared just these."""
    result = run.result(key)
    row = result.row(side) if result is not None else None
    if row is not None and row.limit == limit and row.ratio is not None:
        return row.ratio.median
    return figure(run, key, side) / figure(run, key, limit)


def percent(ratio: float) -> str:
    """What a ratio is more or less than one."""
    return f"{100 * (ratio - 1):+.1f} %"


def multiples(by_size: Mapping[int, float]) -> str:
    return ", ".join(f"{one:.2f} {at(size)}" for size, one in by_size.items())


def loop(size: int, batch: int = BATCH) -> str:
    return f"loop/{size}B/batch{batch}"


def at(size: int) -> str:
    return f"at {size:,} bytes"
