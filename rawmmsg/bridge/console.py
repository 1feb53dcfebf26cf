"""What the user sees: a line a second, and the summary."""

import contextlib
import os
import select
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from time import monotonic

from .direction import Direction
from .drops import Dropped

__all__ = ["Ticker", "is_terminal", "say", "summary"]

_HEADER_EVERY = 20
_COLUMNS = " frames/s    Mbit/s  dropped  fill"
_BETWEEN = " | "


def say(text: str) -> None:
    """Prints it on standard error, if it can be: a pipe whose reader has gone,
    a full disk or no standard error at all end no bridge."""
    if sys.stderr is None:
        return
    # Past its buffer, which would keep what could not be written and fail
    # again when the interpreter ends.
    with contextlib.suppress(OSError):
        line = f"{text}\n".encode(sys.stderr.encoding, "backslashreplace")
        os.write(sys.stderr.fileno(), line)


def is_terminal() -> bool:
    """Whether somebody looks at standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


class Ticker:
    """Prints a line of what has happened since the last one."""

    def __init__(self, directions: Sequence[Direction]) -> None:
        self._rates = [_Rate(one) for one in directions]
        self._lines = 0

    def show(self) -> None:
        """Unless that had to wait: a terminal that has been stopped (Ctrl-S)
        stops no frames."""
        if sys.stderr is None or not _has_room(sys.stderr.fileno()):
            return
        if self._lines % _HEADER_EVERY == 0:
            self._say(
                f"{rate.name[: len(_COLUMNS)]:^{len(_COLUMNS)}}"
                for rate in self._rates
            )
            self._say(_COLUMNS for _ in self._rates)
        self._lines += 1
        self._say(rate.next() for rate in self._rates)

    def _say(self, columns: Iterable[str]) -> None:
        say(_BETWEEN.join(columns))


class _Rate:
    """One direction's part of the line."""

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
        fill = frames / batches if batches else 0.0
        return (
            f"{frames / seconds:9,.0f} {size * 8e-6 / seconds:9,.2f}"
            f" {dropped:8,} {fill:5.1f}"
        )


def _has_room(descriptor: int) -> bool:
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
    """What has become of its frames."""
    received, batches = direction.received, direction.batches
    fill = received / batches if batches else 0.0
    lines = [
        _name(direction),
        f"{received:,} frames received, {direction.bytes_received:,} bytes,"
        f" {fill:.1f} a batch",
    ]
    if direction.gained:
        lines.append(f"{direction.gained:,} frames more by segmentation")
    lines += [
        f"{direction.sent:,} frames sent",
        f"{direction.dropped.total:,} frames dropped"
        f"{_reasons(direction.dropped)}",
    ]
    if direction.kernel_drops is not None:
        lines.append(f"{direction.kernel_drops:,} frames dropped by kernel")
    return "\n  ".join(lines)


def _reasons(dropped: Dropped) -> str:
    counts = [
        f"{getattr(dropped, field.name):,} {field.name.replace('_', ' ')}"
        for field in fields(dropped)
        if getattr(dropped, field.name)
    ]
    return f": {', '.join(counts)}" if counts else ""
