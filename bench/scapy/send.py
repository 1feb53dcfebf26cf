"""Scapy's sendp(), and sendp_batch() in its place. Import it only if Scapy is
installed."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from scapy.arch.linux import L2Socket
from scapy.config import conf
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.sendrecv import sendp

from rawmmsg.scapy import sendp_batch

from ..lab import cpus
from ..lab.contender import Contender, Ready, Slice, control
from ..lab.link import Ends
from ..lab.native import Side
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab
from ..send.sides import Place, in_c, ready, tcpreplay
from .listeners import SIZE

conf.verb = 0

FRAMES: Final = 1024
SENDP: Final = "Scapy's sendp()"
OURS: Final = "sendp_batch()"
TCPREPLAY: Final = "tcpreplay --topspeed"
LEAST: Final = "bytes(packet), and C sendmmsg"

# The least rate of sendp_batch() as a multiple of others.
OF_SENDP_ONCE: Final = 25.0
OF_SENDP_LOOPED: Final = 60.0
OF_TCPREPLAY: Final = 1.3
# The most time that it may take for Packet objects, as a multiple of LEAST.
OF_LEAST: Final = 1.1

Packets: TypeAlias = Sequence[Any]  # Packet objects or bytes
# Sends packets so many times; may return the nanoseconds that it took.
Send: TypeAlias = Callable[[Packets, int], float | None]


def _sendp(place: Place) -> tuple[Ends, Send]:
    """Scapy's, by a socket that is open. It listens where it sends, so it has
    a veth pair of its own."""
    ends = place.enter_context(Ends())
    # Scapy read the list of interfaces before this one existed.
    conf.ifaces.reload()
    sock = L2Socket(iface=ends.veth.a)
    place.callback(sock.close)

    def send(packets: Packets, times: int) -> None:
        sendp(packets, socket=sock, count=times, verbose=False)

    return ends, send


def _sendp_opening(place: Place) -> tuple[Ends, Send]:
    """Scapy's, which opens a socket."""
    conf.ifaces.reload()

    def send(packets: Packets, times: int) -> None:
        sendp(packets, place.shared.veth.a, count=times, verbose=False)

    return place.shared, send


def _sendp_batch(place: Place) -> tuple[Ends, Send]:
    def send(packets: Packets, times: int) -> None:
        sendp_batch(packets, place.shared.veth.a, loop=times)

    return place.shared, send


def _list(
    start: Callable[[Place], tuple[Ends, Send]], times: int
) -> Callable[[Place], Ready]:
    """Sends the frames as a list, `times` times in a slice."""

    def prepare(place: Place) -> Ready:
        ends, send = start(place)

        def send_list(times: int) -> None:
            send(place.frames.packets, times)

        sender = ready(place, ends, send_list, unit=1e6)
        return Ready(lambda _: sender.run(times))

    return prepare


def _lists(times: int, sendp_times: int) -> list[Contender[Place]]:
    theirs = Contender(SENDP, _list(_sendp, sendp_times))
    opening = Contender(
        f"{SENDP}, opening its socket", _list(_sendp_opening, 1), SENDP
    )
    target = OF_SENDP_ONCE if times == 1 else OF_SENDP_LOOPED
    ours = _list(_sendp_batch, times)
    return [
        theirs,
        control(theirs, None),
        *([opening] if times == 1 else []),  # else too short to matter
        Contender(OURS, ours, SENDP, at_least=target),
    ]


def _packets(count: int) -> list[Packet]:
    """Packet objects as a user makes them, different, of SIZE bytes."""
    header = (
        Ether(dst="02:00:00:00:00:0b", src="02:00:00:00:00:0a")
        / IP(src="192.0.2.1", dst="192.0.2.2")
        / UDP(dport=40001)
    )
    rest = SIZE - len(header)
    return [header.copy() / Raw(i.to_bytes(rest, "big")) for i in range(count)]


def _objects(
    start: Callable[[Place], tuple[Ends, Send]],
) -> Callable[[Place], Ready]:
    """Sends Packet objects: microseconds for each."""

    def prepare(place: Place) -> Ready:
        ends, send = start(place)
        far_side = place.far_side(ends)
        packets = _packets(place.frames.batch)
        built = [bytes(packet) for packet in packets]

        def run(_: int) -> Slice:
            sending = partial(send, packets, 1)
            ns = far_side.timed(built, 1, sending, keep_all=True)
            return Slice(ns / len(built) / 1e3, ns)

        return Ready(run)

    return prepare


def _least(place: Place) -> tuple[Ends, Send]:
    """Builds the packets, and sends them in C when they are in its memory."""
    ends, frames = place.shared, place.frames
    setup = ("send/side.c:calls", ends.names, frames)
    side = Side(place, *setup, tx=ends.tx.fileno())

    def send(packets: Packets, times: int) -> int:
        begin = time.perf_counter_ns()
        built = [bytes(packet) for packet in packets]
        taken = time.perf_counter_ns() - begin
        for view, packet in zip(frames.out_views, built, strict=True):
            view[:] = packet
        begin = time.perf_counter_ns()
        side.call("run", times)
        return taken + time.perf_counter_ns() - begin

    return ends, send


def _by_its_own_clock(place: Place) -> Ready:
    """sendp_batch(), and the time that it says it took."""

    def send(times: int) -> float:
        interface = place.shared.veth.a
        result = sendp_batch(place.frames.packets, interface, loop=times)
        return result.seconds * 1e9

    return ready(place, place.shared, send)


_PRELOADED: Final = ("--preload-pcap", "--no-flow-stats")
_LEAST: Final = Contender(LEAST, _objects(_least))
_TCPREPLAY: Final = Contender(TCPREPLAY, tcpreplay())

OBJECTS: Final = (
    _LEAST,
    control(_LEAST, None),
    Contender(OURS, _objects(_sendp_batch), LEAST, at_most=OF_LEAST),
    Contender(SENDP, _objects(_sendp), LEAST),
)

PROGRAMS: Final = (
    Contender(OURS, _by_its_own_clock, TCPREPLAY, at_least=OF_TCPREPLAY),
    _TCPREPLAY,
    control(_TCPREPLAY, None),
    Contender("tcpreplay, preloaded", tcpreplay(*_PRELOADED), TCPREPLAY),
    Contender("C sendmmsg", in_c("send/side.c:calls"), TCPREPLAY),
)


def measure(lab: Lab) -> Iterator[Table]:
    count = lab.pick(FRAMES, FRAMES, 64)
    times, sendp_times = lab.pick((100, 5), (100, 3), (2, 1))
    pace = lab.long_slices
    with cpus.pinned(lab.senders_cpu), Place(count, SIZE) as place:
        for key, title, contenders, notes in (
            ("once", "once", _lists(1, 1), []),
            (
                *("loop", f"{times} times", _lists(times, sendp_times)),
                [f"{SENDP}: {sendp_times} times."],
            ),
        ):
            yield lab.table(
                f"scapy/send/{key}",
                f"A list of {count:,} frames of 64 bytes, {title}",
                *("kpps", contenders, place, pace),
                calibrate=Calibrate.ONCE,
                notes=notes,
            )
        yield lab.table(
            "scapy/send/packets",
            f"{count:,} Packet objects, Ether / IP / UDP / Raw",
            *("us/packet", OBJECTS, place, pace),
            calibrate=Calibrate.ONCE,
        )
    with cpus.pinned(lab.senders_cpu), Place(count, SIZE) as place:
        yield lab.table(
            "scapy/send/tcpreplay",
            f"{count:,} frames of 64 bytes over and over",
            *("Mpps", PROGRAMS, place, pace),
        )
