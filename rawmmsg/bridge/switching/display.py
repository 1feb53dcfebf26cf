"""What the user of `rawmmsg switch` sees: a line of statistics each second,
objects of JSON, the address table, and the summary."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from time import monotonic, time

from .counts import PortCounts
from .output import Output
from .switch import Switch

__all__ = ["Reporter", "Ticker", "addresses", "summary"]

_HEADER_EVERY = 20
# The headings, and how many characters a column has. More ports than fit are
# left out.
_COLUMNS = (
    ("frames/s", 9),
    ("Mbit/s", 9),
    ("flooded/s", 10),
    ("dropped", 8),
    ("stations", 9),
)
_PORTS = " busiest ports, frames/s"


class _Totals:
    """Counts of all ports together, and of each."""

    def __init__(self, switch: Switch) -> None:
        ports = switch.statistics()
        total = sum(ports.values(), PortCounts())
        self.at = monotonic()
        self.frames = {name: one.received for name, one in ports.items()}
        self.size = total.bytes
        self.flooded = total.flooded
        self.dropped = (
            sum(total.dropped.values())
            + sum(total.copies_dropped.values())
            + total.kernel_dropped
        )


class Ticker:
    """Prints lines of statistics, each for the time since the last one."""

    def __init__(self, switch: Switch, output: Output) -> None:
        self._switch = switch
        self._output = output
        self._before = _Totals(switch)
        self._lines = 0

    def show(self) -> None:
        """Prints a line, unless that would block: if the user stops the
        terminal (Ctrl-S), frames still pass."""
        width = _width()
        text = self._next(width)
        if self._lines % _HEADER_EVERY == 0:
            headings = [f"{name:>{size}}" for name, size in _COLUMNS]
            text = f"{_fit([*headings, _PORTS], width)}\n{text}"
        if self._output.put(f"{text}\n"):
            self._lines += 1

    def _next(self, width: int) -> str:
        now, then = _Totals(self._switch), self._before
        self._before = now
        seconds = max(now.at - then.at, 1e-9)
        rates = {
            name: (count - then.frames.get(name, 0)) / seconds
            for name, count in now.frames.items()
        }
        numbers = (
            f"{sum(rates.values()):,.0f}",
            f"{(now.size - then.size) * 8e-6 / seconds:,.2f}",
            f"{(now.flooded - then.flooded) / seconds:,.0f}",
            f"{now.dropped - then.dropped:,}",
            f"{self._switch.stations()['known']:,}",
        )
        cells = [
            f"{number:>{size}}"
            for number, (_, size) in zip(numbers, _COLUMNS, strict=True)
        ]
        busiest = sorted(rates, key=lambda name: -rates[name])
        ports = [f" {name} {rates[name]:,.0f}" for name in busiest]
        return _fit([*cells, *ports], width)


def _fit(cells: Iterable[str], width: int) -> str:
    """Joins as many cells as there is room for, at least one."""
    line, *rest = cells
    for cell in rest:
        if len(line) + 1 + len(cell) > width:
            break
        line += f" {cell}"
    return line


def _width() -> int:
    """The columns of the terminal, or as many as most have."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


class Reporter:
    """Prints an object of JSON on each line of its output."""

    def __init__(self, switch: Switch, output: Output) -> None:
        self._switch = switch
        self._output = output

    def show(self) -> None:
        """Prints one, unless that would block or the reader has gone."""
        self._output.put(self._line())

    def finish(self) -> None:
        """Prints the last one."""
        self._output.finish(self._line())

    def _line(self) -> str:
        return json.dumps(report(self._switch)) + "\n"


def report(switch: Switch) -> dict[str, object]:
    """The statistics, with stable names."""
    ports = switch.statistics()
    return {
        "time": round(time(), 3),
        "stations": switch.stations(),
        "ports": {name: asdict(counts) for name, counts in ports.items()},
    }


def addresses(switch: Switch) -> str:
    """Returns the address table as lines for people."""
    lines = ["VLAN  address            seconds ago  port"]
    lines += [
        f"{vlan:4}  {address}  {ago:11,.0f}  {name}"
        for vlan, address, name, ago in switch.addresses()
    ]
    return "\n".join(lines) + "\n"


def summary(name: str, counts: PortCounts) -> str:
    """Returns the lines about all frames of a port."""
    lines = [
        name,
        f"{counts.received:,} frames received, {counts.bytes:,} bytes",
        f"{counts.forwarded:,} frames forwarded, {counts.flooded:,} of them"
        " flooded",
    ]
    if counts.filtered:
        lines.append(f"{counts.filtered:,} frames filtered")
    lines.append(_drops("received frames dropped", counts.dropped))
    if counts.kernel_dropped:
        lines.append(f"{counts.kernel_dropped:,} frames dropped by kernel")
    lines.append(f"{counts.copies:,} copies for this port")
    if counts.made:
        lines.append(f"{counts.made:,} more frames by segmentation")
    if counts.joined:
        lines.append(f"{counts.joined:,} fewer frames by merging")
    lines += [
        f"{counts.sent:,} frames sent",
        _drops("copies dropped", counts.copies_dropped),
    ]
    return "\n  ".join(lines)


def _drops(what: str, reasons: Mapping[str, int]) -> str:
    total = sum(reasons.values())
    parts = [
        f"{count:,} {reason.replace('_', ' ')}"
        for reason, count in reasons.items()
    ]
    return f"{total:,} {what}" + (f": {', '.join(parts)}" if parts else "")
