"""What the user sees: a line of statistics each second, and the summary."""

import contextlib
import os
import select
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from time import monotonic

from .direction import Direction
from .drops import Dropped

__all__ = ["Ticker", "has_room", "is_terminal", "say", "summary"]

_HEADER_EVERY = 20
_COLUMNS = " frames/s    Mbit/s  dropped  frames/call"
_BETWEEN = " | "


def say(text: str) -> None:
    """Prints a line on standard error. Ignores errors: the bridge continues
    if the reader of a pipe has gone, a disk is full, or there is no standard
    error."""
    if sys.stderr is None:
        return
    # Not through its buffer: it would keep a line that could not be written,
    # and fail again when the interpreter exits.
    with contextlib.suppress(OSError):
        line = f"{text}\n".encode(sys.stderr.encoding, "backslashreplace")
        os.write(sys.stderr.fileno(), line)


def is_terminal() -> bool:
    """Returns whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class Ticker:
    """Prints lines of statistics, each for the time since the last one."""

    def __init__(self, directions: Sequence[Direction]) -> None:
        self._rates = [_Rate(one) for one in directions]
        self._lines = 0

    def show(self) -> None:
        """Prints a line, unless that would block: if the user stops the
        terminal (Ctrl-S), frames still pass."""
        if sys.stderr is None or not has_room(sys.stderr.fileno()):
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
        say(_BETWEEN.join(columns))


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


def has_room(descriptor: int) -> bool:
    """Returns whether a line can be written without waiting."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


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
