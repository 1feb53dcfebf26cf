"""How long a frame takes there and back.

To a mirror. One CPU sends a frame and waits for it. Another CPU returns it, in
C with recv(2) and send(2), with the same code for all contenders. Every frame
that arrives is compared with the one sent. The figure is the median of a
slice.

C uses sendmmsg(2) and recvmmsg(2) as rawmmsg calls them, or send(2) and
recv(2), which waits. rawmmsg uses batches of one, or send() and recv_into().
libpcap is in immediate mode, from C.

Through a forwarder. One CPU sends a frame at one end, waits for it at the
other end, returns it and waits again; a slice is 300 such round trips. The
forwarders run on another CPU, all of them at once, each between veth pairs of
its own. (The kernel's bridge runs where the frame is sent.) "C" makes the
system calls of `rawmmsg bridge` with the same options. Every frame that
arrives is compared with the one sent, and every forwarder must account for
every frame.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

from ..forward import sides as forward
from ..lab import cpus
from ..lab.contender import Contender, control
from ..lab.link import AUXDATA
from ..lab.native import INJECT, ONE_BY_ONE, VNET_HDR
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab
from . import through
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


_C_FORWARDER: Final = Contender(
    "C",
    through.joined(
        forward.in_a_thread(
            forward.in_c(VNET_HDR | AUXDATA, forward.SUPER_CAPACITY)
        )
    ),
)

FORWARDERS: Final = (
    _C_FORWARDER,
    control(_C_FORWARDER, within=0.02),
    Contender(
        *("rawmmsg bridge", through.joined(forward.rawmmsg_bridge), "C"),
        at_most=1.06,
    ),
    *(
        Contender(name, through.joined(join), "C")
        for name, join in (
            ("libpcap", forward.in_a_thread(forward.with_libpcap)),
            ("kernel's bridge", forward.kernel_bridge),
        )
    ),
)


def measure(lab: Lab) -> Iterator[Table]:
    yield from measure_exchange(lab)
    yield from measure_forwarders(lab)


def measure_exchange(lab: Lab) -> Iterator[Table]:
    for size in lab.sizes(SIZES):
        with cpus.pinned(lab.senders_cpu), contextlib.ExitStack() as stack:
            place = Place(stack, lab.receivers_cpu, size)
            yield lab.table(
                f"latency/{size}B",
                f"A {size:,}-byte frame there and back",
                *("us", CONTENDERS, place, lab.slices),
            )


def measure_forwarders(lab: Lab) -> Iterator[Table]:
    trips = lab.pick(300, 300, 20)
    for size in lab.sizes(SIZES[:1]):
        with cpus.pinned(lab.senders_cpu), contextlib.ExitStack() as stack:
            place = through.Place(stack, lab.receivers_cpu, size, trips)
            yield lab.table(
                f"latency/forwarded/{size}B",
                f"A {size:,}-byte frame there and back through a forwarder",
                *("us", FORWARDERS, place, lab.slices),
                calibrate=Calibrate.ONCE,
            )
