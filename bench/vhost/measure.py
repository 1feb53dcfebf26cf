"""How fast frames move between the memory of a virtual machine and a veth
pair, through vhost-user.

The machine is DPDK's testpmd with its virtio-user driver, which spins on one
CPU. The switch runs on the other: `rawmmsg bridge`, or testpmd with DPDK's
vhost driver and its driver for packet rings, which spins, too. Each contender
has a machine of its own, and sleeps while another one is measured. Both
need 512 huge pages of 2 MB, which are taken from the system's memory
meanwhile, and the rights of root.

From the machine: it sends numbered frames as fast as the switch takes them,
and waits instead of dropping frames. All that it has sent must arrive; one in
64 is compared, and after each slice all frames of a short run.

To the machine: a program in C sends 100,000 numbered frames a second, 64 at
once, or 8. It shares a CPU with the machine and goes first. The machine stores
the frames that it receives in a file, and all of them are compared. The figure
is the CPU time of the switch and of the sender together, because with a ring
the copy is made while sending.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypeAlias

from ..lab import peers
from ..lab.contender import Contender, Ready, UnavailableError, control
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab, Pace
from .download import Download
from .machine import Place
from .pages import huge_pages
from .switches import Switch, bridge, dpdk
from .upload import Upload

_PAGES: Final = 512

# Frames of a packet ring: so many are fastest from the machine; to it, more
# bridge the moments in which the scheduler lets others run.
_RING: Final = 2048
_LONG_RING: Final = 16_384

Prepare: TypeAlias = Callable[[Place], Ready]


def _up(switch: Switch) -> Prepare:
    return lambda place: Ready(Upload(place, switch).run)


def _down(switch: Switch) -> Prepare:
    return lambda place: Ready(Download(place, switch).run)


_DPDK: Final = Contender("DPDK", _up(dpdk(_RING)))
UP: Final = (
    _DPDK,
    control(_DPDK, None),
    Contender("rawmmsg bridge", _up(bridge), "DPDK", at_least=1.0),
)

_DPDK_DOWN: Final = Contender("DPDK", _down(dpdk(_LONG_RING)))
DOWN: Final = (
    _DPDK_DOWN,
    control(_DPDK_DOWN, None),
    Contender("rawmmsg bridge", _down(bridge), "DPDK", at_most=0.5),
)
DOWN_IN_SMALL_BURSTS: Final = (
    _DPDK_DOWN,
    replace(DOWN[-1], at_most=None),
)


def measure(lab: Lab) -> Iterator[Table]:
    peers.program("dpdk-testpmd")
    if lab.senders_cpu == lab.receivers_cpu:
        what, remedy = "a second CPU", "run on a machine that has one"
        raise UnavailableError(what, remedy)
    with huge_pages(_PAGES):
        for size in lab.sizes(lab.pick((64, 1500), (64, 1500), (64,))):
            yield _table(lab, "from", size, 0, "Mpps", UP)
            yield _table(lab, "to", size, 64, "ns/packet", DOWN)
        for size in lab.pick(lab.sizes([64]), (), ()):
            contenders = DOWN_IN_SMALL_BURSTS
            yield _table(lab, "to", size, 8, "ns/packet", contenders)


def _table(
    lab: Lab,
    where: str,
    size: int,
    burst: int,
    unit: str,
    contenders: tuple[Contender[Place], ...],
) -> Table:
    """`burst`: how many frames the sender sends at once; 0: it is the machine
    that sends."""
    pace = lab.pick(Pace(15, 0.5), Pace(15, 0.15), Pace(1, 0.02))
    key = f"vhost/{where}/{size}B"
    title = f"{size}-byte frames {where} a virtual machine"
    if burst:
        key, title = f"{key}/burst{burst}", f"{title}, {burst} at once"
    with contextlib.ExitStack() as stack:
        place = Place(
            stack,
            machines_cpu=lab.receivers_cpu,
            switchs_cpu=lab.senders_cpu,
            size=size,
            seconds=pace.seconds,
            burst=max(1, burst),
        )
        return lab.table(
            *(key, title, unit),
            contenders,
            place,
            pace,
            calibrate=Calibrate.ONCE,
        )
