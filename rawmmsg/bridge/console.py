"""What the user sees: a line of statistics each second, and the summary."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from time import monotonic

from .._command.terminal import has_room, print_line
from .direction import Direction
from .drops import Dropped

__all__ = ["Ticker", "summary"]

_HEADER_EVERY = 20
_COLUMNS = " frames/s    Mbit/s  dropped  frames/call"
_BETWEEN = " | "


class Ticker:
    """Prints lines of statistics, each for the time since the last one."""

    def __init__(self, directions: Sequence[Direction]) -> None:
        self._rates = [_Rate(one) for one in directions]
        self._lines = 0

    def show(self) -> None:
        """Prints a line, unless that would block: if the user stops the
        terminal (Ctrl-S), frames still pass."""
        if not has_room():
            return
        if self._lines % _HEADER_EVERY == 0:
            names = [rate.name for rate in self._rates]
            if max(map(len, names)) > len(_COLUMNS):
                names = ["A > B", "B > A"]
            self._say(f"{name:^{len(_COLUMNS)}}" for name in names)
            self._say(_COLUMNS for _ in self._rates)
        self._lines += 1
        self._say(rate.next() for rate in self._rates)

    def _say(self, columns: Iterable[str]) -> None:
        print_line(_BETWEEN.join(columns))


class _Rate:
    """The part of a line that is about one direction."""

    def __init__(self, direction: Direction) -> None:
        self.name = _name(direction)
        self._direction = direction
        self._then = monotonic()
        self._before = _counts(direction)

    def next(self) -> str:
        now, counts = monotonic(), _counts(self._direction)
        seconds = max(now - self._then, 1e-9)
        frames, size, dropped, batches = (
            new - old for new, old in zip(counts, self._before, strict=True)
        )
        self._then, self._before = now, counts
        per_call = frames / batches if batches else 0.0
        return (
            f"{frames / seconds:9,.0f} {size * 8e-6 / seconds:9,.2f}"
            f" {dropped:8,} {per_call:12.1f}"
        )


def _counts(direction: Direction) -> tuple[int, int, int, int]:
    return (
        direction.received,
        direction.bytes_received,
        direction.dropped.total + (direction.kernel_drops or 0),
        direction.batches,
    )


def _name(direction: Direction) -> str:
    return f"{direction.source.name} > {direction.sink.name}"


def summary(direction: Direction) -> str:
    """Returns the lines about all frames of a direction."""
    received, batches = direction.received, direction.batches
    per_call = received / batches if batches else 0.0
    lines = [
        _name(direction),
        f"{received:,} frames received, {direction.bytes_received:,} bytes,"
        f" {per_call:.1f} frames per call",
    ]
    if direction.gained:
        lines.append(f"{direction.gained:,} more frames by segmentation")
    lines += [
        f"{direction.sent:,} frames sent{_merged(direction)}",
        f"{direction.dropped.total:,} frames dropped"
        f"{_reasons(direction.dropped)}",
    ]
    if direction.kernel_drops is not None:
        lines.append(f"{direction.kernel_drops:,} frames dropped by kernel")
    return "\n  ".join(lines)


def _merged(direction: Direction) -> str:
    if not direction.joined:
        return ""
    return f", merged into {direction.sent - direction.joined:,}"


def _reasons(dropped: Dropped) -> str:
    counts = [
        f"{getattr(dropped, field.name):,} {field.name.replace('_', ' ')}"
        for field in fields(dropped)
        if getattr(dropped, field.name)
    ]
    return f": {', '.join(counts)}" if counts else ""
