"""Tables of figures, for a terminal and in Markdown."""

from collections.abc import Mapping, Sequence

from ..lab.contender import UNITS
from ..lab.result import Row, Spread, Table


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


def cells(table: Table) -> list[list[str]]:
    """The cells of the table with its heading, without empty columns."""
    if not table.rows:
        return []
    extras: dict[str, None] = {}
    for row in table.rows:
        extras |= dict.fromkeys(row.extra)
    lines = [
        ["", heading(table.unit), "ratio", "to", "target", *extras, "note"]
    ]
    for row in table.rows:
        line = [row.name, spread(row.figure)]
        line += [spread(row.ratio, 3) if row.ratio else "", row.baseline or ""]
        line.append(verdict(row))
        line += [
            spread(row.extra[name]) if name in row.extra else ""
            for name in extras
        ]
        lines.append([*line, row.note])
    used = [any(column) for column in zip(*lines[1:], strict=True)]
    return [
        [cell for cell, keep in zip(line, used, strict=True) if keep]
        for line in lines
    ]


def footnotes(table: Table) -> list[str]:
    """What applies to the table as a whole."""
    lines = [*table.notes, *map(str, table.missing)]
    if table.rows:
        count = table.rows[0].rounds
        noun = "round" if count == 1 else "rounds"
        lines.insert(0, f"{count} {noun}: median (quartiles).")
    return lines


def text(table: Table) -> str:
    """The table for a terminal."""
    lines = [f"{table.title} [{table.key}]", *_aligned(cells(table))]
    return "\n".join([*lines, *(f"  {note}" for note in footnotes(table))])


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
