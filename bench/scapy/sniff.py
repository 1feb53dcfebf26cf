"""Scapy's sniff() with the sockets of Scapy and of rawmmsg. Import it only if
Scapy is installed."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final, TypeAlias

from rawmmsg.scapy import BatchSession

from ..lab import cpus
from ..lab.contender import Contender, Ready, Slice, control
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab
from . import listeners, system_calls
from .listeners import CHUNK, Inbox, Memory, Reader, looping, sniffing
from .worker import Worker, seen_of_stream

SCAPY: Final = "Scapy's socket"
LOOP: Final = "loop over Scapy's recv_raw()"
OURS: Final = "rawmmsg"
BATCHES: Final = "rawmmsg, BatchSession"
SNIFFER: Final = "rawmmsg, RawSniffer"

# The least gain of sniff(), by kind of frame.
TARGETS: Final = {"unknown EtherType": 1.10, "UDP": 1.05}

MOST_CALLS: Final = 0.05  # system calls for a packet


@dataclass(frozen=True)
class Place:
    """A socket of Scapy's and one of rawmmsg's, and the kind of frame."""

    theirs: Inbox
    ours: Inbox
    prefix: bytes


InboxOf: TypeAlias = Callable[[Place], Inbox | Memory]
ReaderOf: TypeAlias = Callable[[Any], Reader]


_theirs: Final[InboxOf] = attrgetter("theirs")
_ours: Final[InboxOf] = attrgetter("ours")
_with_batches: Final = partial(sniffing, session=BatchSession)


def _timed(
    inbox_of: InboxOf, reader_of: ReaderOf, thorough: ReaderOf | None = None
) -> Callable[[Place], Ready]:
    """Thousands of frames read per second. Each slice also reads once with a
    `thorough` reader, if `reader_of` does not keep the bytes."""

    def prepare(place: Place) -> Ready:
        inbox = inbox_of(place)
        read = reader_of(inbox)
        check = thorough(inbox) if thorough is not None else None

        def run(times: int) -> Slice:
            if check is not None:
                listeners.seconds_to_read(inbox, check, place.prefix, 1)
            seconds = listeners.seconds_to_read(
                inbox, read, place.prefix, times
            )
            return Slice(times * CHUNK / seconds / 1e3, seconds * 1e9)

        return Ready(run, CHUNK)

    return prepare


def _counted(
    inbox_of: InboxOf, reader_of: ReaderOf
) -> Callable[[Place], Ready]:
    """System calls for each frame read."""

    def prepare(place: Place) -> Ready:
        inbox = inbox_of(place)
        read = reader_of(inbox)
        counts: list[int] = []

        def read_and_count(count: int) -> Sequence[bytes] | Sequence[int]:
            found, calls = system_calls.counted(lambda: read(count))
            counts[:] = calls.values()
            return found

        def run(_: int) -> Slice:
            listeners.seconds_to_read(inbox, read_and_count, place.prefix, 1)
            return Slice(sum(counts) / CHUNK)

        return Ready(run)

    return prepare


def _sniffing(target: float) -> list[Contender[Place]]:
    theirs = Contender(SCAPY, _timed(_theirs, sniffing))
    ours, batches = _timed(_ours, sniffing), _timed(_ours, _with_batches)
    memory = _timed(lambda _: Memory(), sniffing)
    return [
        theirs,
        control(theirs, None),
        Contender(OURS, ours, SCAPY, at_least=target),
        Contender(BATCHES, batches, SCAPY, at_least=target),
        Contender("nothing to receive", memory, SCAPY),
    ]


_LOOPING, _ITERATING = (
    [partial(reader_of, keep=keep) for keep in (len, bytes)]
    for reader_of in (looping, listeners.iterating)
)

_LOOP: Final = Contender(LOOP, _timed(_theirs, *_LOOPING))

RAW: Final = (
    _LOOP,
    control(_LOOP, None),
    Contender(SNIFFER, _timed(_ours, *_ITERATING), LOOP, at_least=4),
)

CALLS: Final = tuple(
    Contender(name, _counted(inbox_of, reader_of), at_most=at_most)
    for name, inbox_of, reader_of, at_most in (
        (SCAPY, _theirs, sniffing, None),
        (LOOP, _theirs, _LOOPING[1], None),
        (OURS, _ours, sniffing, MOST_CALLS),
        (BATCHES, _ours, _with_batches, MOST_CALLS),
        (SNIFFER, _ours, _ITERATING[1], MOST_CALLS),
    )
)


def measure(lab: Lab) -> Iterator[Table]:
    with (
        cpus.pinned(lab.receivers_cpu),
        Inbox(ours=False) as theirs,
        Inbox(ours=True) as ours,
    ):
        place = Place(theirs, ours, listeners.PREFIXES["unknown EtherType"])
        rates = []
        for kind, prefix in listeners.PREFIXES.items():
            table = lab.table(
                f"scapy/sniff/{kind.partition(' ')[0].lower()}",
                f"sniff(store=False), 64-byte frames, {kind}",
                "kpps",
                _sniffing(TARGETS[kind]),
                dataclasses.replace(place, prefix=prefix),
                lab.slices,
            )
            rates.append(table.rows[0].figure.median)
            yield table
        yield lab.table(
            "scapy/sniff/raw",
            "Frames without dissection: the length of each is kept",
            *("kpps", RAW, place, lab.slices),
        )
        yield lab.table(
            "scapy/sniff/calls",
            f"System calls for {CHUNK} packets, with the start of sniff()",
            *("calls/packet", CALLS, place, lab.long_slices),
            calibrate=Calibrate.ONCE,
        )
        yield _loss(lab, rates[0] * 1e3)


def _loss(lab: Lab, pps: float) -> Table:
    count = max(100, round(pps * lab.long_slices.seconds))

    def sniffed(ours: bool, buffer: int) -> Callable[[Stage], Ready]:
        def prepare(stage: Stage) -> Ready:
            stack, worker = stage
            inbox = stack.enter_context(Inbox(ours, buffer))

            def run(_: int) -> Slice:
                seen = seen_of_stream(inbox, worker, pps, count)
                lost = 100 * (count - seen) / count
                return Slice(lost, extra={"frames seen": seen})

            return Ready(run)

        return prepare

    small, large = listeners.DEFAULT_BUFFER, listeners.LARGE_BUFFER
    with contextlib.ExitStack() as stack, Worker(lab.senders_cpu) as worker:
        return lab.table(
            "scapy/sniff/loss",
            f"sniff() of {count} frames sent at {pps / 1e3:.3g} kpps",
            "% lost",
            [
                Contender(SCAPY, sniffed(False, small)),
                Contender(
                    f"{SCAPY}, conf.bufsize = {large}", sniffed(False, large)
                ),
                Contender(OURS, sniffed(True, small), at_most=0),
            ],
            *((stack, worker), lab.long_slices),
            calibrate=Calibrate.ONCE,
        )


Stage: TypeAlias = tuple[contextlib.ExitStack, Worker]
