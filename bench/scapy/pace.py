"""The pace of sendp_batch(). Import it only if Scapy is installed."""

import math
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.scapy import SendResult
from rawmmsg.testing import Veth, veth_pair

from ..lab import cpus
from ..lab.contender import Contender, GroundTruthError, Ready, Slice
from ..lab.environment import StampProbe
from ..lab.link import HEADER, PATIENCE
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab, Pace
from .listeners import SIZE, numbered
from .worker import Worker

# By pace: 99 % of the gaps are at most this many milliseconds long.
PACES: Final = {1_000: 2.0, 10_000: None, 100_000: None}

LISTS: Final = (1, 2, 3, 5, 16, 1_000)  # frames of the lists that are looped

_OURS: Final = "ether proto 0x88b5"  # not frames that the kernel sends


@dataclass(frozen=True)
class Place:
    """A process that sends on a veth pair, and for how long. `stamps` has the
    timestamps of the frames received at each pace, in ns."""

    worker: Worker
    veth: Veth
    seconds: float
    stamps: dict[int, list[int]] = field(default_factory=dict)


def stamps_of(
    worker: Worker, veth: Veth, pps: int, seconds: float
) -> list[int]:
    """The arrival times of the frames that are sent within `seconds`."""
    count = round(pps * seconds)
    # They are sent over and over: to build all of them would take long.
    frames = numbered(HEADER, pps, min(count, 1000))
    loop, rest = divmod(count, len(frames))
    assert not rest, f"{count} frames are not whole repetitions"
    expected = frames * loop
    stamps: list[int] = []
    batch = PacketBatch(256)
    with RawSocket(veth.b, timestamps="software") as sock:
        sock.settimeout(PATIENCE)
        # The kernel starts to timestamp some time after it was asked.
        with StampProbe() as probe:
            if not probe.wait_for(True, PATIENCE):
                raise GroundTruthError("the kernel makes no timestamps")
        sending = worker.send(veth.a, frames, loop, pps=pps)
        while len(stamps) < count:
            received = sock.recvmmsg_into(batch)
            begin = len(stamps)
            if batch.tolist() != expected[begin : begin + received]:
                raise GroundTruthError(f"a wrong frame at {begin} or after")
            stamps += batch.timestamps_ns[:received]
        dropped = sock.statistics().packets_dropped
    if dropped or sending.result().frames != count:
        raise GroundTruthError(f"of {count} frames {dropped} were dropped")
    return stamps


def _prepared(
    measure: Callable[..., Slice], *arguments: object
) -> Callable[[Place], Ready]:
    """Makes a function of the place, and more, ready for the runner."""
    return lambda place: Ready(lambda _: measure(place, *arguments))


def _pace(place: Place, pps: int) -> Slice:
    stamps = stamps_of(place.worker, place.veth, pps, place.seconds)
    place.stamps[pps] = stamps
    seconds = (stamps[-1] - stamps[0]) / 1e9
    return Slice((len(stamps) - 1) / seconds / pps)


def _gaps(place: Place, pps: int) -> Slice:
    gaps = sorted((b - a) / 1e6 for a, b in pairwise(place.stamps[pps]))
    half, longest = statistics.median(gaps), gaps[-1]
    extra = {"half of them, ms": half, "longest, ms": longest}
    return Slice(gaps[math.ceil(0.99 * len(gaps)) - 1], extra=extra)


def _looped(
    place: Place, length: int, count: float, **pace: float
) -> SendResult:
    """Sends about `count` frames, a list of `length` over and over, and counts
    them."""
    loop = max(2, round(count / length))
    with warnings.catch_warnings():
        # A smaller buffer is enough: frames dropped are counted.
        warnings.simplefilter("ignore", RuntimeWarning)
        sock = RawSocket(place.veth.b, rcvbuf=1 << 27, filter=_OURS)
    with sock:
        frames = numbered(HEADER, length, length)
        result = place.worker.send(place.veth.a, frames, loop, **pace).result()
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
            f" received, {dropped} dropped"
        )
    return result


def _kept(
    place: Place, length: int, pps: float, seconds: float, axis: str
) -> Slice:
    values = {"pps": pps, "mbps": pps * SIZE * 8 / 1e6, "inter": 1 / pps}
    count = max(3 * length, round(pps * seconds) + 1)
    result = _looped(place, length, count, **{axis: values[axis]})
    return Slice((result.frames - 1) / result.seconds / pps)


def _unpaced(place: Place, length: int, count: int) -> Slice:
    return Slice(_looped(place, length, count).rate / 1e6)


def _cases(lab: Lab) -> Iterator[tuple[int, float, float, str]]:
    """The length of a list, the pace, the seconds, the option."""
    seconds = lab.pick(2.0, 0.3, 0.01)
    for length in LISTS:
        yield length, 20_000.0, seconds, "pps"
        yield length, 100_000.0, seconds, "pps"
    yield 3, 20_000.0, seconds, "mbps"
    yield 3, 20_000.0, seconds, "inter"
    slowest, longest = lab.pick((1.0, 100.0), (20.0, 2.0), (500.0, 0.02))
    yield 3, slowest, longest, "pps"
    yield 3, slowest, longest, "inter"


def _exact(
    name: str, measure: Callable[..., Slice], *arguments: object
) -> Contender[Place]:
    prepare = _prepared(measure, *arguments)
    return Contender(name, prepare, at_least=0.99, at_most=1.01)


def measure(lab: Lab) -> Iterator[Table]:
    seconds = lab.pick(5.0, 0.5, 0.05)
    count = lab.pick(500_000, 100_000, 4_000)
    exact = [_exact(f"{pps:,} pps", _pace, pps) for pps in PACES]
    gaps = [
        Contender(f"{pps:,} pps", _prepared(_gaps, pps), at_most=most)
        for pps, most in PACES.items()
    ]
    lists = [
        _exact(f"{length:,} at {pps:,g} pps, {axis}=", _kept, *case)
        for case in _cases(lab)
        for length, pps, _, axis in [case]
    ]
    unpaced = [
        Contender(f"{length:,} looped", _prepared(_unpaced, length, count))
        for length in LISTS
    ]
    tables = [
        ("pps", f"sendp_batch(pps=) over {seconds:g} s", "of the pace", exact),
        (
            "gaps",
            "The longest gap between frames, without the longest 1 %",
            *("ms", gaps),
        ),
        ("lists", "Lists of any length, looped", "of the pace", lists),
        ("unpaced", "The same without a pace", "Mpps", unpaced),
    ]
    with (
        cpus.pinned(lab.receivers_cpu),
        Worker(lab.senders_cpu) as worker,
        veth_pair() as veth,
    ):
        place = Place(worker, veth, seconds)
        for key, title, unit, contenders in tables:
            rounds = lab.pick(5, 3, 1) if contenders is unpaced else 1
            yield lab.table(
                f"scapy/pace/{key}",
                *(title, unit, contenders, place, Pace(rounds, seconds)),
                calibrate=Calibrate.ONCE,
            )
