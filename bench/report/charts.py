"""Kinds of plots: grey, hatched and marked, so that they can be read in black
and white; the limit is a line."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..results import Result, Row
from ..tools import peers
from .tables import heading, number

# Curves are told apart by marker and dash, bars by grey and hatch.
_LINES: Final = (
    ("o", "-", "0.0"),
    ("s", "--", "0.25"),
    ("^", "-.", "0.4"),
    ("D", ":", "0.4"),
    ("v", (0, (5, 1)), "0.55"),
    ("x", (0, (1, 1)), "0.2"),
)
_DARK: Final = {"color": "0.35", "hatch": ""}
_LIGHT: Final = {"color": "0.85", "hatch": "////"}
_EDGE: Final = {"edgecolor": "black", "linewidth": 0.5}

_COLUMNS: Final = 2
_WIDTH: Final = 4.8  # inches, of one
_BAR: Final = 0.22

_PARTS: Final = {"tx, ns": ("sender", _DARK), "rx, ns": ("receiver", _LIGHT)}

# The sides of a loop whose parts are drawn, the limit first, and how they are
# labelled: each with stamps off and on, where they can be off.
_STACKED: Final = {
    "C, bare": "C, bare",
    "C, bare, stamps": "C, bare, stamps",
    "C": "C, VLAN tags",
    "C, stamps": "C, VLAN tags, stamps",
    "rawmmsg": "rawmmsg",
    "rawmmsg, stamps": "rawmmsg, stamps",
    "stdlib": "stdlib",
    "stdlib, stamps": "stdlib, stamps",
    "TPACKET_V2": "TPACKET_V2 (stamps)",
    "TPACKET_V2, copied": "TPACKET_V2, copied (stamps)",
    "TPACKET_V2, in cache": "TPACKET_V2, in cache (stamps)",
    "TPACKET_V3": "TPACKET_V3 (stamps)",
    "TPACKET_V3, copied": "TPACKET_V3, copied (stamps)",
    "TPACKET_V3, in cache": "TPACKET_V3, in cache (stamps)",
    "libpcap": "libpcap (stamps)",
    "libpcap, inject": "libpcap, inject (stamps)",
}


def close(figure: Any) -> None:
    """Frees it."""
    peers.module("matplotlib.pyplot").close(figure)


def curves(tables: Mapping[str, Mapping[int, Result]]) -> Any:
    """Figures by batch size, for the sides that take part in all of them; a
    plot for each size of frame."""
    figure, all_axes = _grid(len(tables), 3.2)
    for axes, (size, by_batch) in zip(all_axes, tables.items(), strict=True):
        batches = sorted(by_batch)
        results = [by_batch[batch] for batch in batches]
        limit = _limit(results[0])
        styles = itertools.cycle(_LINES)
        for name in _common(results):
            medians = [
                row.figure.median
                for result in results
                if (row := result.row(name)) is not None
            ]
            if limit is not None and name == limit.name:
                axes.plot(batches, medians, "k", linewidth=2.5, label=name)
                continue
            marker, dash, grey = next(styles)
            style = {"color": grey, "linestyle": dash, "marker": marker}
            axes.plot(batches, medians, **style, markersize=4, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
        axes.minorticks_off()
        axes.set_xlabel("packets in a batch")
        axes.set_ylabel(heading(results[0].unit))
        axes.set_ylim(bottom=0)
        axes.set_title(f"{int(size):,}-byte frames", fontsize=9)
    _legend(figure, all_axes[0])
    return figure


def stacks(tables: Sequence[Result]) -> Any:
    """What sending and receiving take, on top of each other."""
    figure, all_axes = _grid(len(tables), 1.0 + _BAR * len(_STACKED))
    for axes, result in zip(all_axes, tables, strict=True):
        shown = {
            label: row.extra
            for name, label in _STACKED.items()
            if (row := result.row(name)) is not None
        }
        left = [0.0] * len(shown)
        for part, (label, style) in _PARTS.items():
            widths = [extra[part].median for extra in shown.values()]
            axes.barh(
                list(shown), widths, left=left, label=label, **style, **_EDGE
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        _draw_limit(axes, left[0], next(iter(shown)))
        axes.invert_yaxis()
        axes.set_xlabel(heading(result.unit))
        axes.set_title(result.title, fontsize=9)
    _legend(figure, all_axes[0])
    return figure


def bars(groups: Sequence[Sequence[Result]]) -> Any:
    """The figure of each side, the quartiles as whiskers; a plot for each
    group of tables."""
    rows = [_rows(group) for group in groups]
    figure, all_axes = _grid(len(groups), 1.0 + _BAR * max(map(len, rows)))
    for axes, group, shown in zip(all_axes, groups, rows, strict=True):
        medians = [row.figure.median for row in shown]
        whiskers = [
            [row.figure.median - row.figure.low for row in shown],
            [row.figure.high - row.figure.median for row in shown],
        ]
        ours = [row.name.startswith("rawmmsg") for row in shown]
        styles = [_DARK if mine else _LIGHT for mine in ours]
        drawn = axes.barh(
            [row.name for row in shown],
            medians,
            xerr=whiskers,
            color=[style["color"] for style in styles],
            hatch=[style["hatch"] for style in styles],
            error_kw={"elinewidth": 0.8, "capsize": 2},
            **_EDGE,
        )
        labels = [f" {number(median)}" for median in medians]
        axes.bar_label(drawn, labels, fontsize=7)
        limit = _limit(group[0])
        if limit is not None:
            _draw_limit(axes, limit.figure.median, limit.name)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel(heading(group[0].unit))
        axes.set_title(group[0].title, fontsize=9, wrap=True)
    _legend(figure, all_axes[0])
    return figure


def _grid(count: int, height: float) -> tuple[Any, list[Any]]:
    """A figure with so many plots."""
    columns = min(count, _COLUMNS)
    lines = -(-count // columns)
    figure, axes = peers.module("matplotlib.pyplot").subplots(
        lines,
        columns,
        figsize=(_WIDTH * columns, height * lines),
        squeeze=False,
        layout="constrained",
    )
    flat = list(axes.flat)
    for unused in flat[count:]:
        unused.remove()
    return figure, flat[:count]


def _common(results: Sequence[Result]) -> list[str]:
    first, *others = [[row.name for row in one.rows] for one in results]
    return [name for name in first if all(name in one for one in others)]


def _limit(result: Result) -> Row | None:
    """The side that others are compared with; the first, if several."""
    limits = [row.limit for row in result.rows if row.limit is not None]
    return result.row(limits[0]) if limits else None


def _rows(group: Sequence[Result]) -> list[Row]:
    """Each side once, but for controls; of one unit."""
    rows: dict[str, Row] = {}
    for result in group:
        if result.unit == group[0].unit:
            for row in result.rows:
                if not row.name.endswith("control"):
                    rows.setdefault(row.name, row)
    return list(rows.values())


def _draw_limit(axes: Any, figure: float, name: str) -> None:
    axes.axvline(
        figure,
        color="black",
        linestyle="--",
        linewidth=1,
        label=f"the limit: {name}",
    )


def _legend(figure: Any, axes: Any) -> None:
    """Below the plots, for all of them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, fontsize=8, ncols=4, loc="outside lower center"
        )
