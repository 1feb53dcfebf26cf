"""What the user sees: a line a second, and the summary."""

import select
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from time import monotonic

from .directions import Direction, Dropped

__all__ = ["Ticker", "summary"]

_HEADER_EVERY = 20
_COLUMNS = " frames/s    Mbit/s  dropped  fill"
_BETWEEN = " | "


class Ticker:
    """Prints a line of what has happened since the last one."""

    def __init__(self, directions: Sequence[Direction]) -> None:
        self._rates = [_Rate(one) for one in directions]
        self._lines = 0

    def show(self) -> None:
        """Unless that had to wait: a terminal that has been stopped (Ctrl-S)
        stops no frames."""
        if not _has_room(sys.stderr.fileno()):
            return
        if self._lines % _HEADER_EVERY == 0:
            self._print(
                f"{rate.name[: len(_COLUMNS)]:^{len(_COLUMNS)}}"
                for rate in self._rates
            )
            self._print(_COLUMNS for _ in self._rates)
        self._lines += 1
        self._print(rate.next() for rate in self._rates)

    def _print(self, columns: Iterable[str]) -> None:
        print(_BETWEEN.join(columns), file=sys.stderr, flush=True)


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
