"""The pace of sendp_batch().

A process on one CPU sends 64-byte frames, numbered, with sendp_batch(pps=);
another on the other CPU receives each with the kernel's time stamp, which is
taken in the sender's context, and checks that it is the next. The pace is that
of the stamps, from the first frame to the last. What is due within 0.2 ms
leaves in one call, so at 10,000 frames a second and more some gaps are next
to nothing and others make up for it.
"""

import math
import statistics
from collections.abc import Iterator, Mapping
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
    from ..sides.scapy_worker import Worker

PACES: Final = (1_000, 10_000, 100_000)

_Stamps: TypeAlias = Mapping[int, list[int]]  # by pace: when frames came, ns

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
    yield _paces_table(context, stamps, seconds)
    yield _gaps_table(context, stamps)


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
