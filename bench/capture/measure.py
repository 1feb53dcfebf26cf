"""How many frames are received when they are sent as fast as possible.

One CPU sends in C, 64 numbered frames a call of sendmmsg(2); another receives:
C with recvmmsg(2), bare, with auxdata for VLAN tags, which rawmmsg asks for by
default, and with timestamps; rawmmsg; the socket module; the packet rings and
libpcap in immediate mode, with the frames left in place or copied to the
caller's memory; libpcap buffered, where frames arrive in blocks; and AF_XDP in
copy mode. Queues and rings have 16 MiB if the system allows it.

The figure is the rate at which frames were received, until the last one. With
a ring the sender's context pays for the copy, with recvmmsg(2) the receiver:
the CPU times include the kernel's work. The numbers of the frames received
must grow, and the kernel must have counted the frames lost as dropped.
"""

from collections.abc import Iterator
from typing import Final

from ..lab import cpus
from ..lab.contender import Contender, control
from ..lab.link import AUXDATA, STAMPS, Link
from ..lab.native import BUFFERED, COPY, V3
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab
from .sides import Place, in_c, prepared, rawmmsg, stdlib, xdp

SIZES: Final = (64, 1500)

_C: Final = Contender("C", prepared(in_c("capture/side.c:calls", AUXDATA)))

CONTENDERS: Final = (
    _C,
    control(_C, None),
    *(
        Contender(name, prepared(start), "C")
        for name, start in (
            ("C, stamps", in_c("capture/side.c:calls", AUXDATA | STAMPS)),
            ("C, bare", in_c("capture/side.c:calls")),
            ("rawmmsg", rawmmsg(lambda link: link.rx, AUXDATA)),
            (
                "rawmmsg, stamps",
                rawmmsg(lambda link: link.rx_stamped, AUXDATA | STAMPS),
            ),
            ("stdlib", stdlib),
            ("TPACKET_V2", in_c("capture/side.c:ring")),
            ("TPACKET_V2, copied", in_c("capture/side.c:ring", COPY)),
            ("TPACKET_V3", in_c("capture/side.c:ring", V3)),
            ("TPACKET_V3, copied", in_c("capture/side.c:ring", V3 | COPY)),
            ("libpcap", in_c("capture/side.c:pcap")),
            ("libpcap, copied", in_c("capture/side.c:pcap", COPY)),
            ("libpcap, buffered", in_c("capture/side.c:pcap", BUFFERED)),
            ("AF_XDP", xdp),
        )
    ),
)


def measure(lab: Lab) -> Iterator[Table]:
    # Shorter slices than elsewhere, because there are many contenders.
    seconds = lab.long_slices.seconds * lab.pick(0.5, 0.4, 0.5)
    for size in lab.sizes(lab.pick(SIZES, SIZES, SIZES[-1:])):
        with cpus.pinned(lab.receivers_cpu), Link() as link:
            place = Place(link, size, seconds, lab.senders_cpu)
            yield lab.table(
                f"capture/{size}B",
                f"Receiving {size:,}-byte frames sent as fast as possible",
                *("Mpps", CONTENDERS, place, lab.long_slices),
                calibrate=Calibrate.ONCE,
            )
