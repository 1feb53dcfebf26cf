"""How long a frame takes there and back.

One CPU sends a frame and waits for it. Another CPU returns it, in C with
recv(2) and send(2), with the same code for all contenders. Every frame that
arrives is compared with the one sent. The figure is the median of a slice.

C uses sendmmsg(2) and recvmmsg(2) as rawmmsg calls them, or send(2) and
recv(2), which waits. rawmmsg uses batches of one, or send() and recv_into().
libpcap is in immediate mode, from C.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

from ..lab import cpus
from ..lab.contender import Contender, control
from ..lab.link import AUXDATA
from ..lab.native import INJECT, ONE_BY_ONE
from ..lab.result import Table
from ..lab.runner import Lab
from .sides import Place, batches, in_c, one_by_one, prepared, stdlib

SIZES: Final = (64, 1500)

_C: Final = Contender(
    "C recvmmsg", prepared(in_c("latency/side.c:calls", AUXDATA))
)

CONTENDERS: Final = (
    _C,
    control(_C),
    *(
        Contender(name, prepared(start), _C.name)
        for name, start in (
            ("C recv", in_c("latency/side.c:calls", ONE_BY_ONE)),
            ("rawmmsg", batches),
            ("rawmmsg, send and recv_into", one_by_one),
            ("stdlib", stdlib),
            ("libpcap (C)", in_c("latency/side.c:pcap", INJECT)),
        )
    ),
)


def measure(lab: Lab) -> Iterator[Table]:
    for size in lab.sizes(SIZES):
        with cpus.pinned(lab.senders_cpu), contextlib.ExitStack() as stack:
            place = Place(stack, lab.receivers_cpu, size)
            yield lab.table(
                f"latency/{size}B",
                f"A {size:,}-byte frame there and back",
                *("us", CONTENDERS, place, lab.slices),
            )
