"""What the user of `rawmmsg switch` sees: a line of statistics each second,
objects of JSON, the address table, and the summary."""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from time import monotonic, time

from ..console import has_room, say
from .counts import PortCounts
from .switch import Switch

__all__ = ["Reporter", "Ticker", "addresses", "summary"]

_HEADER_EVERY = 20
_HEADER = " frames/s    Mbit/s  flooded/s  dropped  stations"


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

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._before = _Totals(switch)
        self._lines = 0

    def show(self) -> None:
        """Prints a line, unless that would block: if the user stops the
        terminal (Ctrl-S), frames still pass."""
        if sys.stderr is None or not has_room(sys.stderr.fileno()):
            return
        width = _width(sys.stderr.fileno())
        if self._lines % _HEADER_EVERY == 0:
            say(f"{_HEADER}  frames/s of the busiest ports"[:width])
        self._lines += 1
        say(self._next(width))

    def _next(self, width: int) -> str:
        now, then = _Totals(self._switch), self._before
        self._before = now
        seconds = max(now.at - then.at, 1e-9)
        rates = {
            name: (count - then.frames.get(name, 0)) / seconds
            for name, count in now.frames.items()
        }
        line = (
            f"{sum(rates.values()):9,.0f}"
            f" {(now.size - then.size) * 8e-6 / seconds:9,.2f}"
            f" {(now.flooded - then.flooded) / seconds:10,.0f}"
            f" {now.dropped - then.dropped:8,}"
            f" {self._switch.stations()['known']:9,} "
        )
        for name in sorted(rates, key=lambda name: -rates[name]):
            part = f" {name} {rates[name]:,.0f}"
            if len(line) + len(part) >= width:
                break
            line += part
        return line


def _width(descriptor: int) -> int:
    """The columns of a terminal, or as many as most have."""
    try:
        return os.get_terminal_size(descriptor).columns or 80
    except OSError:
        return 80


class Reporter:
    """Prints an object of JSON on each line of standard output."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    def show(self) -> None:
        """Prints one, unless that would block or the reader has gone."""
        if sys.stdout is None or not has_room(sys.stdout.fileno()):
            return
        line = json.dumps(report(self._switch)) + "\n"
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), line.encode())


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
    return "\n".join(lines)


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
