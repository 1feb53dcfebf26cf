"""What the user of `rawmmsg record` sees: a line of statistics each second,
and the summary."""

from time import monotonic

from .._command.terminal import has_room, print_line
from .recorder import Recorder

__all__ = ["Ticker", "summary"]

_HEADER_EVERY = 20
_HEADER = " frames/s    Mbit/s  dropped  frames/call  file"


class Ticker:
    """Prints lines of statistics, each for the time since the last one."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._then = monotonic()
        self._before = _counts(recorder)
        self._lines = 0

    def show(self) -> None:
        """Prints a line, unless that would block: if the user stops the
        terminal (Ctrl-S), frames are still recorded."""
        if not has_room():
            return
        if self._lines % _HEADER_EVERY == 0:
            print_line(_HEADER)
        self._lines += 1
        print_line(self._next())

    def _next(self) -> str:
        now, counts = monotonic(), _counts(self._recorder)
        seconds = max(now - self._then, 1e-9)
        frames, size, dropped, batches = (
            new - old for new, old in zip(counts, self._before, strict=True)
        )
        self._then, self._before = now, counts
        per_call = frames / batches if batches else 0.0
        files = self._recorder.files
        return (
            f"{frames / seconds:9,.0f} {size * 8e-6 / seconds:9,.2f}"
            f" {dropped:8,} {per_call:12.1f}  {files.size / 1e6:,.1f} MB"
        )


def _counts(recorder: Recorder) -> tuple[int, int, int, int]:
    return (
        recorder.frames,
        recorder.size,
        recorder.dropped,
        recorder.batches,
    )


def summary(name: str, recorder: Recorder) -> str:
    """Returns the lines about all frames of the interface with this name."""
    files, batches = recorder.files, recorder.batches
    per_call = recorder.frames / batches if batches else 0.0
    lines = [
        name,
        f"{recorder.frames:,} frames recorded, {recorder.size:,} bytes,"
        f" {per_call:.1f} frames per call",
    ]
    if recorder.gained:
        lines.append(f"{recorder.gained:,} more frames by segmentation")
    if recorder.whole:
        lines.append(f"{recorder.whole:,} frames could not be cut")
    if recorder.unstamped:
        lines.append(
            f"{recorder.unstamped:,} frames without a time stamp; they have"
            " the time when they were received"
        )
    lines.append(f"{recorder.dropped:,} frames dropped by kernel")
    files_ = "file" if files.opened == 1 else "files"
    lines.append(f"{files.opened:,} {files_}, {files.size:,} bytes")
    return "\n  ".join(lines)
