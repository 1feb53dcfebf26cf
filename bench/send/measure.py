"""How fast frames leave: from Python, from C and by other programs.

One CPU sends, and does the kernel's work at both ends, too. The far side
counts every frame and keeps one of each batch, which is compared to the byte.
Before it is timed, each contender has sent a batch that was compared entirely.

- In this process, batches of 64: rawmmsg from a PacketBatch and from a list
  of bytes; C with sendmmsg(2) from the same memory by the same socket; a ring
  that the kernel sends from (PACKET_TX_RING), into which each frame is copied
  or in which it is already; libpcap's pcap_inject() from C, on a handle that
  can also receive and on one that is send-only, and from pcapy-ng and cypcap;
  the socket module.
- As programs: tcpreplay at top speed, with its defaults and with its best
  options, and trafgen. They send 1,024 frames over and over for a part of a
  second, and print how long that took. rawmmsg sends the same frames.
- Once: Scapy's sendp() of 1,024 packets made before, by a socket that is open
  already, and rawmmsg sending a list of the same frames.
"""

from collections.abc import Iterator
from typing import Final

from ..lab import cpus
from ..lab.contender import Contender, control
from ..lab.native import COPY, INJECT, SEND_ONLY
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab
from . import sides
from .sides import Place

SIZES: Final = (64, 1500)
BATCH: Final = 64
FILE: Final = 1024  # frames that a program sends over and over

# The targets are for rawmmsg: its rate as a multiple of another one. In the
# tables, the others are measured as multiples of rawmmsg.
OF_C: Final = 0.97
OF_A_RING: Final = 0.95
OF_LIBPCAP: Final = 1.3
OF_TCPREPLAY: Final = 1.3
OF_SCAPY: Final = 25.0

_C: Final = Contender("C sendmmsg", sides.in_c("send/side.c:calls"))
_BATCH: Final = sides.rawmmsg(lambda frames: frames.out)
_BYPASS: Final = sides.rawmmsg(lambda frames: frames.out, qdisc_bypass=True)
_LIST: Final = sides.rawmmsg(lambda frames: frames.packets)
_RING: Final = "send/ring.c"
_PCAP: Final = "send/side.c:pcap"

IN_PROCESS: Final = (
    _C,
    control(_C),
    Contender("rawmmsg", _BATCH, "C sendmmsg", at_least=OF_C),
    Contender("rawmmsg, list", _LIST, "C sendmmsg"),
    Contender("rawmmsg, qdisc_bypass", _BYPASS, "C sendmmsg"),
    Contender(
        *("TX ring (C)", sides.in_c(_RING, COPY), "rawmmsg"),
        at_most=1 / OF_A_RING,
    ),
    Contender("TX ring (C), in place", sides.in_c(_RING), "rawmmsg"),
    Contender(
        *("libpcap inject (C)", sides.in_c(_PCAP, INJECT), "rawmmsg"),
        at_most=1 / OF_LIBPCAP,
    ),
    Contender(
        "libpcap inject (C), send-only",
        sides.in_c(_PCAP, INJECT | SEND_ONLY),
        "rawmmsg",
    ),
    Contender("pcapy-ng", sides.pcapy, "rawmmsg"),
    Contender("cypcap, send-only", sides.cypcap, "rawmmsg"),
    Contender("stdlib", sides.stdlib, "rawmmsg"),
)

_PRELOADED: Final = ("--preload-pcap", "--no-flow-stats")

PROGRAMS: Final = (
    Contender("rawmmsg", _BATCH),
    control(Contender("rawmmsg", _BATCH), None),
    Contender(
        *("tcpreplay --topspeed", sides.tcpreplay(), "rawmmsg"),
        at_most=1 / OF_TCPREPLAY,
    ),
    Contender("tcpreplay, preloaded", sides.tcpreplay(*_PRELOADED), "rawmmsg"),
    Contender("trafgen", sides.trafgen, "rawmmsg"),
)

ONCE: Final = (
    Contender("rawmmsg, list", _LIST),
    control(Contender("rawmmsg, list", _LIST), None),
    Contender(
        "Scapy sendp", sides.scapy, "rawmmsg, list", at_most=1 / OF_SCAPY
    ),
)


def measure(lab: Lab) -> Iterator[Table]:
    count = lab.pick(FILE, FILE, BATCH)
    few = lab.pick(SIZES, SIZES[:1], SIZES[-1:])
    with cpus.pinned(lab.senders_cpu):
        for size in lab.sizes(SIZES):
            with Place(BATCH, size) as place:
                yield lab.table(
                    f"send/{size}B",
                    f"Sending {size:,}-byte frames, {BATCH} a batch",
                    *("Mpps", IN_PROCESS, place, lab.slices),
                )
        for size in lab.sizes(few):
            with Place(count, size) as place:
                yield lab.table(
                    f"send/{size}B/programs",
                    f"Sending {count:,} {size:,}-byte frames over and over",
                    *("Mpps", PROGRAMS, place, lab.long_slices),
                )
        for size in lab.sizes(few):
            with Place(count, size) as place:
                yield lab.table(
                    f"send/{size}B/once",
                    f"Sending {count:,} {size:,}-byte frames once",
                    *("Mpps", ONCE, place, lab.long_slices),
                    calibrate=Calibrate.ONCE,
                )
