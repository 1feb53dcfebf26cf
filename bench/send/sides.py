"""Contenders that send a batch. A socket that listens on the sending interface
makes every frame more expensive. A libpcap handle does listen, so it gets a
veth pair of its own."""

import contextlib
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, TypeAlias

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

from ..lab import native, peers
from ..lab.contender import Ready, Slice, UnavailableError
from ..lab.far_side import FarSide
from ..lab.link import Ends, Frames
from ..lab.native import INJECT, Side

# The values that libpcap uses by default.
_SNAPLEN: Final = 65535
_TIMEOUT_MS: Final = 1

# ETH_P_LOOPBACK: for a handle that must not receive what it sends.
_UNUSED_PROTOCOL: Final = 0x9000


class Place(contextlib.ExitStack):
    """A veth pair that contenders share, other pairs that they open, the far
    sides, and the frames that all of them send. A context manager."""

    def __init__(self, batch: int, size: int) -> None:
        super().__init__()
        self.shared = self.enter_context(Ends())
        self._far_sides: dict[str, FarSide] = {}
        capacity = self.far_side(self.shared).capacity
        self.frames = self.make_frames(min(batch, capacity), size)

    def far_side(self, ends: Ends) -> FarSide:
        """The only one of this veth pair."""
        if ends.veth.b not in self._far_sides:
            far_side = self.enter_context(self.make_far_side(ends.veth))
            self._far_sides[ends.veth.b] = far_side
        return self._far_sides[ends.veth.b]

    def make_frames(self, batch: int, size: int) -> Frames:
        return Frames(batch, size)

    def make_far_side(self, veth: Veth) -> FarSide:
        return FarSide(veth)

    def prove(self, ends: Ends, send: Callable[[int], object]) -> None:
        """Before a sender is timed: `send(times)` sends the batch, and
        compares each frame."""
        send(1)


Prepare: TypeAlias = Callable[[Place], Ready]


def ready(
    place: Place,
    ends: Ends,
    send: Callable[[int], float | None],
    renew: Callable[[], object] = lambda: None,
    unit: float = 1e3,
    joined: int = 1,
) -> Ready:
    """Makes a sender ready to run. `send(times)` sends the batch, with up to
    `joined` frames in a super-frame, and returns the nanoseconds that it took,
    or None; `renew` is called before it, not timed, after the frames have
    changed. The figure is in Mpps, or with `unit` 1e6 in kpps."""
    far_side, frames = place.far_side(ends), place.frames
    proved = False  # whether each frame of a batch has been compared

    def send_checked(times: int, *, keep_all: bool = False) -> float:
        frames.number()
        renew()
        return far_side.timed(
            *(frames.packets, times, partial(send, times)),
            joined=joined,
            keep_all=keep_all,
        )

    def run(times: int) -> Slice:
        nonlocal proved
        if not proved:
            place.prove(ends, partial(send_checked, keep_all=True))
            proved = True
        ns = send_checked(times)
        return Slice(times * frames.batch / ns * unit, ns)

    most = far_side.capacity
    if joined > 1:
        most = far_side.super_frames(joined * frames.size)
    return Ready(run, frames.batch, most)


def in_c(source: str, options: int = 0) -> Prepare:
    """A sender in C. libpcap gets a veth pair of its own."""

    def prepare(place: Place) -> Ready:
        ends = place.shared
        if options & INJECT:
            ends = place.enter_context(Ends())
        names = (ends.veth.a, ends.veth.a)  # never receives at the far side
        setup = (source, names, place.frames)
        tx = ends.tx.fileno()
        side = Side(place, *setup, tx=tx, options=options)

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


def rawmmsg(
    packets: Callable[[Frames], PacketBatch | list[bytes]],
    *,
    qdisc_bypass: bool = False,
) -> Prepare:
    """rawmmsg, from a batch or a list; or without the traffic control layer,
    as trafgen sends."""

    def prepare(place: Place) -> Ready:
        tx = place.shared.tx
        if qdisc_bypass:
            name = place.shared.veth.a
            tx = RawSocket(name, protocol=0, qdisc_bypass=True)
            place.enter_context(tx)
        send = partial(tx.sendmmsg_all, packets(place.frames))
        return ready(place, place.shared, partial(_repeat, send))

    return prepare


def stdlib(place: Place) -> Ready:
    """The socket module, one packet a call."""
    send = place.shared.tx_stdlib.send
    return ready(
        place, place.shared, partial(_one_by_one, send, place.frames.packets)
    )


def pcapy(place: Place) -> Ready:
    """pcapy-ng: libpcap from Python, one packet a call."""
    module: Any = peers.module("pcapy")
    ends = place.enter_context(Ends())
    handle = module.open_live(ends.veth.a, _SNAPLEN, False, _TIMEOUT_MS)
    place.callback(handle.close)
    send = partial(_one_by_one, handle.sendpacket, place.frames.packets)
    return ready(place, ends, send)


def cypcap(place: Place) -> Ready:
    """cypcap: libpcap from Python, one packet a call."""
    module: Any = peers.module("cypcap")
    ends = place.enter_context(Ends())
    handle = place.enter_context(module.create(ends.veth.a))
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
    ends = place.enter_context(Ends())
    sock = config.conf.L2socket(iface=ends.veth.a)
    place.callback(sock.close)
    packets: list[Any] = []

    def renew() -> None:
        packets[:] = map(raw, place.frames.packets)

    def send(times: int) -> None:
        for _ in range(times):
            sendrecv.sendp(packets, socket=sock, verbose=False)

    return ready(place, ends, send, renew)


# ---- Programs --------------------------------------------------------------

RAWMMSG: Final = "rawmmsg"
PYTHON: Final = [sys.executable, "-m", RAWMMSG]

FILE: Final = "frames"  # in a folder where programs may leave files, too

# pcap-savefile(5)
_PCAP_HEADER: Final = struct.pack(
    *("IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
)
_PCAP_RECORD: Final = struct.Struct("IIII")


def write_pcap(frames: Frames) -> bytes:
    """The contents of a file with the frames."""
    return write_pcap_of(frames.packets)


def write_pcap_of(
    packets: Sequence[bytes], microseconds: Sequence[int] = ()
) -> bytes:
    """The contents of a file with the packets, and the times of each."""
    return _PCAP_HEADER + b"".join(
        _PCAP_RECORD.pack(*divmod(time, 10**6), len(packet), len(packet))
        + packet
        for packet, time in zip(
            packets, chain(microseconds, repeat(0)), strict=False
        )
    )


def tcpreplay(*options: str) -> Prepare:
    """tcpreplay at top speed."""

    def arguments(interface: str, times: int, _: int) -> list[str]:
        loop = ["--topspeed", "--quiet", f"--loop={times}"]
        return [*options, *loop, f"--intf1={interface}", FILE]

    taken = r"sent in (\d+\.\d+) seconds"
    return partial(program, "tcpreplay", write_pcap, arguments, taken)


def trafgen(place: Place) -> Ready:
    """trafgen in one process, from a ring and without the traffic control
    layer (its default)."""

    def write(frames: Frames) -> bytes:
        # Each byte of the body is one more than the byte before it. A file
        # with all bytes would take longer to read than to send.
        head = frames.head
        body = f"seqinc(0, {frames.size - head})"
        lines = (
            f"{{ {', '.join(map(hex, packet[:head]))}, {body} }}\n"
            for packet in frames.packets
        )
        return "".join(lines).encode()

    def arguments(interface: str, times: int, batch: int) -> list[str]:
        # It must not change system-wide settings of sockets and interrupts.
        fixed = ["--no-sock-mem", "--notouch-irq", "--cpus", "1"]
        count = ["--num", str(times * batch)]
        return [*fixed, *count, "--out", interface, "--in", FILE]

    taken = r"(\d+) sec, (\d+) usec on CPU"
    return program("trafgen", write, arguments, taken, place)


def program(
    name: str,
    write: Callable[[Frames], bytes],
    arguments: Callable[[str, int, int], list[str]],
    taken: str,
    place: Place,
    *,
    joined: int = 1,
) -> Ready:
    """A program that sends frames from a file and prints how long it took;
    RAWMMSG is the one of this project. It sends up to `joined` frames in a
    super-frame.

    `write` returns the file's contents; `arguments`, given an interface, how
    often to send the file, and the number of its frames, those of the program.
    `taken` finds the seconds, and microseconds, in what it prints.
    """
    path = PYTHON if name == RAWMMSG else [peers.program(name)]
    ends = place.shared
    folder = place.enter_context(
        tempfile.TemporaryDirectory(prefix="rawmmsg-bench-")
    )

    def renew() -> None:
        Path(folder, FILE).write_bytes(write(place.frames))

    def send(times: int) -> float:
        command = arguments(ends.veth.a, times, place.frames.batch)
        done = native.run([*path, *command], folder)
        found = re.search(taken, printed := done.stdout + done.stderr)
        if found is None:
            printed = " ".join(printed.split())
            raise UnavailableError(
                f"{name}, which prints {printed!r},", "run it as root"
            )
        seconds, *microseconds = map(float, found.groups())
        return seconds * 1e9 + sum(microseconds) * 1e3

    return ready(place, ends, send, renew, joined=joined)
