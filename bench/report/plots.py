"""The plots of a run, as SVG and PNG."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..results import Result, Run
from ..tools import peers
from . import charts

# Measurements with a table for each size and batch, drawn as curves.
_CURVES: Final = {
    "loop": "Cost of a packet that is sent and received, by batch size",
    "python_cost": "The same with a look at each packet, from Python",
}

# Others, a bar for each side.
_BARS: Final = {
    "send": "Send rates",
    "capture": "Received at full blast, with a CPU for either end",
    "forwarding": "Forwarding bulk TCP",
    "forwarding_small": "Forwarding small frames",
    "superframes": "Super-frames and others, sent and received on one CPU",
    "latency": "One frame there and back",
}

_STACKS: Final = "cpu"
_STACKED_BATCH: Final = 64

# Neither says when or by which version it was written: the same run gives the
# same file.
_FORMS: Final[dict[str, dict[str, Any]]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
_STYLE: Final = {
    "svg.hashsalt": "rawmmsg",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
}
_DPI: Final = 110


def of(name: str) -> Sequence[str]:
    """The plots that show a measurement, if the run has figures for them."""
    return ("loop", _STACKS) if name == "loop" else (name,)


def titles(run: Run) -> dict[str, str]:
    """The plots that draw() writes, and their titles."""
    return {name: title for name, title, _ in _plots(run)}


def draw(run: Run, folder: Path) -> None:
    """Writes each plot that the run has figures for, NAME.svg and NAME.png.
    Raises Unavailable without matplotlib."""
    matplotlib: Any = peers.module("matplotlib")
    matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE):
        for name, title, make in _plots(run):
            figure = make()
            figure.suptitle(title)
            for form, metadata in _FORMS.items():
                figure.savefig(
                    folder / f"{name}.{form}",
                    metadata=metadata,
                    dpi=_DPI,
                    bbox_inches="tight",
                )
            charts.close(figure)


def _plots(run: Run) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name and title of each plot, and what makes its figure."""
    for name, title in _CURVES.items():
        tables = {
            size: by_batch
            for size, by_batch in _by_size(run, name).items()
            if len(by_batch) > 1
        }
        if tables:
            yield name, title, partial(charts.curves, tables)
    stacked = [
        by_batch[_STACKED_BATCH]
        for by_batch in _by_size(run, "loop").values()
        if _STACKED_BATCH in by_batch
    ]
    if stacked:
        title = f"CPU time of a packet, in batches of {_STACKED_BATCH}"
        yield _STACKS, title, partial(charts.stacks, stacked)
    for name, title in _BARS.items():
        groups = _groups(run, name)
        if groups:
            yield name, title, partial(charts.bars, groups)


def _by_size(run: Run, name: str) -> dict[str, dict[int, Result]]:
    """The tables NAME/SIZEB/batchN, by size and batch."""
    found: dict[str, dict[int, Result]] = {}
    for result in run.results():
        key = re.fullmatch(rf"{name}/(\d+)B/batch(\d+)", result.key)
        if key is not None:
            found.setdefault(key[1], {})[int(key[2])] = result
    return found


def _groups(run: Run, name: str) -> list[list[Result]]:
    """The tables of a measurement that belong together, NAME/GROUP and
    NAME/GROUP/..."""
    groups: dict[str, list[Result]] = {}
    for result in run.results():
        parts = result.key.split("/")
        if parts[0] == name and result.rows:
            groups.setdefault(parts[1], []).append(result)
    return list(groups.values())
