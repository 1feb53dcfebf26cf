"""Tables of figures, for a terminal and in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ..lab.contender import UNITS
from ..lab.result import Row, Spread, Table


def number(value: float) -> str:
    """Four significant digits at most, and no exponent."""
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 3
    return f"{value:,.{digits}f}"


def spread(value: Spread, digits: int | None = None) -> str:
    """The median and, in brackets, the quartiles."""
    median, low, high = (
        number(one) if digits is None else f"{one:.{digits}f}"
        for one in (value.median, value.low, value.high)
    )
    return f"{median} ({low}-{high})"


def heading(unit: str) -> str:
    better = {None: "", True: " (more is better)", False: " (less is better)"}
    return unit + better[UNITS[unit]]


COLUMNS: Final = ("median (quartiles)", "ratio", "to", "target", "more")


def cells(table: Table) -> Iterator[list[str]]:
    """The cells of each row: its name, then COLUMNS. That of a control is in
    the row of its contender."""
    controls = {
        row.baseline: row
        for row in table.rows
        if row.name == f"{row.baseline}, control"
    }
    for row in table.rows:
        if controls.get(row.baseline) is row:
            continue
        more = [f"{name} {spread(value)}" for name, value in row.extra.items()]
        if row.name in controls and table.row(row.name) is row:
            more.insert(0, f"control {_judged(controls[row.name])}")
        yield [
            row.name,
            spread(row.figure),
            spread(row.ratio, 3) if row.ratio else "",
            row.baseline or "",
            verdict(row),
            "; ".join(more),
        ]


def verdict(row: Row) -> str:
    if row.holds is None:
        return ""
    return f"{row.target}: {'holds' if row.holds else 'does not hold'}"


def _judged(row: Row) -> str:
    assert row.ratio is not None
    words = verdict(row)
    return spread(row.ratio, 3) + (f" {words}" if words else "")


def footnotes(table: Table) -> list[str]:
    """What applies to the table as a whole."""
    count = table.rows[0].rounds if table.rows else 0
    rounds = "1 round." if count == 1 else f"{count} rounds."
    about = map(str, table.missing)
    return [heading(table.unit), rounds, *table.notes, *about]


def text(table: Table) -> str:
    """The table for a terminal."""
    lines = _aligned([["", *COLUMNS], *cells(table)])
    title = f"{table.title} [{table.key}]"
    return "\n".join([title, *lines, *(f"  {n}" for n in footnotes(table))])


def facts(values: Mapping[str, object]) -> str:
    """Names and values for a terminal."""
    return "\n".join(_aligned([[k, str(v)] for k, v in values.items()]))


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join(map(str.ljust, line, widths)).rstrip()
        for line in lines
    ]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first line is its heading."""
    first, *rest = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in lines
    ]
    return "\n".join([first, "|" + " --- |" * len(lines[0]), *rest])
