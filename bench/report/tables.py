"""Tables of figures, for a terminal and in Markdown."""

import unicodedata
from collections.abc import Sequence

from ..framework import UNITS
from ..results import Result, Row
from ..spread import Spread


def number(value: float) -> str:
    """Four significant digits at most, and no exponent."""
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 3
    return f"{value:,.{digits}f}"


def spread(value: Spread, digits: int | None = None) -> str:
    """The median and, in brackets, the quartiles."""
    parts = [value.median, value.low, value.high]
    texts = [
        number(one) if digits is None else f"{one:.{digits}f}" for one in parts
    ]
    return f"{texts[0]} ({texts[1]}-{texts[2]})"


def verdict(row: Row) -> str:
    """The target, and whether it is met."""
    if row.holds is None:
        return ""
    return f"{row.target}: {'holds' if row.holds else 'does not hold'}"


def heading(unit: str) -> str:
    more = UNITS[unit]
    if more is None:
        return unit
    return f"{unit} ({'more' if more else 'less'} is better)"


def cells(result: Result) -> list[list[str]]:
    """The table, its heading first; no column that is empty, and no table
    without sides."""
    if not result.rows:
        return []
    extras: dict[str, None] = {}
    for row in result.rows:
        extras |= dict.fromkeys(row.extra)
    table = [["", heading(result.unit), "ratio", "to", "target", *extras, ""]]
    for row in result.rows:
        line = [row.name, spread(row.figure)]
        line += [spread(row.ratio, 3) if row.ratio else "", row.limit or ""]
        line.append(verdict(row))
        line += [
            spread(row.extra[name]) if name in row.extra else ""
            for name in extras
        ]
        table.append([*line, row.note])
    used = [any(column) for column in zip(*table[1:], strict=True)]
    return [
        [cell for cell, keep in zip(line, used, strict=True) if keep]
        for line in table
    ]


def footnotes(result: Result) -> list[str]:
    """What there is to say of the table as a whole."""
    lines = [*result.notes, *map(str, result.missing)]
    turns = sorted({row.turns for row in result.rows})
    if turns:
        counts = " or ".join(map(str, turns))
        noun = "turn" if turns == [1] else "turns"
        lines.insert(0, f"{counts} {noun} a side: median (quartiles).")
    return lines


def text(result: Result) -> str:
    """The table for a terminal."""
    table = cells(result)
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    lines = [f"{result.title} [{result.key}]"]
    for line in table:
        padded = [
            cell + " " * (width - _width(cell))
            for cell, width in zip(line, widths, strict=True)
        ]
        lines.append(f"  {'  '.join(padded)}".rstrip())
    return "\n".join([*lines, *(f"  {note}" for note in footnotes(result))])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, its heading first."""
    first, *rest = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in lines
    ]
    return "\n".join([first, "|" + " --- |" * len(lines[0]), *rest])


def _width(cell: str) -> int:
    """Columns on a terminal."""
    return sum(
        0
        if unicodedata.combining(letter)
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in cell
    )
