"""Send: how fast frames leave, batch by batch, from Python, from C and by
other people's programs.

One CPU sends, and does the kernel's part on either end as well. The far side
counts every frame, and keeps one of each batch, which is compared to the byte;
before it is timed, each side has sent a batch of which every frame was.

- In this process, 64 frames a batch, in slices: rawmmsg, from a PacketBatch
  and from a list of bytes; C, with sendmmsg(2) from the same memory by the
  same socket; a ring that the kernel sends from (PACKET_TX_RING), into which
  each frame is copied or in which it lies already; libpcap's pcap_inject()
  from C, on a handle that can receive as well and on one that is deaf, and by
  pcapy-ng and cypcap; the socket module.
- As programs, in rounds: tcpreplay at top speed, as it is mostly run and
  preloaded, and trafgen, which cycle through 1,024 frames for a part of a
  second and say how long it took; and rawmmsg with the same frames.
- Once: Scapy's sendp() of 1,024 frames, made before, by a socket that is open
  already, and rawmmsg's sendmmsg_all() of a list of the same.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from ..framework import Context, Table
from ..sides import senders, sending_programs
from ..sides.send_slices import Arena, Contender
from ..sides.ways import COPY, DEAF
from ..tools import cpus

SIZES: Final = (64, 1500)
BATCH: Final = 64
FILE: Final = 1024  # frames that a program cycles through, and Scapy sends

# What rawmmsg is to reach, as a multiple of others. A side is judged as a
# multiple of its limit: theirs, of rawmmsg, are the reciprocals.
OF_C: Final = 0.97
OF_A_RING: Final = 0.95
OF_LIBPCAP: Final = 1.3
OF_TCPREPLAY: Final = 1.3
OF_SCAPY: Final = 25.0

_FROM_BATCH: Final = senders.rawmmsg(lambda frames: frames.out)
_FROM_LIST: Final = senders.rawmmsg(lambda frames: frames.packets)
_LIMIT: Final = senders.in_c("send_calls.c")

IN_PROCESS: Final = (
    Contender("C sendmmsg", _LIMIT),
    Contender(
        "C sendmmsg, control",
        _LIMIT,
        "C sendmmsg",
        at_least=0.99,
        at_most=1.01,
    ),
    Contender("rawmmsg", _FROM_BATCH, "C sendmmsg", at_least=OF_C),
    Contender("rawmmsg, list", _FROM_LIST, "C sendmmsg"),
    Contender("rawmmsg, qdisc_bypass", senders.rawmmsg_bypass, "C sendmmsg"),
    Contender(
        "TX ring (C)",
        senders.in_c("send_ring.c", options=COPY),
        "rawmmsg",
        at_most=1 / OF_A_RING,
    ),
    Contender("TX ring (C), in place", senders.in_c("send_ring.c"), "rawmmsg"),
    Contender(
        "libpcap inject (C)",
        senders.in_c("send_pcap.c", "pcap", own=True),
        "rawmmsg",
        at_most=1 / OF_LIBPCAP,
    ),
    Contender(
        "libpcap inject (C), deaf",
        senders.in_c("send_pcap.c", "pcap", options=DEAF, own=True),
        "rawmmsg",
        note="on a handle that cannot receive as well",
    ),
    Contender("pcapy-ng", senders.pcapy, "rawmmsg"),
    Contender(
        "cypcap, deaf",
        senders.cypcap,
        "rawmmsg",
        note="on a handle that cannot receive as well",
    ),
    Contender("stdlib", senders.stdlib, "rawmmsg"),
)

PROGRAMS: Final = (
    Contender("rawmmsg", _FROM_BATCH),
    Contender(
        "tcpreplay --topspeed",
        sending_programs.tcpreplay_from_file,
        "rawmmsg",
        at_most=1 / OF_TCPREPLAY,
    ),
    Contender(
        "tcpreplay, preloaded",
        sending_programs.tcpreplay,
        "rawmmsg",
        note="--preload-pcap --no-flow-stats",
    ),
    Contender("trafgen", sending_programs.trafgen, "rawmmsg"),
)

ONCE: Final = (
    Contender("rawmmsg, list", _FROM_LIST),
    Contender(
        "Scapy sendp",
        sending_programs.scapy,
        "rawmmsg, list",
        at_most=1 / OF_SCAPY,
    ),
)


def in_process(context: Context, size: int) -> Table:
    """What lives in this process, in slices."""
    with Arena(BATCH, size) as arena:
        sides, missing = arena.sides(IN_PROCESS, context.slice_seconds)
        return Table(
            f"send/{size}B",
            f"Sending {size}-byte frames, {arena.frames.batch} a batch",
            "Mpps",
            context.slices(sides),
            sides,
            missing,
        )


def in_rounds(
    context: Context,
    size: int,
    key: str,
    contenders: Sequence[Contender],
    seconds: float | None,
) -> Table:
    """The others: over and over for some `seconds`, or once."""
    with Arena(context.pick(FILE, FILE, BATCH), size) as arena:
        sides, missing = arena.sides(contenders, seconds)
        how = "once" if seconds is None else "over and over"
        return Table(
            f"send/{size}B/{key}",
            f"Sending {arena.frames.batch} {size}-byte frames {how}",
            "Mpps",
            context.rounds(sides),
            sides,
            missing,
        )


def measure(context: Context) -> Iterator[Table]:
    with cpus.pinned(context.senders_cpu):
        for size in SIZES:
            yield in_process(context, size)
        few = context.pick(SIZES, SIZES[:1], SIZES[-1:])
        for size in few:
            seconds = context.round_seconds
            yield in_rounds(context, size, "programs", PROGRAMS, seconds)
        for size in few:
            yield in_rounds(context, size, "once", ONCE, None)
