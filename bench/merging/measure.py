"""The gain of merging UDP datagrams into super-frames before they are sent.

Datagrams with complete checksums are in a batch, as plain frames: frames of 64
bytes, and packets of 1,500 bytes with 1,472 of payload. "merged": each slice
checks, merges and sends them; rawmmsg with merge_into() and sendmmsg_all(), C
the same with code of its own. The others send them as they are. One CPU sends,
and does the kernel's work at both ends, too.

In a slice the far side counts frames and bytes, so super-frames that are too
few or too many are found, and cuts and compares one (super-)frame of each
batch. Before a contender is timed it sends a million datagrams, in parts that
the queues of the receivers can keep. A packet socket receives them with their
offload headers, each super-frame is cut with segment_into(), and each datagram
is compared. A UDP socket compares them as well; the kernel cuts them for it.

- "programs": trafgen, and tcpreplay with its best options.
- "software": the sending interface cannot segment UDP (ethtool -K
  tx-udp-segmentation off), so the kernel cuts the super-frames.
- "receiving": batches that were sent merged or as they are, and only receiving
  them is timed; the kernel's work of putting them into the queue of the socket
  belongs to sending. rawmmsg cuts super-frames with segment_into(): at the end
  both have the same plain frames.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ..lab import cpus
from ..lab.contender import Comparison, Contender, control
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab, Pace
from ..send import sides as send
from . import receive, sides

# Bytes of a frame, by the size that is asked for.
SIZES: Final = {64: 64, 1500: 1514}
BATCH: Final = 1024
RECEIVED: Final = 256  # in a batch of which all super-frames fit the cache
PROOF: Final = 1_000_000

MERGED: Final = "rawmmsg, merged"
C_MERGED: Final = "C, merged"
PLAIN: Final = "C sendmmsg"
TRAFGEN: Final = "trafgen"
TCPREPLAY: Final = "tcpreplay, preloaded"

# The rate of rawmmsg as a multiple of others, by table and size.
TARGETS: Final[Mapping[str, Mapping[int, Mapping[str, float | None]]]] = {
    "": {
        64: {C_MERGED: 0.9, PLAIN: 20},
        1500: {C_MERGED: 0.95, PLAIN: 6},
    },
    "/programs": {
        64: {TRAFGEN: 20, TCPREPLAY: 25},
        1500: {TRAFGEN: None, TCPREPLAY: None},
    },
    "/software": {
        64: {C_MERGED: None, PLAIN: 1.6},
        1500: {C_MERGED: None, PLAIN: 1.4},
    },
}

_C: Final = Contender(C_MERGED, sides.in_c)
_SENDERS: Final[Sequence[Contender[Any]]] = (
    _C,
    control(_C),
    Contender(MERGED, sides.rawmmsg),
    Contender(PLAIN, send.in_c("send/side.c:calls")),
    Contender("rawmmsg", send.rawmmsg(lambda frames: frames.out), PLAIN),
)
_PRELOADED: Final = ("--preload-pcap", "--no-flow-stats")
_PROGRAMS: Final[Sequence[Contender[Any]]] = (
    Contender(MERGED, sides.rawmmsg),
    control(Contender(MERGED, sides.rawmmsg), None),
    Contender(TRAFGEN, send.trafgen),
    Contender(TCPREPLAY, send.tcpreplay(*_PRELOADED)),
)


def measure(lab: Lab) -> Iterator[Table]:
    sides.require_super_frames()
    sizes = lab.sizes(lab.pick([*SIZES], [*SIZES], [64]))
    for size in sizes:
        with cpus.pinned(lab.senders_cpu):
            yield _send(lab, size, "", "Sending", _SENDERS, lab.slices)
            yield _send(
                *(lab, size, "/programs", "Programs send"),
                *(_PROGRAMS, lab.long_slices),
            )
        with (
            cpus.pinned(lab.receivers_cpu),
            receive.place(RECEIVED, SIZES[size]) as place,
        ):
            yield lab.table(
                f"merging/{size}B/receiving",
                f"Receiving UDP in {SIZES[size]:,}-byte frames",
                *("Mpps", receive.CONTENDERS, place, lab.slices),
                calibrate=Calibrate.EACH,
            )
    for size in sizes:  # last, because ethtool may be missing
        with cpus.pinned(lab.senders_cpu):
            yield _send(
                *(lab, size, "/software", "The kernel cuts"),
                *(_SENDERS, lab.slices),
            )


def _send(
    lab: Lab,
    size: int,
    table: str,
    title: str,
    contenders: Sequence[Contender[Any]],
    pace: Pace,
) -> Table:
    proof = lab.pick(PROOF, PROOF // 10, 2 * BATCH)
    batch = lab.pick(BATCH, BATCH, BATCH // 8)
    segments = table != "/software"
    with sides.Place(batch, SIZES[size], proof, segments=segments) as place:
        return lab.table(
            f"merging/{size}B{table}",
            f"{title} UDP in {SIZES[size]:,}-byte frames",
            *("Mpps", contenders, place, pace),
            calibrate=Calibrate.EACH,
            comparisons=[
                Comparison(MERGED, name, at_least=multiple)
                for name, multiple in TARGETS[table][size].items()
            ],
        )
