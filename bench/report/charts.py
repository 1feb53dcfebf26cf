"""The two plots, loop.svg and send.svg: SVG with its text as text, readable in
black and white."""

import math
from collections.abc import Iterator, Sequence
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

# Curves differ in grey and dashes. The baseline comes first.
_CURVES: Final = (
    ("#000", "", 3.0),
    ("#000", "6 2", 1.5),
    ("#777", "", 1.5),
    ("#777", "6 2", 1.5),
    ("#999", "2 2", 1.5),
    ("#333", "8 2 2 2", 1.5),
)
_BATCH: Final = 64


def plots(run: Run) -> Iterator[tuple[str, str]]:
    """The names and contents of the plots that the run has figures for."""
    batches = [f"/batch{n}" for n in (1, 4, 16, 64, 256, 1024)]
    rates = ["", "/programs", "/once"]
    for name, title, draw, height, keys, least in (
        (
            "loop",
            "Cost of a packet sent and received",
            _curves,
            335,
            batches,
            2,
        ),
        ("send", "Send rates", _bars, 390, rates, 1),
    ):
        panels = []
        for size in (64, 1500):
            found = [run.table(f"{name}/{size}B{key}") for key in keys]
            tables = [table for table in found if table is not None]
            if len(tables) >= least:
                panels.append(draw(tables, f"{size:,}-byte frames"))
        if panels:
            yield f"{name}.svg", _document(title, panels, height)


def _document(title: str, panels: Sequence[Sequence[str]], height: int) -> str:
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


def _curves(tables: Sequence[Table], title: str) -> list[str]:
    """The contenders that are in all tables, by batch size."""
    left, right, top, bottom = 60, 425, 45, 250
    batches = [int(table.key.rpartition("batch")[2]) for table in tables]
    medians = {
        name: [row.figure.median for row in rows if row is not None]
        for name in _rows(tables[:1])
        if all(rows := [table.row(name) for table in tables])
    }
    step, most = _scale(max(map(max, medians.values())))

    def x(batch: int) -> float:
        share = math.log(batch) / math.log(batches[-1])
        return left + share * (right - left)

    def y(value: float) -> float:
        return bottom - value / most * (bottom - top)

    middle = (left + right) / 2
    lines = [
        _text(middle, 34, title, "mid"),
        _text(middle, bottom + 32, "packets in a batch", "mid"),
        _line(left, bottom, right, bottom, "axis"),
        f'<text transform="translate(14 {(top + bottom) / 2}) rotate(-90)"'
        f' class="mid">{escape(heading(tables[0].unit))}</text>',
    ]
    for i in range(round(most / step) + 1):
        at = y(i * step)
        lines.append(_line(left, at, right, at, "grid"))
        lines.append(_text(left - 6, at + 4, f"{i * step:,g}", "end"))
    for batch in batches:
        lines.append(_text(x(batch), bottom + 16, f"{batch:,}", "mid"))
    for i, (name, style) in enumerate(zip(medians, _CURVES, strict=False)):
        grey, dashes, thickness = style
        look = f'stroke="{grey}" stroke-dasharray="{dashes or "none"}"'
        look += f' style="stroke-width:{thickness}"'
        pairs = zip(map(x, batches), map(y, medians[name]), strict=True)
        points = " ".join(f"{across:.1f},{up:.1f}" for across, up in pairs)
        at_x, at_y = left + 125 * (i % 3), bottom + 55 + 18 * (i // 3)
        lines += [
            f'<polyline class="curve" points="{points}" {look}/>',
            f'<path class="curve" d="M{at_x} {at_y - 4}h28" {look}/>',
            _text(at_x + 34, at_y, name),
        ]
    return lines


def _bars(tables: Sequence[Table], title: str) -> list[str]:
    """Each contender once: the median, and the quartiles as whiskers."""
    left, right, top = 170, 385, 45
    rows = _rows(tables)
    step, most = _scale(max(row.figure.high for row in rows.values()))
    bottom = top + 20 * len(rows)

    def x(value: float) -> float:
        return left + value / most * (right - left)

    baseline = next(iter(rows.values()))
    words = f"{heading(tables[0].unit)}; dashed: {baseline.name}"
    at, middle = x(baseline.figure.median), (left + right) / 2
    dashed = _line(at, top, at, bottom, "baseline")
    lines = [
        _text(middle, 34, title, "mid"),
        _text(middle, bottom + 34, words, "mid"),
    ]
    for i in range(round(most / step) + 1):
        at = x(i * step)
        lines.append(_line(at, top, at, bottom, "grid"))
        lines.append(_text(at, bottom + 16, f"{i * step:g}", "mid"))
    labels = []
    for i, (name, row) in enumerate(rows.items()):
        y, figure = top + 20 * i + 10, row.figure
        kind = "ours" if name.startswith("rawmmsg") else "other"
        low, width, high = (
            x(figure.low),
            x(figure.median) - left,
            x(figure.high),
        )
        lines += [
            _text(left - 6, y + 4, name, "end"),
            f'<rect x="{left}" y="{y - 6}" width="{width:.1f}"'
            f' height="12" class="bar {kind}"/>',
            _line(low, y, high, y, "whisker"),
        ]
        label = number(figure.median)
        labels.append(_text(high + 5, y + 4, label, "label"))
    return [*lines, dashed, *labels, _line(left, top, left, bottom, "axis")]


def _rows(tables: Sequence[Table]) -> dict[str, Row]:
    """The first row of each contender, without the controls."""
    rows: dict[str, Row] = {}
    for row in (row for table in tables for row in table.rows):
        if not row.name.endswith("control"):
            rows.setdefault(row.name, row)
    return rows


def _scale(most: float) -> tuple[float, float]:
    """The distance of grid lines, and the end of the scale."""
    step = 10 ** math.floor(math.log10(most))
    for divisor in (1, 2, 4):
        if most / (step / divisor) >= 3:
            step /= divisor
            break
    return step, step * math.ceil(most / step)
