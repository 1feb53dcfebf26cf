"""Contenders that send a batch: C, rawmmsg, the socket module, and modules and
programs of other projects.

A socket that listens on the sending interface makes every frame more
expensive. A libpcap handle does listen, so it gets a veth pair of its own.
"""

import contextlib
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

from rawmmsg import PacketBatch, RawSocket

from ..lab import native, peers
from ..lab.contender import Ready, Slice, UnavailableError
from ..lab.far_side import FarSide
from ..lab.link import HEADER, NUMBERS, Ends, Frames
from ..lab.native import INJECT, Side

# The values that libpcap uses by default.
_SNAPLEN: Final = 65535
_TIMEOUT_MS: Final = 1

# ETH_P_LOOPBACK: for a handle that must not receive what it sends.
_UNUSED_PROTOCOL: Final = 0x9000

_PATIENCE: Final = 60.0  # seconds, for a slice of a program


class Place:
    """A veth pair that contenders share, other pairs that they open, the far
    sides, and the frames that all of them send. A context manager."""

    def __init__(self, batch: int, size: int) -> None:
        with contextlib.ExitStack() as stack:
            self.shared = stack.enter_context(Ends())
            self._far_sides: dict[str, FarSide] = {}
            self.stack = stack
            capacity = self.far_side(self.shared).capacity
            self.frames = Frames(min(batch, capacity), size)
            self.stack = stack.pop_all()

    def far_side(self, ends: Ends) -> FarSide:
        """The only one of this veth pair."""
        if ends.veth.b not in self._far_sides:
            self._far_sides[ends.veth.b] = self.stack.enter_context(
                FarSide(ends.veth)
            )
        return self._far_sides[ends.veth.b]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


Prepare: TypeAlias = Callable[[Place], Ready]


def ready(
    place: Place,
    ends: Ends,
    send: Callable[[int], float | None],
    renew: Callable[[], object] = lambda: None,
    unit: float = 1e3,
) -> Ready:
    """Makes a sender ready to run. `send(times)` sends the batch and
    returns the nanoseconds that it took, or None; `renew` is called before it,
    not timed, after the frames have changed. The figure is in Mpps, or with
    `unit` 1e6 in kpps."""
    far_side, frames = place.far_side(ends), place.frames
    proved = False  # whether each frame of a batch has been compared

    def send_checked(times: int, *, keep_all: bool = False) -> float:
        frames.number()
        renew()
        return far_side.timed(
            frames.packets, times, partial(send, times), keep_all=keep_all
        )

    def run(times: int) -> Slice:
        nonlocal proved
        if not proved:
            send_checked(1, keep_all=True)
            proved = True
        ns = send_checked(times)
        return Slice(times * frames.batch / ns * unit, ns)

    return Ready(run, frames.batch, far_side.capacity)


def in_c(source: str, options: int = 0) -> Prepare:
    """A sender in C. libpcap gets a veth pair of its own."""

    def prepare(place: Place) -> Ready:
        ends = place.shared
        if options & INJECT:
            ends = place.stack.enter_context(Ends())
        names = (ends.veth.a, ends.veth.a)  # never receives at the far side
        setup = (source, names, place.frames)
        tx = ends.tx.fileno()
        side = Side(place.stack, *setup, tx=tx, options=options)

        def send(times: int) -> None:
            side.call("run", times)

        if source == "send/ring.c":
            return ready(place, ends, send, partial(side.call, "prepare"))
        return ready(place, ends, send)

    return prepare


def _repeat(send: Callable[[], object], times: int) -> None:
    for _ in range(times):
        send()


def _one_by_one(
    send: Callable[[bytes], object], packets: list[bytes], times: int
) -> None:
    for _ in range(times):
        for packet in packets:
            send(packet)


def rawmmsg(packets: Callable[[Frames], PacketBatch | list[bytes]]) -> Prepare:
    """rawmmsg, from a batch or a list."""

    def prepare(place: Place) -> Ready:
        send = partial(place.shared.tx.sendmmsg_all, packets(place.frames))
        return ready(place, place.shared, partial(_repeat, send))

    return prepare


def rawmmsg_bypass(place: Place) -> Ready:
    """rawmmsg without the traffic control layer, as trafgen sends."""
    tx = place.stack.enter_context(
        RawSocket(place.shared.veth.a, protocol=0, qdisc_bypass=True)
    )
    send = partial(tx.sendmmsg_all, place.frames.out)
    return ready(place, place.shared, partial(_repeat, send))


def stdlib(place: Place) -> Ready:
    """The socket module, one packet a call."""
    send = place.shared.tx_stdlib.send
    return ready(
        place, place.shared, partial(_one_by_one, send, place.frames.packets)
    )


def pcapy(place: Place) -> Ready:
    """pcapy-ng: libpcap from Python, one packet a call."""
    module: Any = peers.module("pcapy")
    ends = place.stack.enter_context(Ends())
    handle = module.open_live(ends.veth.a, _SNAPLEN, False, _TIMEOUT_MS)
    place.stack.callback(handle.close)
    send = partial(_one_by_one, handle.sendpacket, place.frames.packets)
    return ready(place, ends, send)


def cypcap(place: Place) -> Ready:
    """cypcap: libpcap from Python, one packet a call."""
    module: Any = peers.module("cypcap")
    ends = place.stack.enter_context(Ends())
    handle = place.stack.enter_context(module.create(ends.veth.a))
    handle.set_snaplen(_SNAPLEN)
    handle.set_protocol_linux(_UNUSED_PROTOCOL)
    handle.set_timeout(_TIMEOUT_MS)
    handle.activate()
    send = partial(_one_by_one, handle.inject, place.frames.packets)
    return ready(place, ends, send)


def scapy(place: Place) -> Ready:
    """Scapy's sendp() of packets made before, with a socket that is open
    already. It listens, so it gets a veth pair of its own."""
    config: Any = peers.module("scapy.config")
    peers.module("scapy.layers.l2")  # registers Ethernet
    peers.module("scapy.arch")  # sets conf.L2socket
    sendrecv: Any = peers.module("scapy.sendrecv")
    raw: Any = peers.module("scapy.packet").Raw
    ends = place.stack.enter_context(Ends())
    sock = config.conf.L2socket(iface=ends.veth.a)
    place.stack.callback(sock.close)
    packets: list[Any] = []

    def renew() -> None:
        packets[:] = map(raw, place.frames.packets)

    def send(times: int) -> None:
        for _ in range(times):
            sendrecv.sendp(packets, socket=sock, verbose=False)

    return ready(place, ends, send, renew)


# ---- Programs --------------------------------------------------------------

# pcap-savefile(5)
_PCAP_HEADER: Final = struct.pack(
    *("IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
)
_PCAP_RECORD: Final = struct.Struct("IIII")


def tcpreplay(*options: str) -> Prepare:
    """tcpreplay at top speed."""

    def write(frames: Frames) -> bytes:
        record = _PCAP_RECORD.pack(0, 0, frames.size, frames.size)
        return _PCAP_HEADER + b"".join(record + p for p in frames.packets)

    def command(times: int, _: int) -> list[str]:
        fixed = ["--topspeed", "--quiet", f"--loop={times}"]
        return [*options, *fixed, "--intf1=INTERFACE", "FILE"]

    def taken(printed: str) -> float | None:
        found = re.search(r"sent in (\d+\.\d+) seconds", printed)
        return float(found[1]) * 1e9 if found else None

    return partial(_program, "tcpreplay", write, command, taken)


def trafgen(place: Place) -> Ready:
    """trafgen in one process, from a ring and without the traffic control
    layer (its default)."""

    def write(frames: Frames) -> bytes:
        # Each byte of the body is one more than the byte before it. A file
        # with all bytes would take longer to read than to send.
        begin = len(HEADER) + NUMBERS.size
        body = f"seqinc(0, {frames.size - begin})"
        lines = (
            f"{{ {', '.join(map(hex, packet[:begin]))}, {body} }}\n"
            for packet in frames.packets
        )
        return "".join(lines).encode()

    def command(times: int, batch: int) -> list[str]:
        # It must not change system-wide settings of sockets and interrupts.
        fixed = ["--no-sock-mem", "--notouch-irq", "--cpus", "1"]
        count = ["--num", str(times * batch)]
        return [*fixed, *count, "--out", "INTERFACE", "--in", "FILE"]

    def taken(printed: str) -> float | None:
        found = re.search(r"(\d+) sec, (\d+) usec on CPU", printed)
        return found and int(found[1]) * 1e9 + int(found[2]) * 1e3

    return _program("trafgen", write, command, taken, place)


def _program(
    name: str,
    write: Callable[[Frames], bytes],
    command: Callable[[int, int], list[str]],
    taken: Callable[[str], float | None],
    place: Place,
) -> Ready:
    """A program that sends frames from a file and prints how long it took.

    `write` returns the contents of the file. command(times, batch) returns the
    arguments that make the program send the file, which has `batch` frames,
    `times` times. `taken` finds the nanoseconds in what the program printed.
    """
    path, ends = peers.program(name), place.shared
    folder = place.stack.enter_context(
        tempfile.TemporaryDirectory(prefix="rawmmsg-bench-")
    )
    file = Path(folder, "frames")
    words = {"FILE": str(file), "INTERFACE": ends.veth.a}

    def renew() -> None:
        file.write_bytes(write(place.frames))

    def send(times: int) -> float:
        arguments = command(times, place.frames.batch)
        for word, value in words.items():
            arguments = [one.replace(word, value) for one in arguments]
        done = subprocess.run(
            [path, *arguments],
            cwd=folder,  # where it may leave files
            env=native.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=_PATIENCE,
        )
        ns = taken(done.stdout)
        if ns is None:
            printed = " ".join(done.stdout.split())
            raise UnavailableError(
                f"{name}, which prints {printed!r},", "run it as root"
            )
        return ns

    return ready(place, ends, send, renew)
