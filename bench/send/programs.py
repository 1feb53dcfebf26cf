"""Other people's programs that send frames from a file and say how long it
took, and Scapy."""

import contextlib
import re
import struct
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from ..framework import Unavailable
from ..network.link import HEADER, NUMBERS, Ends, Frames
from ..tools import native, peers
from .senders import Sender

_PATIENCE: Final = 60.0  # seconds, for a round

# pcap-savefile(5)
_PCAP_HEADER: Final = struct.pack(
    *("IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
)
_PCAP_RECORD: Final = struct.Struct("IIII")


class _Program(Protocol):
    """A program, at its best settings."""

    name: str

    @abstractmethod
    def file(self, frames: Frames) -> bytes:
        """What it is to read."""

    @abstractmethod
    def arguments(
        self, interface: str, file: str, rounds: int, count: int
    ) -> Sequence[str]:
        """Has it send the file's `count` frames so many times."""

    @abstractmethod
    def taken(self, said: str) -> int | None:
        """The nanoseconds that it says it took."""


class _Tcpreplay(_Program):
    name = "tcpreplay"

    def __init__(self, *options: str) -> None:
        self._options = options

    def file(self, frames: Frames) -> bytes:
        size = frames.size
        record = _PCAP_RECORD.pack(0, 0, size, size)
        return _PCAP_HEADER + b"".join(record + p for p in frames.packets)

    def arguments(
        self, interface: str, file: str, rounds: int, count: int
    ) -> Sequence[str]:
        options = ["--topspeed", "--quiet", f"--loop={rounds}"]
        return [*self._options, *options, f"--intf1={interface}", file]

    def taken(self, said: str) -> int | None:
        found = re.search(r"sent in (\d+\.\d+) seconds", said)
        return found and round(float(found[1]) * 1e9)


class _Trafgen(_Program):
    name = "trafgen"

    def file(self, frames: Frames) -> bytes:
        # Each byte of the body is one more than that before it; spelt out,
        # the file would take longer to read than to send.
        begin = len(HEADER) + NUMBERS.size
        body = f"seqinc(0, {frames.size - begin})"
        lines = (
            f"{{ {', '.join(map(hex, packet[:begin]))}, {body} }}\n"
            for packet in frames.packets
        )
        return "".join(lines).encode()

    def arguments(
        self, interface: str, file: str, rounds: int, count: int
    ) -> Sequence[str]:
        # It leaves system-wide settings of sockets and interrupts alone.
        options = ["--no-sock-mem", "--notouch-irq", "--cpus", "1"]
        options += ["--num", str(rounds * count)]
        return [*options, "--out", interface, "--in", file]

    def taken(self, said: str) -> int | None:
        found = re.search(r"(\d+) sec, (\d+) usec on CPU", said)
        return found and int(found[1]) * 10**9 + int(found[2]) * 1000


def _start(
    program: _Program, ends: Ends, frames: Frames, stack: contextlib.ExitStack
) -> Sender:
    path = peers.program(program.name)
    folder = stack.enter_context(
        tempfile.TemporaryDirectory(prefix="rawmmsg-bench-")
    )
    file = Path(folder, "frames")

    def prepare() -> None:
        file.write_bytes(program.file(frames))

    def run(rounds: int) -> int:
        arguments = program.arguments(
            ends.veth.a, str(file), rounds, frames.batch
        )
        said = _run([path, *arguments], folder)
        taken = program.taken(said)
        if taken is None:
            raise Unavailable(
                f"{program.name}, which says {' '.join(said.split())!r},",
                "run it as root",
            )
        return taken

    return Sender(ends, run, prepare)


def _run(command: Sequence[str], folder: str) -> str:
    """What a program prints, on whichever of its outputs; files of its own
    are left in the folder."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=native.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=_PATIENCE,
    )
    return done.stdout


def tcpreplay(
    shared: Ends, frames: Frames, stack: contextlib.ExitStack
) -> Sender:
    """tcpreplay at its best: at top speed, from memory and without statistics
    of flows."""
    program = _Tcpreplay("--preload-pcap", "--no-flow-stats")
    return _start(program, shared, frames, stack)


def tcpreplay_from_file(
    shared: Ends, frames: Frames, stack: contextlib.ExitStack
) -> Sender:
    """tcpreplay at top speed, as it is mostly run."""
    return _start(_Tcpreplay(), shared, frames, stack)


def trafgen(
    shared: Ends, frames: Frames, stack: contextlib.ExitStack
) -> Sender:
    """trafgen in one process, past the traffic control layer (its default)
    and from a ring."""
    return _start(_Trafgen(), shared, frames, stack)


def scapy(_: Ends, frames: Frames, stack: contextlib.ExitStack) -> Sender:
    """Scapy's sendp(), of packets made before, by a socket of its own that is
    open: it listens, hence a veth pair of its own."""
    config: Any = peers.module("scapy.config")
    peers.module("scapy.layers.l2")  # registers Ethernet
    peers.module("scapy.arch")  # sets conf.L2socket
    sendrecv: Any = peers.module("scapy.sendrecv")
    raw: Any = peers.module("scapy.packet").Raw
    ends = stack.enter_context(Ends())
    sock = config.conf.L2socket(iface=ends.veth.a)
    stack.callback(sock.close)
    packets: list[Any] = []

    def prepare() -> None:
        packets[:] = map(raw, frames.packets)

    def run(rounds: int) -> None:
        for _ in range(rounds):
            sendrecv.sendp(packets, socket=sock, verbose=False)

    return Sender(ends, run, prepare)
