"""The cost of checksums from scratch.

compute_checksums() and verify_checksums() of a batch of 64 frames that lie in
memory: UDP and TCP over IPv4, of 64 and 1,500 bytes. C is a loop that knows
that all frames are such, and takes the same sums on the same memory; memcpy()
copies every frame. SCTP has a CRC32c instead, which is shown as a rate. Times
are those of the CPU, so that other programs on it do not count. All frames
have new numbers and wrong checksums before each slice, and are compared to the
byte after it.
"""

from collections.abc import Iterator
from typing import Final

from ..lab import cpus
from ..lab.contender import Comparison, Contender, control
from ..lab.packets import SCTP, TCP, UDP
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab
from .frames import Maker
from .sides import Computing, Copying, Native, Place, Verifying, prepared

BATCH: Final = 64
SIZES: Final = (64, 1500)

_C: Final = Contender("C", prepared(Native))

CONTENDERS: Final = (
    _C,
    Contender("rawmmsg", prepared(Computing), "C", at_most=1.1),
    Contender("rawmmsg, verify", prepared(Verifying), "C"),
    Contender("memcpy", prepared(Copying), "C"),
    control(_C),
)
COMPARISONS: Final = (Comparison("rawmmsg", "memcpy"),)

_CRC: Final = Contender("rawmmsg", prepared(Computing, rate=True), "memcpy")

CRC_CONTENDERS: Final = (
    Contender("memcpy", prepared(Copying, rate=True)),
    _CRC,
    Contender("rawmmsg, verify", prepared(Verifying, rate=True), "memcpy"),
    control(_CRC, None),
)


def measure(lab: Lab) -> Iterator[Table]:
    with cpus.pinned(lab.receivers_cpu):
        for size in lab.sizes(SIZES):
            for name, protocol in (("UDP", UDP), ("TCP", TCP)):
                yield lab.table(
                    f"checksums/{size}B/{name.lower()}",
                    f"Checksums of {name}, {size:,} bytes",
                    *("ns/packet", CONTENDERS),
                    *(Place(Maker(protocol, size), BATCH), lab.slices),
                    calibrate=Calibrate.EACH,
                    comparisons=COMPARISONS,
                )
        size = SIZES[-1]
        yield lab.table(
            "checksums/sctp",
            f"CRC32c of SCTP, {size:,} bytes",
            *("Gbit/s", CRC_CONTENDERS),
            *(Place(Maker(SCTP, size), BATCH), lab.slices),
            calibrate=Calibrate.EACH,
        )
