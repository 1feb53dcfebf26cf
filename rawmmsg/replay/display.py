"""What the user of `rawmmsg replay` sees: a line of statistics each second,
and the summary."""

import errno
import re
from time import monotonic

from .._command.terminal import has_room, print_line
from ..pacing import SendResult
from ..pcap import Reader
from .packets import Packets, Skipped
from .player import Player

__all__ = ["Ticker", "skipped_lines", "summary"]

_HEADER_EVERY = 20
_HEADER = "packets/s    Mbit/s  refused         sent  file"


class Ticker:
    """Prints lines of statistics, each for the time since the last one."""

    def __init__(
        self, player: Player, packets: Packets, reader: Reader
    ) -> None:
        self._player = player
        self._packets = packets
        self._reader = reader
        self._then = monotonic()
        self._before = player.counts()
        self._lines = 0

    def show(self) -> None:
        """Prints a line, unless that would block: if the user stops the
        terminal (Ctrl-S), packets are still sent."""
        if not has_room():
            return
        if self._lines % _HEADER_EVERY == 0:
            print_line(_HEADER)
        self._lines += 1
        print_line(self._next())

    def _next(self) -> str:
        now, counts = monotonic(), self._player.counts()
        seconds = max(now - self._then, 1e-9)
        packets, size, refused = (
            new - old for new, old in zip(counts, self._before, strict=True)
        )
        self._then, self._before = now, counts
        return (
            f"{packets / seconds:9,.0f} {size * 8e-6 / seconds:9,.2f}"
            f" {refused:8,} {counts[0]:12,}  {self._position(counts)}"
        )

    def _position(self, counts: tuple[int, int, int]) -> str:
        """The number of the round, and how much of the file was read."""
        if self._packets.kept:
            done = counts[0] + counts[2]
            return f"#{max(1, -(-done // self._packets.kept))}"
        reader = self._reader
        if reader.size is None:
            return f"{reader.offset / 1e6:,.1f} MB"
        percent = f"{100 * reader.offset / reader.size:.0f} %"
        passes = self._player.passes
        return percent if passes < 2 else f"#{passes} {percent}"


def summary(name: str, result: SendResult, frames: int) -> str:
    """Returns the lines about an interface. `frames` are those that the kernel
    got, super-frames among them."""
    mbps = result.bytes * 8e-6 / result.seconds if result.seconds else 0.0
    merged = f", merged into {frames:,}" if frames < result.frames else ""
    lines = [
        name,
        f"{result.frames:,} packets sent{merged}, {result.bytes:,} bytes, in"
        f" {result.seconds:.6f} s",
        f"{result.rate:,.1f} packets/s, {mbps:,.2f} Mbit/s",
        f"{result.errors:,} packets refused{_reason(result.refusal)}",
    ]
    if result.retries:
        lines.append(f"{result.retries:,} retries, because the queue was full")
    return "\n  ".join(lines)


def _reason(refusal: OSError | None) -> str:
    if refusal is None:
        return ""
    remedy = ""
    if refusal.errno == errno.EMSGSIZE:
        remedy = (
            "; raise the MTU, or record without super-frames"
            " (rawmmsg record --cut)"
        )
    # Its number is that of a packet in the last call.
    reason = re.sub(r"^packet \d+: ", "", str(refusal.strerror))
    return f": {reason}{remedy}"


def skipped_lines(skipped: Skipped, reader: Reader) -> list[str]:
    """Returns a line for each reason why packets of the recording were not
    sent."""
    lines = []
    if skipped.cut:
        lines.append(
            f"{skipped.cut:,} packets skipped: the recording has only a part"
            " of them"
        )
    if skipped.malformed:
        lines.append(
            f"{skipped.malformed:,} packets skipped: they are shorter than an"
            " Ethernet header"
        )
    if skipped.elsewhere:
        lines.append(
            f"{skipped.elsewhere:,} packets skipped: they belong to other"
            " interfaces of the recording"
        )
    if reader.cut is not None:
        lines.append(
            f"the last packet of the recording, at offset {reader.cut:,}, is"
            " incomplete"
        )
    return lines
