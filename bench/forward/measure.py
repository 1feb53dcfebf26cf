"""How fast frames are forwarded between two interfaces, and from a virtual
machine.

Bulk TCP. iperf3 runs for a second between two hosts, which are network
namespaces with one interface each; a forwarder, started anew for each slice,
joins the ports that lead to them. The hosts send super-frames of up to 64 KiB
with checksums to be completed. libpcap and C without offload headers cannot
forward these, so the hosts' offloads are off while they run. On one CPU the
hosts can use what the forwarder saves, no frame overtakes another, and the
figures scatter least. On all CPUs, only libpcap is far enough from the others
for a target. No segment may arrive damaged, and every forwarder that counts
must account for every frame: received = sent + dropped. Retransmissions come
from full queues and from frames that overtake.

Small frames. One CPU sends a burst from one host's end, which waits in the
forwarder's queue, forwards it, and counts what arrives at the other end. The
figure includes sending and forwarding, because with a ring the copy is made
while sending, and the kernel's bridge does all its work there; "forwarding" is
the second part alone.

Full blast. One CPU sends as fast as it can, and the forwarder has another CPU.
Its queues are full, so the figure, the rate at which frames arrive at the far
end, is what it can forward; "switch's CPU" is the CPU time of its processes
for each of these frames. (The kernel's bridge forwards on the CPU of the
sender.) Each forwarder has links of its own, and sleeps while others have
their turn. One frame in 64 is compared with the one sent, to the byte, and
these must come in order; at the end, rawmmsg must account for every frame.

Open vSwitch is its netdev datapath, in user space, with offload headers
(userspace-tso-enable). vde_switch has a tap for each port, and a bridge of the
kernel joins the two; so part of its work is the kernel's. VDE's own program
for interfaces is vde_pcapplug. It waits until a ring is full of frames, so TCP
does not get through. "Taps only" has no links: the taps are the ends.

Switch. The same for `rawmmsg switch` alone. "One pair" sends from one station
to another, which is behind another port. "Two pairs" do so between four ports;
the figure is the sum. "64 stations" are behind each port, and each frame of 64
that are sent together goes from another station to another one. "New
addresses" come at a third port, 5,000 per second, each in a frame that the
switch floods to the two other ports; or at the port of the sender, in the same
batches. "After 100,000 addresses" has received as many before each slice.
These have a switch of their own. So has the control of "one pair", which shows
how much two processes of the same program differ. The memory is how much more
a switch occupies after another 100,000 addresses than at the beginning, in
every round; it must have learned all of them.

Upload. A virtual machine, which is a network namespace with a tap without
offloads, sends TCP to a host. Its frames reach `rawmmsg bridge` through a Unix
datagram socket, on which up to 512 of them may wait
(net.unix.max_dgram_qlen). The bridge merges those that it receives with one
system call into super-frames, or not. Everything runs on one CPU. "bridge" is
the CPU time of the bridge, which includes the work of the host's TCP, because
a veth pair delivers frames while they are sent.

"C" and "rawmmsg", a loop that calls the library, have batches of 64 frames of
2,048 bytes. "rawmmsg bridge", which is the code of that command, and "C, as
the bridge" have offload headers and frames of 64 KiB. libpcap is in immediate
mode and injects each packet from the callback of pcap_dispatch().
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ..lab import cpus, peers
from ..lab.contender import (
    Comparison,
    Contender,
    GroundTruthError,
    Ready,
    Slice,
    control,
)
from ..lab.link import AUXDATA
from ..lab.native import VNET_HDR
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab
from . import blast, guest, small, stations
from .hosts import Host, Transfer, transfer, two_hosts
from .sides import (
    SMALL_CAPACITY,
    SUPER_CAPACITY,
    Join,
    Start,
    in_a_thread,
    in_c,
    in_python,
    kernel_bridge,
    rawmmsg_bridge,
    with_libpcap,
)
from .switches import (
    Pids,
    Switch,
    open_vswitch,
    rawmmsg_switch,
    vde_bridged,
    vde_plugged,
    vde_with_taps,
)


def measure(lab: Lab) -> Iterator[Table]:
    yield from measure_small(lab)
    yield from measure_blast(lab)
    yield from stations.measure(lab)
    yield from measure_bulk(lab)
    yield from measure_upload(lab)


# ---- Bulk TCP --------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Two hosts, and what iperf3 does between them."""

    hosts: tuple[Host, Host]
    transfer: Callable[[Host, Host], Transfer]


Prepare: TypeAlias = Callable[[Place], Ready]


def joined(join: Join, *, offloads: bool = True) -> Prepare:
    """Makes a forwarder ready; `offloads`: whether the hosts offload."""

    def run(place: Place) -> Slice:
        before = _errors(place.hosts)
        with contextlib.ExitStack() as stack:
            if not offloads:
                stack.enter_context(_without_offloads(place.hosts))
            a, b = place.hosts
            stack.enter_context(join(a.port, b.port))
            done = place.transfer(a, b)
        errors = _errors(place.hosts) - before
        if errors > 0:
            raise GroundTruthError(f"{errors} segments arrived damaged")
        return Slice(done.gigabits, extra={"retransmits": done.retransmits})

    return lambda place: Ready(lambda _: run(place))


def _errors(hosts: tuple[Host, Host]) -> int:
    return sum(host.checksum_errors() for host in hosts)


@contextlib.contextmanager
def _without_offloads(hosts: tuple[Host, Host]) -> Iterator[None]:
    try:
        for host in hosts:
            host.set_offloads(False)
        yield
    finally:
        for host in hosts:
            host.set_offloads(True)


def _in_a_thread(start: Start, *, offloads: bool = True) -> Prepare:
    return joined(in_a_thread(start), offloads=offloads)


def _in_c(options: int, *, offloads: bool = True) -> Prepare:
    """C with as many frames in a batch as `rawmmsg bridge` has."""
    return _in_a_thread(in_c(options, SUPER_CAPACITY), offloads=offloads)


_ALL: Final = VNET_HDR | AUXDATA
_LOOP: Final = _in_a_thread(in_python(_ALL, SUPER_CAPACITY))
_LIBPCAP: Final = _in_a_thread(with_libpcap, offloads=False)
C: Final = Contender("C", _in_c(_ALL))

BULK: Final = (
    C,
    control(C, None),
    Contender("C, bare", _in_c(VNET_HDR), "C"),
    Contender("rawmmsg bridge", joined(rawmmsg_bridge), "C", at_least=0.95),
    Contender("rawmmsg, bare loop", _LOOP, "C"),
    Contender("C, plain frames", _in_c(AUXDATA, offloads=False), "C"),
    Contender("libpcap", _LIBPCAP, "C"),
    Contender("kernel's bridge", joined(kernel_bridge), "C"),
    Contender(
        *("rawmmsg switch", joined(rawmmsg_switch), "rawmmsg bridge"),
        at_least=0.95,
    ),
    Contender("Open vSwitch", joined(open_vswitch), "C"),
    Contender("vde_switch", joined(vde_bridged), "C"),
)
QUICK: Final = (
    *("C", "rawmmsg bridge", "C, plain frames", "libpcap"),
    *("kernel's bridge", "rawmmsg switch", "Open vSwitch", "vde_switch"),
)
FREE: Final = ("C", "rawmmsg bridge", "libpcap")
OF_OTHERS: Final = (
    Comparison("rawmmsg bridge", "libpcap", at_least=5.0),
    Comparison("rawmmsg switch", "Open vSwitch", at_least=1.0),
    Comparison("rawmmsg switch", "vde_switch", at_least=10.0),
)


def measure_bulk(lab: Lab) -> Iterator[Table]:
    peers.program("iperf3")
    amount = lab.pick(("-t", "1"), ("-t", "1"), ("-n", "1M"))
    quick = [one for one in BULK if one.name in QUICK]
    free = [
        dataclasses.replace(one, at_least=None)
        for one in BULK
        if one.name in FREE
    ]

    def table(which: str, contenders: Sequence[Contender[Place]]) -> Table:
        return lab.table(
            f"forward/bulk/{which.replace(' ', '-').lower()}",
            f"TCP between two hosts in both directions, {which}",
            *("Gbit/s", contenders, place, lab.long_slices),
            calibrate=Calibrate.ONCE,
            comparisons=OF_OTHERS,
        )

    with two_hosts() as hosts:
        place = Place(hosts, lambda a, b: transfer(a, b, amount))
        # Threads and programs run on the CPU of the thread that starts them.
        with cpus.pinned(lab.receivers_cpu):
            yield table("one CPU", lab.pick(BULK, quick, BULK))
        if lab.pick(True, False, False):
            yield table("all CPUs", free)


# ---- Upload ----------------------------------------------------------------

_PLAIN: Final = Contender(
    "rawmmsg bridge --no-merge", guest.uploading("--no-merge")
)
UPLOAD: Final = (
    _PLAIN,
    control(_PLAIN, None),
    Contender(
        *("rawmmsg bridge", guest.uploading(), _PLAIN.name), at_least=1.5
    ),
)


def measure_upload(lab: Lab) -> Iterator[Table]:
    peers.program("iperf3")
    amount = lab.pick(("-t", "1"), ("-t", "1"), ("-n", "1M"))
    with (
        guest.guest_and_host(amount) as place,
        cpus.pinned(lab.receivers_cpu),
    ):
        yield lab.table(
            "forward/upload",
            "TCP from a virtual machine to a host, one CPU",
            *("Gbit/s", UPLOAD, place, lab.long_slices),
            calibrate=Calibrate.ONCE,
        )


# ---- Small frames ----------------------------------------------------------

SIZE: Final = 64
# Frames in each direction. The smallest receive buffer holds twice as many.
BURST: Final = 128

_SMALL_C: Final = small.moved_by(in_c(AUXDATA, SMALL_CAPACITY))
_AS_BRIDGE: Final = small.moved_by(
    in_c(
        *(_ALL, SMALL_CAPACITY),
        lambda stack, ports, _: [
            port.sock for port in small.bridge_ports(stack, ports)
        ],
    )
)
_SMALL_LOOP: Final = small.moved_by(in_python(AUXDATA, SMALL_CAPACITY))

SMALL: Final = (
    Contender("C", _SMALL_C),
    control(Contender("C", _SMALL_C), None),
    Contender("rawmmsg", _SMALL_LOOP, "C", at_least=0.95),
    Contender("libpcap", small.moved_by(with_libpcap), "C"),
    Contender("kernel's bridge", small.with_the_kernel, "C"),
    Contender("C, as the bridge", _AS_BRIDGE, "C"),
    Contender(
        *("rawmmsg bridge", small.with_the_bridge, "C, as the bridge"),
        at_least=0.95,
    ),
    Contender(
        *("rawmmsg switch", small.with_the_switch, "rawmmsg bridge"),
        at_least=0.95,
    ),
)


def measure_small(lab: Lab) -> Iterator[Table]:
    for size in lab.sizes([SIZE]):
        for key, two_way in lab.pick(
            (("one-way", False), ("two-way", True)),
            (("one-way", False), ("two-way", True)),
            (("two-way", True),),
        ):
            with contextlib.ExitStack() as stack:
                stack.enter_context(cpus.pinned(lab.receivers_cpu))
                place = small.Place(stack, two_way, BURST, size)
                yield lab.table(
                    f"forward/small/{key}",
                    f"{size}-byte frames forwarded on one CPU, {key}",
                    *("Mpps", SMALL, place, lab.slices),
                )


# ---- Small frames at full blast --------------------------------------------


@contextlib.contextmanager
def _bridge_alone(a: str, b: str) -> Iterator[Pids]:
    with rawmmsg_bridge(a, b) as pid:
        yield [pid]


@contextlib.contextmanager
def _kernel_alone(a: str, b: str) -> Iterator[Pids]:
    with kernel_bridge(a, b):
        yield []


def _loaded(name: str, switch: Switch) -> Contender[blast.Place]:
    return Contender(name, blast.through(switch), _BRIDGE.name)


_BRIDGE: Final = Contender("rawmmsg bridge", blast.through(_bridge_alone))
BLAST: Final = (
    _BRIDGE,
    control(_BRIDGE, None),
    dataclasses.replace(
        _loaded("rawmmsg switch", rawmmsg_switch), at_least=0.95
    ),
    _loaded("Open vSwitch", open_vswitch),
    _loaded("vde_switch", vde_bridged),
    _loaded("vde_switch, vde_pcapplug", vde_plugged),
    Contender(
        "vde_switch, taps only",
        blast.through(vde_with_taps, taps=("end0", "end1")),
        _BRIDGE.name,
    ),
    _loaded("kernel's bridge", _kernel_alone),
)
OF_SWITCHES: Final = (
    Comparison("rawmmsg switch", "Open vSwitch", at_least=1.1),
    Comparison("rawmmsg switch", "vde_switch"),
    Comparison("rawmmsg switch", "vde_switch, vde_pcapplug", at_least=2.5),
)


def measure_blast(lab: Lab) -> Iterator[Table]:
    pace = lab.long_slices
    for size in lab.sizes([SIZE]):
        with contextlib.ExitStack() as stack:
            place = blast.Place(
                *(stack, lab.senders_cpu, lab.receivers_cpu),
                *(size, pace.seconds),
            )
            yield lab.table(
                "forward/blast",
                f"{size}-byte frames, by a forwarder with a CPU of its own",
                *("Mpps", BLAST, place, pace),
                calibrate=Calibrate.ONCE,
                comparisons=OF_SWITCHES,
            )
