"""The results of a run: printed, saved as JSON, and made into a report."""

import dataclasses
import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from .contender import Comparison, Contender, Missing, Slice


class Spread(NamedTuple):
    """A median with its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        if len(values) == 1:
            values = [values[0]] * 2
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True)
class Row:
    """A contender in a table. `ratio` is its figure divided by the
    baseline's, calculated round by round, so that a machine that slows down
    during the run does not change it."""

    name: str
    figure: Spread
    rounds: int
    baseline: str | None = None
    ratio: Spread | None = None
    at_least: float | None = None
    at_most: float | None = None
    extra: Mapping[str, Spread] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The limits of the ratio, or of the figure without a baseline; empty
        if there are none."""
        bounds = {"≥": self.at_least, "≤": self.at_most}
        return ", ".join(
            f"{sign} {bound:.4g}"
            for sign, bound in bounds.items()
            if bound is not None
        )

    @property
    def holds(self) -> bool | None:
        """Whether the median meets the target; None if there is no target or
        the baseline is not installed."""
        judged = self.figure if self.baseline is None else self.ratio
        if judged is None or not self.target:
            return None
        return (self.at_least is None or judged.median >= self.at_least) and (
            self.at_most is None or judged.median <= self.at_most
        )


@dataclass(frozen=True)
class Table:
    """Contenders that did the same work. `key` names the table for ever
    ("loop/64B/batch64")."""

    key: str
    title: str
    unit: str
    rows: Sequence[Row]
    missing: Sequence[Missing] = ()
    notes: Sequence[str] = ()

    def row(self, name: str) -> Row | None:
        """The first row of that name."""
        return next((row for row in self.rows if row.name == name), None)


# What the slices of each contender returned, by name. Slices of one round have
# the same index in every list.
Samples = Mapping[str, Sequence[Slice]]


def rows(
    contenders: Sequence[Contender[Any]],
    comparisons: Sequence[Comparison],
    samples: Samples,
) -> tuple[Row, ...]:
    """The rows of a table: the contenders that ran, then the comparisons."""
    return (
        *(_row(one, samples) for one in contenders if one.name in samples),
        *(
            _row(two, samples)
            for two in comparisons
            if {two.name, two.baseline} <= samples.keys()
        ),
    )


def _row(one: Contender[Any] | Comparison, samples: Samples) -> Row:
    slices = samples[one.name]
    figures = [slice_.figure for slice_ in slices]
    ratio = None
    if one.baseline is not None and one.baseline in samples:
        baseline = samples[one.baseline]
        ratio = Spread.of(
            [a / b.figure for a, b in zip(figures, baseline, strict=True)]
        )
    extra: dict[str, list[float]] = {}
    for slice_ in slices if isinstance(one, Contender) else ():
        for name, value in slice_.extra.items():
            extra.setdefault(name, []).append(value)
    return Row(
        name=one.name,
        figure=Spread.of(figures),
        rounds=len(figures),
        baseline=one.baseline,
        ratio=ratio,
        at_least=one.at_least,
        at_most=one.at_most,
        extra={name: Spread.of(values) for name, values in extra.items()},
    )


@dataclass
class Section:
    """A measurement: its tables, or the reason why there are none."""

    tables: list[Table] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


@dataclass
class Run:
    """All measurements of a run, by name, and the machine that it ran on."""

    mode: str
    environment: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)
    sections: dict[str, Section] = field(default_factory=dict)

    def tables(self) -> Iterator[Table]:
        for section in self.sections.values():
            yield from section.tables

    def table(self, key: str) -> Table | None:
        return next((one for one in self.tables() if one.key == key), None)

    def to_json(self) -> str:
        """A table a line, numbers with four significant digits, and nothing
        that is empty."""
        data = _compact(dataclasses.asdict(self))
        text = json.dumps(data, ensure_ascii=False, indent=1)
        # A line begins with a name of the run's or with a table.
        return re.sub(r"\n(?! \"| {4}\{|\})\s*", " ", text) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The run that to_json() made this of."""
        data = json.loads(text)
        sections = {
            name: Section(
                [_table(one) for one in section.pop("tables", [])],
                [Missing(**one) for one in section.pop("missing", [])],
                **section,
            )
            for name, section in data.pop("sections", {}).items()
        }
        return cls(**data, sections=sections)


def _compact(value: Any) -> Any:
    """Removes empty values and rounds numbers."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {
            key: _compact(one)
            for key, one in value.items()
            if one not in (None, "", [], (), {})
        }
    if isinstance(value, list | tuple):
        return [_compact(one) for one in value]
    return value


def _table(data: dict[str, Any]) -> Table:
    return Table(
        rows=tuple(map(_loaded_row, data.pop("rows", []))),
        missing=tuple(Missing(**one) for one in data.pop("missing", [])),
        notes=tuple(data.pop("notes", [])),
        **data,
    )


def _loaded_row(data: dict[str, Any]) -> Row:
    ratio = data.pop("ratio", None)
    extra = data.pop("extra", {})
    return Row(
        figure=Spread(*data.pop("figure")),
        ratio=Spread(*ratio) if ratio else None,
        extra={name: Spread(*values) for name, values in extra.items()},
        **data,
    )
