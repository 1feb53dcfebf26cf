"""The two plots, loop.svg and send.svg: SVG with its text as text, readable in
black and white."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from ..lab.result import Row, Run, Table
from .tables import heading, number

_STYLE: Final = (
    "text{font:11px sans-serif}"
    " .title{font-weight:bold} .end{text-anchor:end} .mid{text-anchor:middle}"
    " .axis,.whisker{stroke:#000} .grid{stroke:#ddd}"
    " .curve{fill:none;stroke-width:1.5}"
    " .ours{fill:#555} .other{fill:#ccc} .bar{stroke:#000;stroke-width:.5}"
    " .baseline{stroke:#000;stroke-dasharray:5 3}"
    " .label{paint-order:stroke;stroke:#fff;stroke-width:3px}"
)

# How curves are told apart: grey and dashes. The baseline comes first.
_CURVES: Final = (
    ("#000", "", 3.0),
    ("#000", "6 2", 1.5),
    ("#777", "", 1.5),
    ("#777", "6 2", 1.5),
    ("#999", "2 2", 1.5),
    ("#333", "8 2 2 2", 1.5),
)
_BATCH: Final = 64


def loop(run: Run) -> str:
    """The cost of a packet by batch size; empty if there are not enough
    figures. One panel for each packet size."""
    panels = []
    for size in (64, 1500):
        tables = {
            batch: table
            for batch in (1, 4, 16, 64, 256, 1024)
            if (table := run.table(f"loop/{size}B/batch{batch}")) is not None
        }
        if len(tables) > 1:
            panels.append(_curves(tables, f"{size:,}-byte frames"))
    return _document("Cost of a packet sent and received", panels, 335)


def send(run: Run) -> str:
    """The rates of all contenders; empty if there are none. One panel for
    each packet size."""
    panels = []
    for size in (64, 1500):
        keys = (
            f"send/{size}B",
            f"send/{size}B/programs",
            f"send/{size}B/once",
        )
        tables = [table for key in keys if (table := run.table(key))]
        if tables:
            panels.append(_bars(tables, f"{size:,}-byte frames"))
    return _document("Send rates", panels, 390)


def _document(title: str, panels: Sequence[Sequence[str]], height: int) -> str:
    if not panels:
        return ""
    width = 440 * len(panels)
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg"'
        f' viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(width / 2, 16, title, "title mid"),
    ]
    for i, panel in enumerate(panels):
        lines.append(f'<g transform="translate({440 * i} 0)">')
        lines += [" ".join(panel), "</g>"]
    return "\n".join([*lines, "</svg>\n"])


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        f' class="{kind}"/>'
    )


def _curves(tables: Mapping[int, Table], title: str) -> list[str]:
    """The contenders that are in all tables, by batch size."""
    left, right, top, bottom = 60, 425, 45, 250
    first, *others = tables.values()
    names = [
        row.name
        for row in first.rows
        if not row.name.endswith("control")
        and all(table.row(row.name) for table in others)
    ]
    medians = {
        name: [
            row.figure.median
            for table in tables.values()
            if (row := table.row(name)) is not None
        ]
        for name in names
    }
    step, most = _scale(max(max(values) for values in medians.values()))

    def x(batch: int) -> float:
        share = math.log(batch) / math.log(max(tables))
        return left + share * (right - left)

    def y(value: float) -> float:
        return bottom - value / most * (bottom - top)

    lines = [_text((left + right) / 2, 34, title, "mid")]
    for i in range(round(most / step) + 1):
        at = y(i * step)
        lines.append(_line(left, at, right, at, "grid"))
        lines.append(_text(left - 6, at + 4, f"{i * step:,g}", "end"))
    for batch in tables:
        lines.append(_text(x(batch), bottom + 16, f"{batch:,}", "mid"))
    lines.append(_line(left, bottom, right, bottom, "axis"))
    lines.append(
        _text((left + right) / 2, bottom + 32, "packets in a batch", "mid")
    )
    lines.append(
        f'<text transform="translate(14 {(top + bottom) / 2}) rotate(-90)"'
        f' class="mid">{escape(heading(first.unit))}</text>'
    )
    for i, (name, style) in enumerate(zip(names, _CURVES, strict=False)):
        grey, dashes, thickness = style
        look = f'stroke="{grey}" stroke-dasharray="{dashes or "none"}"'
        look += f' style="stroke-width:{thickness}"'
        points = " ".join(
            f"{x(batch):.1f},{y(value):.1f}"
            for batch, value in zip(tables, medians[name], strict=True)
        )
        lines.append(f'<polyline class="curve" points="{points}" {look}/>')
        at_x, at_y = left + 125 * (i % 3), bottom + 55 + 18 * (i // 3)
        lines.append(f'<path class="curve" d="M{at_x} {at_y - 4}h28" {look}/>')
        lines.append(_text(at_x + 34, at_y, name))
    return lines


def _bars(tables: Sequence[Table], title: str) -> list[str]:
    """Each contender once: the median, and the quartiles as whiskers."""
    left, right, top = 170, 385, 45
    rows: dict[str, Row] = {}
    for table in tables:
        for row in table.rows:
            if not row.name.endswith("control"):
                rows.setdefault(row.name, row)
    step, most = _scale(max(row.figure.high for row in rows.values()))
    bottom = top + 20 * len(rows)

    def x(value: float) -> float:
        return left + value / most * (right - left)

    lines = [_text((left + right) / 2, 34, title, "mid")]
    for i in range(round(most / step) + 1):
        at = x(i * step)
        lines.append(_line(at, top, at, bottom, "grid"))
        lines.append(_text(at, bottom + 16, f"{i * step:g}", "mid"))
    for i, (name, row) in enumerate(rows.items()):
        middle = top + 20 * i + 10
        kind = "ours" if name.startswith("rawmmsg") else "other"
        low, median, high = (
            x(value)
            for value in (row.figure.low, row.figure.median, row.figure.high)
        )
        lines.append(_text(left - 6, middle + 4, name, "end"))
        lines.append(
            f'<rect x="{left}" y="{middle - 6}" width="{median - left:.1f}"'
            f' height="12" class="bar {kind}"/>'
        )
        lines.append(_line(low, middle, high, middle, "whisker"))
    baseline = next(iter(rows.values()))
    at = x(baseline.figure.median)
    lines.append(_line(at, top, at, bottom, "baseline"))
    for i, row in enumerate(rows.values()):
        middle, label = top + 20 * i + 10, number(row.figure.median)
        at = x(row.figure.high) + 5
        lines.append(_text(at, middle + 4, label, "label"))
    lines.append(_line(left, top, left, bottom, "axis"))
    words = f"{heading(tables[0].unit)}; dashed: {baseline.name}"
    lines.append(_text((left + right) / 2, bottom + 34, words, "mid"))
    return lines


def _scale(most: float) -> tuple[float, float]:
    """The distance of grid lines, and the end of the scale."""
    step = 10 ** math.floor(math.log10(most))
    for divisor in (1, 2, 4):
        if most / (step / divisor) >= 3:
            step /= divisor
            break
    return step, step * math.ceil(most / step)


def plots(run: Run) -> Iterator[tuple[str, str]]:
    """The names and contents of the plots that the run has figures for."""
    for name, draw in (("loop", loop), ("send", send)):
        text = draw(run)
        if text:
            yield f"{name}.svg", text
