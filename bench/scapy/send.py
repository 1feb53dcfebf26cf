"""The tables of scapy_send.

Imports Scapy: only where that is known to be installed.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, Self, TypeAlias

from scapy.arch.linux import L2Socket
from scapy.config import conf
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.sendrecv import sendp

from rawmmsg.scapy import sendp_batch

from ..framework import Context, GroundTruthError, Side, Table, available
from ..network.far_side import FarSide
from ..network.link import Ends, Frames
from ..network.scapy_frames import SIZE
from ..tools import cpus
from . import senders, sending_programs
from .send_slices import Arena, Contender
from .senders import Sender

conf.verb = 0

FRAMES: Final = 1024
SCAPY: Final = "Scapy's sendp()"
OURS: Final = "sendp_batch()"
TCPREPLAY: Final = "tcpreplay --topspeed"

PRELOADED: Final = "tcpreplay, preloaded"
LEAST: Final = "bytes(packet), and C sendmmsg"

# What sendp_batch() is to be, as a multiple of sendp().
OF_SENDP: Final = {"once": 25.0, "loop": 60.0}

# A turn in which the kernel's own queue was full is run again.
_MOST_TRIES: Final = 20

_Packets: TypeAlias = Sequence[Any]  # Packet objects, or bytes
_Send: TypeAlias = Callable[[_Packets, int], None]  # how often


def measure(context: Context) -> Iterator[Table]:
    frames = context.pick(FRAMES, FRAMES, 64)
    with cpus.pinned(context.senders_cpu):
        with Field(frames) as field:
            context.progress.step("once")
            yield _list_table(context, field, "once", 1, 1)
            context.progress.step("over and over")
            rounds = context.pick((100, 5), (100, 3), (2, 1))
            yield _list_table(context, field, "loop", *rounds)
            context.progress.step("Packet objects")
            yield _packets_table(context, field)
        context.progress.step("tcpreplay")
        yield _tcpreplay_table(context, frames)


class Way:
    """A veth pair to send on, and its far side."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.ends = stack.enter_context(Ends())
        self.name = self.ends.veth.a
        self.far_side = stack.enter_context(FarSide(self.ends.veth))


class Field:
    """Frames, a veth pair for Scapy's socket, which listens where it sends and
    so costs every frame, and one for the others. A context manager."""

    def __init__(self, batch: int) -> None:
        with contextlib.ExitStack() as stack:
            self.theirs, self.ours = Way(stack), Way(stack)
            # Scapy has read the interfaces before there were these.
            conf.ifaces.reload()
            self.socket = L2Socket(iface=self.theirs.name)
            stack.callback(self.socket.close)
            self.frames = Frames(min(batch, self.ours.far_side.capacity), SIZE)
            self._turns = count()
            self._stack = stack.pop_all()

    def sendp(self, packets: _Packets, rounds: int) -> None:
        """Scapy's, by the socket that is open."""
        sendp(packets, socket=self.socket, count=rounds, verbose=False)

    def sendp_batch(self, packets: _Packets, rounds: int) -> None:
        sendp_batch(packets, self.ours.name, loop=rounds)

    def turn(self, way: Way, send: _Send, rounds: int) -> float:
        """Sends the frames so many times: thousands a second."""
        frames = self.frames
        frames.number()
        seconds = partial(_seconds, send, frames.packets, rounds)
        kept = next(self._turns) % frames.batch if rounds > 1 else None
        taken = self.delivered(way, seconds, frames.packets, rounds, kept)
        return rounds * frames.batch / taken / 1e3

    def delivered(
        self,
        way: Way,
        send: Callable[[], float],
        packets: list[bytes],
        rounds: int = 1,
        kept: int | None = None,
    ) -> float:
        """What `send` returns, which sends the packets so many times; all of
        them arrive, and the far side compares them, or those that are kept."""
        sample = packets if kept is None else [packets[kept]]
        for _ in range(_MOST_TRIES):
            way.far_side.expect(kept)
            figure = send()
            if way.far_side.check(rounds, len(packets), sample):
                return figure
        raise GroundTruthError("the kernel's queue was full in every turn")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _seconds(send: _Send, packets: _Packets, rounds: int) -> float:
    begin = time.perf_counter()
    send(packets, rounds)
    return time.perf_counter() - begin


def _list_table(
    context: Context, field: Field, key: str, rounds: int, sendp_rounds: int
) -> Table:
    """A list of frames, sent `rounds` times."""
    at_least = OF_SENDP[key]

    def turn(way: Way, send: _Send, rounds: int) -> Callable[[], float]:
        return partial(field.turn, way, send, rounds)

    def sendp_opening(packets: _Packets, rounds: int) -> None:
        sendp(packets, field.ours.name, count=rounds, verbose=False)

    opening = Side(
        f"{SCAPY}, opening its socket",
        turn(field.ours, sendp_opening, sendp_rounds),
        limit=SCAPY,
    )
    sides = [
        Side(SCAPY, turn(field.theirs, field.sendp, sendp_rounds)),
        # Beside many frames that is nothing.
        *([opening] if rounds == 1 else []),
        Side(
            OURS,
            turn(field.ours, field.sendp_batch, rounds),
            limit=SCAPY,
            at_least=at_least,
        ),
    ]
    times = "once" if rounds == 1 else f"{rounds} times"
    notes = [f"{SCAPY}: {sendp_rounds} times."] if rounds > 1 else []
    return Table(
        key=f"scapy_send/{key}",
        title=f"A list of {field.frames.batch} frames of 64 bytes, {times}",
        unit="kpps",
        samples=context.rounds(sides),
        sides=sides,
        notes=notes,
    )


def _packets(frames: Frames) -> list[Packet]:
    """Packet objects as a user makes them, each another, of the same size."""
    header = (
        Ether(dst="02:00:00:00:00:0b", src="02:00:00:00:00:0a")
        / IP(src="192.0.2.1", dst="192.0.2.2")
        / UDP(dport=40001)
    )
    rest = SIZE - len(header)
    return [
        header.copy() / Raw(i.to_bytes(rest, "big"))
        for i in range(frames.batch)
    ]


def _packets_table(context: Context, field: Field) -> Table:
    frames = field.frames
    packets = _packets(frames)
    built = [bytes(packet) for packet in packets]

    def side(
        name: str, way: Way, send: Callable[[], float], **target: Any
    ) -> Side:
        def run() -> float:
            seconds = field.delivered(way, send, built)
            return seconds / len(built) * 1e6

        return Side(name, run, **target)

    with contextlib.ExitStack() as stack:
        in_c = senders.in_c("send_calls.c")
        start = partial(in_c, field.ours.ends, frames, stack)
        made, missing = available([start])
        sides = [
            side(LEAST, field.ours, partial(_least, packets, frames, sender))
            for sender in made
        ]
        ours = partial(_seconds, field.sendp_batch, packets, 1)
        theirs = partial(_seconds, field.sendp, packets, 1)
        sides += [
            side(OURS, field.ours, ours, limit=LEAST, at_most=1.1),
            side(SCAPY, field.theirs, theirs, limit=LEAST),
        ]
        samples = context.rounds(sides)
    return Table(
        key="scapy_send/packets",
        title=f"{frames.batch} Packet objects, Ether / IP / UDP / Raw",
        unit="us/packet",
        samples=samples,
        sides=sides,
        missing=missing,
    )


def _least(packets: Sequence[Packet], frames: Frames, sender: Sender) -> float:
    """The seconds of building the packets, and of sending them when they are
    where C has its frames."""
    begin = time.perf_counter()
    built = [bytes(packet) for packet in packets]
    seconds = time.perf_counter() - begin
    for view, packet in zip(frames.out_views, built, strict=True):
        view[:] = packet
    begin = time.perf_counter()
    sender.run(1)
    return seconds + time.perf_counter() - begin


def _tcpreplay_table(context: Context, batch: int) -> Table:
    contenders = [
        Contender(OURS, _by_its_own_clock, TCPREPLAY, at_least=1.3),
        Contender(TCPREPLAY, sending_programs.tcpreplay_from_file),
        Contender(PRELOADED, sending_programs.tcpreplay, TCPREPLAY),
        Contender("C sendmmsg", senders.in_c("send_calls.c"), TCPREPLAY),
    ]
    with Arena(batch, SIZE) as arena:
        sides, missing = arena.sides(contenders, context.round_seconds)
        return Table(
            key="scapy_send/tcpreplay",
            title=f"{arena.frames.batch} frames of 64 bytes over and over",
            unit="Mpps",
            samples=context.rounds(sides),
            sides=sides,
            missing=missing,
        )


def _by_its_own_clock(
    shared: Ends, frames: Frames, _: contextlib.ExitStack
) -> Sender:
    """sendp_batch(), and the nanoseconds that it says it took."""

    def run(rounds: int) -> int:
        result = sendp_batch(frames.packets, shared.veth.a, loop=rounds)
        return round(result.seconds * 1e9)

    return Sender(shared, run)
