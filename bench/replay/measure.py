"""Recordings that are sent: how fast, how exactly, and with how much memory.

One CPU sends, and does the kernel's work at both ends, too. The far side
counts every frame.

- Over and over: a file of 1,024 frames, 200 times. The time is what the
  programs print: without that to start and to read the file. The kernel's work
  for a frame is the limit of all, also of C (`send`). "merged": the
  datagrams of one flow leave as super-frames; the far side cuts and compares
  one of each round.
- Once: a file of a gigabyte with frames of one flow, of UDP and of TCP. The
  time is that of the whole program, since the file has to be read; tcpreplay
  --preload-pcap reads it before it sends. Both find it in the page cache.
- Gaps: frames with random gaps, recorded in microseconds, are sent at these
  times. The kernel stamps each when it arrives. A gap is wrong by the
  difference between recorded and received time. The figure is what 99 % of
  the gaps do not exceed, "duration" what the whole recording has taken. The
  programs have a real-time priority, so other processes do not count.
- Memory: the most that the programs have while they send a file of 4 GB, with
  the pages of the file that they map (VmHWM). Its frames have 60,000 bytes.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any, Final

from ..lab import cpus
from ..lab.contender import Contender, control
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab, Pace
from ..merging import sides as merging
from ..merging.frames import Datagrams, Segments
from ..send import sides as send
from . import sides

FILE: Final = 1024  # frames
# Bytes of a frame, by the size that is asked for.
SIZES: Final = {64: 64, 1500: 1514}
PROOF: Final = 8 * FILE

# The rate of rawmmsg as a multiple of tcpreplay's.
PLAIN: Final = 1.3
MERGED: Final = 8.0

WITHIN: Final = 300  # microseconds
MEMORY: Final = 300  # megabytes

_NAME: Final = "rawmmsg replay"
_MERGED_NAME: Final = "rawmmsg replay --merge"
_PRELOADED: Final = "tcpreplay --preload-pcap"
_BEST: Final = "tcpreplay --preload-pcap --no-flow-stats"

_PLAIN: Final = Contender(_NAME, sides.looped(sides.rawmmsg))
_MERGING: Final = Contender(_MERGED_NAME, sides.looped(sides.merged))


def _tcpreplay(baseline: str, at_most: float) -> list[Contender[Any]]:
    preloaded = sides.looped(send.tcpreplay("--preload-pcap"))
    best = sides.looped(send.tcpreplay("--preload-pcap", "--no-flow-stats"))
    return [
        Contender(_PRELOADED, preloaded, baseline, at_most=at_most),
        Contender(_BEST, best, baseline),
        Contender("tcpreplay", sides.looped(send.tcpreplay()), baseline),
    ]


_ONCE: Final = Contender(_NAME, sides.once(sides.replays, "--top-speed"))

ONCE: Final = (
    _ONCE,
    control(_ONCE, None),
    Contender(
        _PRELOADED,
        sides.once(sides.tcpreplays, "--topspeed", "--preload-pcap"),
        *(_NAME,),
        at_most=1 / PLAIN,
    ),
    Contender("tcpreplay", sides.once(sides.tcpreplays, "--topspeed"), _NAME),
    Contender(
        _MERGED_NAME,
        sides.once(sides.replays, "--top-speed", "--merge", merges=True),
        _PRELOADED,
        at_least=MERGED,
    ),
)

GAPS: Final = (
    Contender(_NAME, sides.follows(sides.replays), at_most=WITHIN),
    Contender("tcpreplay", sides.follows(sides.tcpreplays)),
    Contender(
        "tcpreplay --timer=nano",
        sides.follows(sides.tcpreplays, "--preload-pcap", "--timer=nano"),
    ),
)

MEMORIES: Final = (
    Contender(
        _NAME, sides.memory(sides.replays, "--top-speed"), at_most=MEMORY
    ),
    Contender("tcpreplay", sides.memory(sides.tcpreplays, "--topspeed")),
)


def measure(lab: Lab) -> Iterator[Table]:
    with cpus.pinned(lab.senders_cpu):
        yield from _looped(lab)
        yield from _once(lab)
        yield from _gaps(lab)
        yield from _memory(lab)
        yield from _merged(lab)


def _looped(lab: Lab) -> Iterator[Table]:
    count = lab.pick(FILE, FILE, 64)
    for size in lab.sizes(tuple(SIZES)):
        with send.Place(count, size) as place:
            yield lab.table(
                f"replay/loop/{size}B",
                f"A file of {count:,} {size:,}-byte frames, {sides.LOOPS}"
                " times",
                "Mpps",
                [_PLAIN, control(_PLAIN, None), *_tcpreplay(_NAME, 1 / PLAIN)],
                *(place, lab.long_slices),
            )


def _merged(lab: Lab) -> Iterator[Table]:
    count = lab.pick(FILE, FILE, 64)
    merging.require_super_frames()
    for size in lab.sizes(tuple(SIZES)):
        proof = lab.pick(PROOF, PROOF, count)
        with merging.Place(count, SIZES[size], proof) as place:
            yield lab.table(
                f"replay/merged/{size}B",
                f"A file of {count:,} {SIZES[size]:,}-byte datagrams,"
                f" {sides.LOOPS} times",
                "Mpps",
                [
                    *(_MERGING, control(_MERGING, None)),
                    *_tcpreplay(_MERGED_NAME, 1 / MERGED),
                ],
                *(place, lab.long_slices),
            )


def _once(lab: Lab) -> Iterator[Table]:
    if not lab.sizes((1500,)):
        return
    size = lab.pick(10**9, 10**8, 10**6)
    for protocol, make in ("UDP", Datagrams), ("TCP", Segments):
        with sides.LargeFile(size, make(SIZES[1500])) as place:
            yield lab.table(
                f"replay/once/{protocol}",
                f"A file of {place.bytes / 1e6:,.0f} MB of {protocol}, once",
                *("Mpps", ONCE, place, Pace(lab.pick(5, 3, 1), 0)),
                calibrate=Calibrate.ONCE,
            )


def _gaps(lab: Lab) -> Iterator[Table]:
    rng = random.Random(1)
    gaps = (rng.expovariate(1) for _ in itertools.count())
    pace = Pace(lab.pick(15, 3, 1), 0)
    for mean in lab.pick((1e-3, 1e-4), (1e-3, 1e-4), (1e-4,)):
        count = round(lab.pick(3, 1, 0.01) / mean)
        with sides.Gaps(count, mean, lab.receivers_cpu, gaps) as place:
            yield lab.table(
                f"replay/gaps/{mean * 1e3:g}ms",
                f"{count:,} random gaps of {mean * 1e3:g} ms on average",
                *("us", GAPS, place, pace),
                calibrate=Calibrate.ONCE,
            )


def _memory(lab: Lab) -> Iterator[Table]:
    size = lab.pick(4 * 10**9, 10**9, 10**7)
    with sides.SparseFile(size, lab.receivers_cpu) as place:
        yield lab.table(
            "replay/memory",
            f"A file of {size / 1e9:g} GB, once",
            *("MB", MEMORIES, place, Pace(lab.pick(3, 1, 1), 0)),
            calibrate=Calibrate.ONCE,
        )
