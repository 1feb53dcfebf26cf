"""`rawmmsg replay`, run as a user runs it, and recordings for it."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rawmmsg import RawSocket
from support import WAIT
from support.child import environment
from support.frames import pending, receive
from support.recordings import (
    ETHERNET,
    SECOND,
    Packet,
    enhanced,
    interface,
    pcap_header,
    pcap_record,
    section,
)

_ONE = re.compile(
    r"^(?P<name>\S+)\n"
    r"  (?P<sent>[\d,]+) packets sent(?:, merged into (?P<merged>[\d,]+))?,"
    r" (?P<bytes>[\d,]+) bytes, in (?P<seconds>[\d.]+) s\n"
    r"  [\d,.]+ packets/s, [\d,.]+ Mbit/s\n"
    r"  (?P<refused>[\d,]+) packets refused(?:: (?P<reason>.*))?\n",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Sent:
    """What the summary says of an interface."""

    name: str
    sent: int
    merged: int
    bytes: int
    seconds: float
    refused: int
    reason: str


@dataclass(frozen=True)
class Replayed:
    """How the command has ended, and what it has printed."""

    code: int
    text: str

    @property
    def interfaces(self) -> list[Sent]:
        return [_sent(match) for match in _ONE.finditer(self.text)]

    @property
    def only(self) -> Sent:
        (one,) = self.interfaces
        return one


def _sent(match: re.Match[str]) -> Sent:
    def count(name: str) -> int:
        return int((match[name] or "0").replace(",", ""))

    return Sent(
        match["name"],
        count("sent"),
        count("merged"),
        count("bytes"),
        float(match["seconds"]),
        count("refused"),
        match["reason"] or "",
    )


def replay(
    *arguments: str | Path,
    prefix: Sequence[str] = (),
    stdin: bytes | None = None,
) -> Replayed:
    """Runs the command to its end."""
    done = subprocess.run(
        [
            *(*prefix, sys.executable, "-m", "rawmmsg", "replay"),
            *map(str, arguments),
        ],
        env=environment(),
        input=stdin,
        capture_output=True,
        timeout=WAIT,
        check=False,
    )
    text = done.stderr.decode()
    assert "Traceback" not in text, text
    assert not done.stdout, done.stdout
    return Replayed(done.returncode, text)


def replayed(*arguments: str | Path) -> Replayed:
    """Runs the command, which must succeed."""
    result = replay(*arguments)
    assert result.code == 0, result.text
    return result


@contextlib.contextmanager
def listening(interface: str) -> Iterator[RawSocket]:
    with RawSocket(interface, ignore_outgoing=True) as sock:
        yield sock


def all_of(sock: RawSocket, count: int) -> list[bytes]:
    """Waits for `count` packets. Asserts that no more have come: the command
    has ended before."""
    packets = receive(sock, count)
    assert len(packets) == count
    assert not pending(sock)
    return packets


def a_microsecond_apart(frames: Iterable[bytes]) -> list[Packet]:
    return [Packet(frame, number) for number, frame in enumerate(frames)]


def write(
    file: Path, packets: Iterable[Packet | bytes], link_type: int = ETHERNET
) -> Path:
    """Writes a pcap file. Bytes are packets of the same time."""
    made = [one if isinstance(one, Packet) else Packet(one) for one in packets]
    records = (pcap_record(SECOND, one.time, one) for one in made)
    file.write_bytes(pcap_header(link_type=link_type) + b"".join(records))
    return file


def write_pcapng(
    file: Path,
    packets: Iterable[tuple[int, Packet]],
    names: Sequence[str] = ("eth0",),
    direction: Sequence[int] = (),
) -> Path:
    """Writes a pcapng file of packets, each of the interface with a number.
    `direction` has the value of epb_flags for each of them."""
    blocks = [section()]
    for name in names:
        blocks.append(interface(pairs=[(2, name.encode())] if name else []))
    for i, (number, packet) in enumerate(packets):
        flags = [(2, direction[i].to_bytes(4, "little"))] if direction else []
        blocks.append(enhanced(packet, number=number, pairs=flags))
    file.write_bytes(b"".join(blocks))
    return file
