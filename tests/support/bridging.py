"""`rawmmsg bridge`, run as a user runs it, and what it says of itself."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth
from support import WAIT
from support.calls import eventually
from support.child import environment
from support.datagrams import KINDS, TAGS, add, data
from support.frames import numbered, pending

COMMAND = (sys.executable, "-m", "rawmmsg", "bridge")

_ONE_WAY = re.compile(
    r"^(?P<name>\S+ > \S+)\n"
    r"  (?P<received>[\d,]+) frames received, (?P<bytes>[\d,]+) bytes,"
    r" (?P<fill>[\d.]+) a batch\n"
    r"(?:  (?P<gained>[\d,]+) frames more by segmentation\n)?"
    r"  (?P<sent>[\d,]+) frames sent\n"
    r"  (?P<dropped>[\d,]+) frames dropped(?:: (?P<reasons>.*))?\n"
    r"(?:  (?P<kernel>[\d,]+) frames dropped by kernel\n)?",
    re.MULTILINE,
)


def _number(text: str | None) -> int:
    return int((text or "0").replace(",", ""))


@dataclass(frozen=True)
class Network:
    """left.a ... left.b, the bridge, right.b ... right.a"""

    left: Veth
    right: Veth

    @property
    def ports(self) -> tuple[str, str]:
        return self.left.b, self.right.b


@dataclass(frozen=True)
class OneWay:
    """The summary of one direction."""

    name: str
    received: int
    bytes: int
    fill: float
    gained: int
    sent: int
    dropped: int
    kernel: int
    reasons: dict[str, int] = field(default_factory=dict)

    def adds_up(self) -> None:
        """Every frame that was received, or made, is accounted for."""
        assert self.received + self.gained == self.sent + self.dropped, self
        assert self.dropped == sum(self.reasons.values()), self


@dataclass(frozen=True)
class Outcome:
    """What the command has said and done."""

    code: int
    text: str

    @property
    def ways(self) -> tuple[OneWay, OneWay]:
        """From A to B, and back; both add up."""
        found = [_one_way(match) for match in _ONE_WAY.finditer(self.text)]
        assert len(found) == 2, self.text
        for one in found:
            one.adds_up()
        return found[0], found[1]


def _one_way(match: re.Match[str]) -> OneWay:
    reasons = {}
    for part in (match["reasons"] or "").split(", "):
        count, _, reason = part.partition(" ")
        if count:
            reasons[reason] = _number(count)
    names = ("received", "bytes", "gained", "sent", "dropped", "kernel")
    counts = {name: _number(match[name]) for name in names}
    fill = float(match["fill"])
    return OneWay(match["name"], **counts, fill=fill, reasons=reasons)


class Running:
    """The command, while it runs; its standard error is read all the time."""

    def __init__(
        self,
        *arguments: str,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                *("-m", "rawmmsg", "bridge"),
                *arguments,
            ],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def says(self, words: str) -> None:
        """Waits until it has said that."""
        eventually(
            lambda: words in self.text or self.process.poll() is not None,
            f"the bridge never says {words!r}",
        )
        assert words in self.text, self.text

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def end(self, number: int = signal.SIGINT) -> Outcome:
        """Ends it by a signal."""
        self.process.send_signal(number)
        return self.outcome()

    def outcome(self) -> Outcome:
        """Waits until it has ended by itself."""
        code = self.process.wait(WAIT)
        self._reader.join(WAIT)
        assert "Traceback" not in self.text, self.text
        return Outcome(code, self.text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def bridging(
    a: str, b: str, *options: str, pass_fds: Sequence[int] = ()
) -> Iterator[Running]:
    """A bridge that moves frames when the block begins."""
    with Running(a, b, *options, pass_fds=pass_fds) as running:
        running.says("bridging")
        yield running


def take(sock: RawSocket, count: int) -> list[bytes]:
    """Waits for `count` packets, super-frames too."""
    batch = PacketBatch(64, 70_000)
    sock.settimeout(WAIT)
    packets: list[bytes] = []
    while len(packets) < count:
        sock.recvmmsg_into(batch)
        packets += batch.tolist()
    return packets


def until_passing(sender: RawSocket, receiver: RawSocket) -> None:
    """Waits until frames pass, and leaves none of its own on the way."""
    first, last = numbered(1), numbered(2)

    def arrives() -> bool:
        sender.sendmmsg_all([first])
        return first in pending(receiver)

    eventually(arrives, "no frame passes")
    sender.sendmmsg_all([last])
    while take(receiver, 1)[-1] != last:
        pass  # those that were on their way


def every_kind(gso_size: int) -> Iterator[tuple[PacketBatch, list[bytes]]]:
    """Super-frames of TCP and UDP, IPv4 and IPv6, with no tag or up to three.

    A batch holds one, and a short frame whose checksum is open; with it comes
    what has to arrive where they are cut and completed.
    """
    for tags in TAGS.values():
        for datagram in KINDS.values():
            large = replace(datagram, tags=tags, payload=data(30_001))
            small = replace(datagram, tags=tags, payload=data(333))
            batch = PacketBatch(2, SUPER_FRAME)
            add(batch, large, gso_size)
            add(batch, small)
            yield batch, [*large.segments(gso_size), small.build()]
