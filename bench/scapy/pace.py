"""The pace of sendp_batch().

A process on one CPU sends 64-byte frames, numbered, with sendp_batch(pps=);
another on the other CPU receives each with the kernel's time stamp, which is
taken in the sender's context, and checks that it is the next. The pace is that
of the stamps, from the first frame to the last. What is due within 0.2 ms
leaves in one call, so at 10,000 frames a second and more some gaps are next
to nothing and others make up for it.

Lists of any length are looped at any pace: there the receiver counts, and the
pace is sendp_batch()'s own figure.
"""

import math
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth, veth_pair

from ..framework import Context, GroundTruthError, Side, Table
from ..network.link import HEADER, PATIENCE
from ..network.scapy_frames import numbered
from ..tools import cpus, peers
from ..tools.stamping import Probe

if TYPE_CHECKING:
    from rawmmsg.scapy import SendResult

    from ..sides.scapy_worker import Worker

PACES: Final = (1_000, 10_000, 100_000)

_Pace: TypeAlias = dict[str, float]
_OURS: Final = "ether proto 0x88b5"  # not what the kernel sends by itself
_Stamps: TypeAlias = Mapping[int, list[int]]  # by pace: when frames came, ns

LISTS: Final = (1, 2, 3, 5, 16, 1_000)
"""Frames of the lists that are looped."""

LONGEST_GAPS: Final = {1_000: 2.0}
"""Milliseconds that 99 % of the gaps are not to exceed, by pace."""


def measure(context: Context) -> Iterator[Table]:
    peers.module("scapy")
    from ..sides.scapy_worker import Worker

    seconds = context.pick(5.0, 0.5, 0.05)
    stamps = {}
    with (
        cpus.pinned(context.receivers_cpu),
        Worker(context.senders_cpu) as worker,
        veth_pair() as veth,
    ):
        for pps in PACES:
            context.progress.step(f"{pps:,} pps")
            stamps[pps] = _stamps(worker, veth, pps, seconds)
        lists = _lists_tables(context, worker, veth)
    yield _paces_table(context, stamps, seconds)
    yield _gaps_table(context, stamps)
    yield from lists


def _stamps(
    worker: "Worker", veth: Veth, pps: int, seconds: float
) -> list[int]:
    """When each frame came that was sent in so many seconds, in ns."""
    count = round(pps * seconds)
    # As many as are sent over and over, not too many to be built at once.
    frames = numbered(HEADER, pps, min(count, 1000))
    loop, rest = divmod(count, len(frames))
    assert not rest, f"{count} frames are not whole rounds"
    expected = frames * loop
    stamps: list[int] = []
    batch = PacketBatch(256)
    with RawSocket(veth.b, timestamps="software") as sock:
        sock.settimeout(PATIENCE)
        # The kernel begins to stamp a while after it was asked.
        with Probe() as probe:
            if not probe.wait_for(True, PATIENCE):
                raise GroundTruthError("the kernel does not stamp")
        sending = worker.send(veth.a, frames, pps, loop)
        while len(stamps) < count:
            received = sock.recvmmsg_into(batch)
            begin = len(stamps)
            if batch.tolist() != expected[begin : begin + received]:
                raise GroundTruthError(f"frame {begin} or after is not next")
            assert batch.timestamps_ns is not None
            stamps += batch.timestamps_ns[:received]
        dropped = sock.statistics().packets_dropped
    if dropped or sending.result().frames != count:
        raise GroundTruthError(f"of {count} frames {dropped} were dropped")
    return stamps


def _looped(
    worker: "Worker", veth: Veth, length: int, count: int, pace: _Pace
) -> "SendResult":
    """Sends about `count` frames, a list of `length` over and over, and
    counts them."""
    loop = max(2, round(count / length))
    with RawSocket(veth.b, rcvbuf=1 << 27, filter=_OURS) as sock:
        frames = numbered(HEADER, length, length)
        result = worker.send_looped(veth.a, frames, loop, **pace).result()
        sock.settimeout(0)
        batch = PacketBatch(1024)
        received = 0
        with suppress(BlockingIOError):
            while True:
                received += sock.recvmmsg_into(batch)
        dropped = sock.statistics().packets_dropped or 0
    if not result.frames == received + dropped == loop * length:
        raise GroundTruthError(
            f"of {loop * length} frames {result.frames} were sent, {received}"
            f" came, and {dropped} were dropped"
        )
    return result


def _lists_tables(
    context: Context, worker: "Worker", veth: Veth
) -> list[Table]:
    seconds = context.pick(2.0, 0.3, 0.01)
    longest = context.pick(100.0, 2.0, 0.02)  # at one frame a second
    slowest = context.pick(1.0, 20.0, 500.0)

    def kept(length: int, pps: float, seconds: float, axis: str) -> float:
        size = len(numbered(HEADER, 1, 1)[0])
        values = {"pps": pps, "mbps": pps * size * 8 / 1e6, "inter": 1 / pps}
        count = max(3 * length, round(pps * seconds) + 1)
        pace = {axis: values[axis]}
        result = _looped(worker, veth, length, count, pace)
        return (result.frames - 1) / result.seconds / pps

    cases = [
        (length, pps, seconds, "pps")
        for length in LISTS
        for pps in (20_000.0, 100_000.0)
    ]
    cases += [(3, 20_000.0, seconds, axis) for axis in ("mbps", "inter")]
    cases += [(3, slowest, longest, axis) for axis in ("pps", "inter")]
    sides = [
        Side(
            f"{length:,} at {pps:,g} pps, {axis}=",
            partial(kept, length, pps, duration, axis),
            at_least=0.99,
            at_most=1.01,
        )
        for length, pps, duration, axis in cases
    ]
    looped = Table(
        key="scapy_pace/lists",
        title="Lists of any length, looped",
        unit="of the pace",
        samples=context.rounds(sides, turns=1),
        sides=sides,
    )
    count = context.pick(500_000, 100_000, 4_000)

    def rate(length: int) -> float:
        return _looped(worker, veth, length, count, {}).rate / 1e6

    sides = [
        Side(f"{length:,} looped", partial(rate, length)) for length in LISTS
    ]
    unpaced = Table(
        key="scapy_pace/unpaced",
        title="The same without a pace",
        unit="Mpps",
        samples=context.rounds(sides, turns=context.pick(5, 3, 1)),
        sides=sides,
    )
    return [looped, unpaced]


def _paces_table(context: Context, stamps: _Stamps, seconds: float) -> Table:
    def pace(pps: int) -> float:
        first, *_, last = stamps[pps]
        return (len(stamps[pps]) - 1) / (last - first) * 1e9 / pps

    sides = [
        Side(f"{pps:,} pps", partial(pace, pps), at_least=0.99, at_most=1.01)
        for pps in stamps
    ]
    return Table(
        key="scapy_pace/pace",
        title=f"sendp_batch(pps=) over {seconds:g} s",
        unit="of the pace",
        samples=context.rounds(sides, turns=1),
        sides=sides,
    )


def _gaps_table(context: Context, stamps: _Stamps) -> Table:
    gaps = {
        pps: sorted((b - a) / 1e6 for a, b in pairwise(found))
        for pps, found in stamps.items()
    }

    def of_99_percent(pps: int) -> float:
        return gaps[pps][math.ceil(0.99 * len(gaps[pps])) - 1]

    def others(pps: int) -> dict[str, float]:
        return {
            "half of them, ms": statistics.median(gaps[pps]),
            "longest, ms": gaps[pps][-1],
        }

    sides = [
        Side(
            f"{pps:,} pps",
            partial(of_99_percent, pps),
            at_most=LONGEST_GAPS.get(pps),
            extra=partial(others, pps),
        )
        for pps in gaps
    ]
    return Table(
        key="scapy_pace/gaps",
        title="What 99 % of the gaps between frames do not exceed",
        unit="ms",
        samples=context.rounds(sides, turns=1),
        sides=sides,
    )
