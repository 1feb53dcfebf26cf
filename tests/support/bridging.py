"""`rawmmsg bridge`, run as a user runs it, and what it prints."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from rawmmsg import GSO_UDP_L4, SUPER_FRAME, PacketBatch, RawSocket
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
    r" (?P<per_call>[\d.]+) frames per call\n"
    r"(?:  (?P<gained>[\d,]+) more frames by segmentation\n)?"
    r"  (?P<sent>[\d,]+) frames sent(?:, merged into (?P<merged>[\d,]+))?\n"
    r"  (?P<dropped>[\d,]+) frames dropped(?:: (?P<reasons>.*))?\n"
    r"(?:  (?P<kernel>[\d,]+) frames dropped by kernel\n)?",
    re.MULTILINE,
)

# The frames dropped in one direction.
_TICK = re.compile(r"^ *[\d,]+ +[\d.,]+ +([\d,]+) +[\d.]+ \| ", re.MULTILINE)


def _number(text: str | None) -> int:
    return int((text or "0").replace(",", ""))


@dataclass(frozen=True)
class Network:
    """Two veth pairs. Frames go left.a, left.b, bridge, right.b, right.a."""

    left: Veth
    right: Veth

    @property
    def ports(self) -> tuple[str, str]:
        return self.left.b, self.right.b


@dataclass(frozen=True)
class OneWay:
    """The summary of one direction. `merged`: how many frames those sent were
    merged into, 0 if none was merged."""

    name: str
    received: int
    bytes: int
    per_call: float
    gained: int
    sent: int
    merged: int
    dropped: int
    kernel: int
    reasons: dict[str, int] = field(default_factory=dict)

    def adds_up(self) -> None:
        """Asserts that every frame received, or made by segmentation, is
        counted as sent or as dropped."""
        assert self.received + self.gained == self.sent + self.dropped, self
        assert self.dropped == sum(self.reasons.values()), self


@dataclass(frozen=True)
class Outcome:
    """The exit status of the command, and what it printed."""

    code: int
    text: str

    @property
    def directions(self) -> tuple[OneWay, OneWay]:
        """The summaries from A to B and from B to A; both add up."""
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
    names = ("received", "bytes", "gained", "sent", "merged", "dropped")
    counts = {name: _number(match[name]) for name in (*names, "kernel")}
    per_call = float(match["per_call"])
    return OneWay(match["name"], **counts, per_call=per_call, reasons=reasons)


class Running:
    """The command while it runs. A thread reads its standard error."""

    def __init__(
        self,
        *arguments: str,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
        program: Sequence[str] = ("-m", "rawmmsg"),
        command: str = "bridge",
        stdout: int | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                *(*program, command),
                *arguments,
            ],
            env=environment(),
            stdout=stdout,
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
        """Waits until the command has printed the words."""
        eventually(
            lambda: words in self.text or self.process.poll() is not None,
            f"the command never says {words!r}",
        )
        assert words in self.text, self.text

    @property
    def cpu_seconds(self) -> float:
        """How much CPU time the bridge has used."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    @property
    def sleeps(self) -> int:
        """How often the bridge has waited."""
        with open(f"/proc/{self.process.pid}/status") as file:
            (count,) = re.findall(
                r"\nvoluntary_ctxt_switches:\s(\d+)", file.read()
            )
        return int(count)

    def stays_idle(self) -> None:
        """Asserts that the bridge waits."""
        before = self.cpu_seconds
        time.sleep(0.5)
        assert self.cpu_seconds - before < 0.2, "a busy loop"

    def drops(self, count: int) -> None:
        """Waits until the statistics show so many drops from A to B. The
        command must print them (--stats)."""
        eventually(
            lambda: sum(map(_number, _TICK.findall(self.text))) == count,
            f"{count} frames are not dropped",
        )

    def drops_some(self) -> None:
        """Waits until the statistics show drops from A to B."""
        eventually(
            lambda: any(map(_number, _TICK.findall(self.text))),
            "no frame is dropped",
        )

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def end(self, number: int = signal.SIGINT) -> Outcome:
        """Sends the signal and waits for the end."""
        self.process.send_signal(number)
        return self.outcome()

    def outcome(self) -> Outcome:
        """Waits until the command has ended."""
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
    """Runs a bridge; frames pass from the start of the block."""
    with Running(a, b, *options, pass_fds=pass_fds) as running:
        running.says("bridging")
        yield running


@contextlib.contextmanager
def stopped(bridge: Running) -> Iterator[None]:
    """Stops the bridge's process, so that frames sent inside the block queue
    up."""
    bridge.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, bridge.process.pid, os.WSTOPPED)
    yield
    bridge.process.send_signal(signal.SIGCONT)


def before_6_2(sock: RawSocket, batch: PacketBatch, at: int) -> int:
    """Sends as a kernel that does not know UDP super-frames would."""
    types = getattr(batch, "gso_types", None)
    stop = at
    while stop < len(batch) and (types is None or types[stop] != GSO_UDP_L4):
        stop += 1
    if stop == at:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return sock.sendmmsg(batch, at, stop)


def take(sock: RawSocket, count: int) -> list[bytes]:
    """Waits for `count` packets, including super-frames."""
    batch = PacketBatch(64, 70_000)
    sock.settimeout(WAIT)
    packets: list[bytes] = []
    while len(packets) < count:
        sock.recvmmsg_into(batch)
        packets += batch.tolist()
    return packets


def until_passing(sender: RawSocket, receiver: RawSocket) -> None:
    """Waits until frames pass, and receives all those that it sent."""
    first, last = numbered(1), numbered(2)

    def arrives() -> bool:
        sender.sendmmsg_all([first])
        return first in pending(receiver)

    eventually(arrives, "no frame passes")
    sender.sendmmsg_all([last])
    while take(receiver, 1)[-1] != last:
        pass  # earlier frames


def every_kind(gso_size: int) -> Iterator[tuple[PacketBatch, list[bytes]]]:
    r"""Super-frames of TCP and UDP over IPv4 and IPv6, with no VLAN tag and up
    to three.

    Each batch holds one of them and a short frame with an open checksum. The
    list holds the frames that must arrive after segmentation.
    """
    for tags in TAGS.values():
        for datagram in KINDS.values():
            large = replace(datagram, tags=tags, payload=data(30_001))
            small = replace(datagram, tags=tags, payload=data(333))
            batch = PacketBatch(2, SUPER_FRAME)
            add(batch, large, gso_size)
            add(batch, small)
            yield batch, [*large.segments(gso_size), small.build()]
