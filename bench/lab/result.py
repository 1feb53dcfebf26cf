"""What a run found, as it is printed, kept as JSON and reported."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .framework import UNITS, Missing, Side, Table
from .spread import Spread, ratio


@dataclass(frozen=True)
class Row:
    """One side of a table."""

    name: str
    figure: Spread
    turns: int
    limit: str | None = None
    ratio: Spread | None = None  # to the limit's figure, turn by turn
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    extra: Mapping[str, Spread] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """What the ratio, or the figure without one, is to be; empty where
        nothing is promised."""
        bounds = {"≥": self.at_least, "≤": self.at_most}
        return ", ".join(
            f"{sign} {bound:.4g}"
            for sign, bound in bounds.items()
            if bound is not None
        )

    @property
    def holds(self) -> bool | None:
        """Whether the median meets its target; None without one, or where
        the limit is not installed."""
        judged = self.figure if self.limit is None else self.ratio
        if judged is None or not self.target:
            return None
        median = judged.median
        return (self.at_least is None or median >= self.at_least) and (
            self.at_most is None or median <= self.at_most
        )


@dataclass(frozen=True)
class Result:
    """One table."""

    key: str
    title: str
    unit: str
    rows: Sequence[Row]
    missing: Sequence[Missing] = ()
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, table: Table) -> Self:
        names = {side.name for side in table.sides}
        if len(names) != len(table.sides):
            raise ValueError(f"{table.key}: two sides of one name")
        if table.unit not in UNITS:
            raise ValueError(f"{table.key}: {table.unit!r} is no unit")
        return cls(
            table.key,
            table.title,
            table.unit,
            [_row(table, side) for side in table.sides],
            tuple(table.missing),
            tuple(table.notes),
        )

    def row(self, name: str) -> Row | None:
        """The side of that name, where it took part."""
        return next((row for row in self.rows if row.name == name), None)


def _row(table: Table, side: Side) -> Row:
    figures = table.samples.figures
    # A limit that is not installed here leaves the figure without a ratio.
    limits = figures.get(side.limit) if side.limit is not None else None
    return Row(
        name=side.name,
        figure=Spread.of(figures[side.name]),
        turns=len(figures[side.name]),
        limit=side.limit,
        ratio=ratio(figures[side.name], limits) if limits else None,
        at_least=side.at_least,
        at_most=side.at_most,
        note=side.note,
        extra={
            name: Spread.of(values)
            for name, values in table.samples.extras[side.name].items()
        },
    )


@dataclass
class Section:
    """A measurement: its tables, or why there are none."""

    title: str
    text: str
    results: list[Result] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


@dataclass
class Run:
    """All measurements of a run, by name, and where it was made."""

    mode: str
    environment: dict[str, Any]
    sections: dict[str, Section] = field(default_factory=dict)

    def result(self, key: str) -> Result | None:
        """The table of that key, where it was measured."""
        return next((r for r in self.results() if r.key == key), None)

    def results(self) -> list[Result]:
        return [
            result
            for section in self.sections.values()
            for result in section.results
        ]

    def missing(self) -> list[Missing]:
        """What is to be installed for the sides that did not take part."""
        found: dict[Missing, None] = {}
        for section in self.sections.values():
            found |= dict.fromkeys(section.missing)
            for result in section.results:
                found |= dict.fromkeys(result.missing)
        return list(found)

    def kept(self) -> Self:
        """The run in four significant digits, as it is kept."""
        return self._of(_rounded(dataclasses.asdict(self)))

    def save(self, path: Path) -> None:
        """Writes the run as JSON, in four significant digits."""
        text = json.dumps(_rounded(dataclasses.asdict(self)), indent=1)
        path.write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what save() wrote."""
        return cls._of(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def _of(cls, data: dict[str, Any]) -> Self:
        sections = {
            name: _section(section)
            for name, section in data["sections"].items()
        }
        return cls(data["mode"], data["environment"], sections)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _section(data: dict[str, Any]) -> Section:
    results = [_result(result) for result in data.pop("results")]
    missing = [Missing(**one) for one in data.pop("missing")]
    return Section(results=results, missing=missing, **data)


def _result(data: dict[str, Any]) -> Result:
    return Result(
        rows=[_loaded_row(row) for row in data.pop("rows")],
        missing=tuple(Missing(**one) for one in data.pop("missing")),
        notes=tuple(data.pop("notes")),
        **data,
    )


def _loaded_row(data: dict[str, Any]) -> Row:
    figure = Spread(**data.pop("figure"))
    ratio = data.pop("ratio")
    extra = {name: Spread(**one) for name, one in data.pop("extra").items()}
    return Row(
        figure=figure,
        ratio=Spread(**ratio) if ratio else None,
        extra=extra,
        **data,
    )
