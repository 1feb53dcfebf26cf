"""The tables of scapy_sniff.

Imports Scapy: only where that is known to be installed.
"""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from rawmmsg.scapy import BatchSession

from ..framework import Context, Missing, Samples, Side, Table, Unavailable
from ..network.scapy_frames import PREFIXES
from ..tools import cpus, system_calls
from .scapy_listeners import (
    CHUNK,
    DEFAULT_BUFFER,
    LARGE_BUFFER,
    Inbox,
    Memory,
    Reader,
    iterating,
    looping,
    seconds_to_read,
    sniffing,
)
from .scapy_loss import seen_of_stream
from .scapy_worker import Worker

SCAPY: Final = "Scapy's socket"
OURS: Final = "rawmmsg"
BATCHES: Final = f"{OURS}, BatchSession"
RAW: Final = f"{OURS}, RawSniffer"
LOOP: Final = "loop over Scapy's recv_raw()"

# What sniff() is to gain, by kind of frame.
TARGETS: Final = {"unknown EtherType": 1.10, "UDP": 1.05}

UNKNOWN: Final = PREFIXES["unknown EtherType"]

_Run: TypeAlias = Callable[[], float]
_Keep: TypeAlias = Callable[[Any], Any]  # of a frame


def measure(context: Context) -> Iterator[Table]:
    with (
        cpus.pinned(context.receivers_cpu),
        Inbox(ours=False) as theirs,
        Inbox(ours=True) as ours,
    ):
        rates = []
        for kind in PREFIXES:
            context.progress.step(f"sniff(), {kind}")
            table = _sniff_table(context, kind, theirs, ours)
            rates.append(statistics.median(table.samples.figures[SCAPY]))
            yield table
        context.progress.step("RawSniffer")
        yield _raw_table(context, theirs, ours)
        context.progress.step("system calls")
        yield _calls_table(context, theirs, ours)
        context.progress.step("loss")
        yield _loss_table(context, rates[0])


def _timed(
    inbox: Inbox | Memory, read: Reader, prefix: bytes, chunks: int
) -> Callable[[], float]:
    """A slice; returns thousands of frames per second."""

    def run() -> float:
        seconds = seconds_to_read(inbox, read, prefix, chunks)
        return chunks * CHUNK / seconds / 1e3

    return run


def _chunks(
    context: Context, inbox: Inbox, read: Reader, prefix: bytes
) -> int:
    """How many chunks take a slice's time."""
    # The best of three, for another process may have had the CPU.
    best = min(seconds_to_read(inbox, read, prefix, 1) for _ in range(3))
    return max(1, round(context.slice_seconds / best))


def _sniff_table(
    context: Context, kind: str, theirs: Inbox, ours: Inbox
) -> Table:
    prefix, target = PREFIXES[kind], TARGETS[kind]
    memory = Memory()
    chunks = _chunks(context, theirs, sniffing(theirs), prefix)

    def run(inbox: Inbox | Memory, session: object = None) -> _Run:
        return _timed(inbox, sniffing(inbox, session), prefix, chunks)

    sides = [
        Side(SCAPY, run(theirs)),
        Side(f"{SCAPY}, control", run(theirs), limit=SCAPY),
        Side(OURS, run(ours), limit=SCAPY, at_least=target),
        Side(BATCHES, run(ours, BatchSession), SCAPY, at_least=target),
        Side("nothing to receive", run(memory), limit=SCAPY),
    ]
    return Table(
        key=f"scapy_sniff/{kind.partition(' ')[0].lower()}",
        title=f"sniff(store=False), 64-byte frames, {kind}",
        unit="kpps",
        samples=context.slices(sides),
        sides=sides,
    )


def _raw_table(context: Context, theirs: Inbox, ours: Inbox) -> Table:
    chunks = _chunks(context, theirs, looping(theirs, len), UNKNOWN)

    def run(inbox: Inbox, way: Callable[[Inbox, _Keep], Reader]) -> _Run:
        fast = _timed(inbox, way(inbox, len), UNKNOWN, chunks)
        # A length says little of its frame: once more in each turn the bytes
        # are kept.
        thorough = _timed(inbox, way(inbox, bytes), UNKNOWN, 1)

        def both() -> float:
            thorough()
            return fast()

        return both

    sides = [
        Side(LOOP, run(theirs, looping)),
        Side(RAW, run(ours, iterating), limit=LOOP, at_least=4),
    ]
    return Table(
        key="scapy_sniff/raw",
        title="Frames as they are, 64 bytes: the length of each is kept",
        unit="kpps",
        samples=context.slices(sides),
        sides=sides,
    )


def _calls_table(context: Context, theirs: Inbox, ours: Inbox) -> Table:
    sides = [
        Side(name, _counted(inbox, read), at_most=target)
        for name, inbox, read, target in (
            (SCAPY, theirs, sniffing(theirs), None),
            (LOOP, theirs, looping(theirs, bytes), None),
            (OURS, ours, sniffing(ours), 0.05),
            (BATCHES, ours, sniffing(ours, BatchSession), 0.05),
            (RAW, ours, iterating(ours, bytes), 0.05),
        )
    ]
    missing: list[Missing] = []
    try:
        samples = context.rounds(sides)
    except Unavailable as error:
        missing, sides, samples = [error.missing], [], Samples({}, {})
    return Table(
        key="scapy_sniff/calls",
        title=f"System calls for {CHUNK} packets, sniff()'s start included",
        unit="calls/packet",
        samples=samples,
        sides=sides,
        missing=missing,
    )


def _counted(inbox: Inbox, read: Reader) -> Callable[[], float]:
    """A chunk; returns the system calls per packet."""
    total = 0

    def read_and_count(count: int) -> Sequence[bytes] | Sequence[int]:
        nonlocal total
        found, calls = system_calls.counted(lambda: read(count))
        total = sum(calls.values())
        return found

    def run() -> float:
        seconds_to_read(inbox, read_and_count, UNKNOWN, 1)
        return total / CHUNK

    return run


def _loss_table(context: Context, kpps: float) -> Table:
    count = max(100, round(kpps * 1e3 * context.round_seconds))
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(Worker(context.senders_cpu))

        def side(
            name: str, ours: bool, buffer: int, at_most: float | None = None
        ) -> Side:
            inbox = stack.enter_context(Inbox(ours, buffer))
            seen = 0

            def run() -> float:
                nonlocal seen
                seen = seen_of_stream(inbox, worker, kpps * 1e3, count)
                return 100 * (count - seen) / count

            def extra() -> dict[str, float]:
                return {"frames seen": seen}

            return Side(name, run, at_most=at_most, extra=extra)

        large = f"{SCAPY}, conf.bufsize = {LARGE_BUFFER}"
        sides = [
            side(SCAPY, False, DEFAULT_BUFFER),
            side(large, False, LARGE_BUFFER),
            side(OURS, True, DEFAULT_BUFFER, at_most=0),
        ]
        samples = context.rounds(sides)
    return Table(
        key="scapy_sniff/loss",
        title=f"sniff() of {count} frames sent at {kpps:.3g} kpps",
        unit="% lost",
        samples=samples,
        sides=sides,
    )
