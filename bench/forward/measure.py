"""Forwarding in bulk: iperf3 over TCP between two hosts.

Each host is a network namespace with one interface; a forwarder joins the
ports that lead to them. What goes over the veth pairs are super-frames of up
to 64 KiB, checksums to be completed, as the hosts' own TCP makes them: a
forwarder that passes the offload headers on moves them as they are. libpcap
and the C forwarder without these headers cannot, so that the hosts' offloads
are switched off while it is their turn.

Every round starts the forwarder anew and runs iperf3 for a second. All
processes share one CPU: what the forwarder saves the hosts can use, no frame
overtakes another, and the figures scatter least. On all CPUs the scheduler has
its say: the figures scatter, and only libpcap is far enough from the others
for a target. The receivers' counts of damaged segments must not move, and
every forwarder that counts must account for every frame: received = sent +
dropped. Retransmissions, which come from full queues and from frames that
overtake, are shown.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from ..framework import Context, GroundTruthError, Side, Table, available
from ..network import iperf
from ..network.hosts import Host, two_hosts
from ..network.iperf import Transfer
from ..sides import forwarders
from ..sides.forwarders import Join
from ..tools import cpus, peers

LIMIT: Final = "C"
BRIDGE: Final = "rawmmsg bridge"
PLAIN: Final = "C, plain frames"
LIBPCAP: Final = "libpcap"
KERNEL: Final = "kernel's bridge"


@dataclass
class Round:
    """A forwarder's turn."""

    hosts: tuple[Host, Host]
    join: Join
    transfer: Callable[[Host, Host], Transfer]
    offloads: bool  # whether the hosts have theirs on
    retransmits: int = field(default=0, init=False)

    def __call__(self) -> float:
        a, b = self.hosts
        before = self._errors()
        with contextlib.ExitStack() as stack:
            if not self.offloads:
                stack.enter_context(_without_offloads(self.hosts))
            stack.enter_context(self.join(a.port, b.port))
            done = self.transfer(a, b)
        errors = self._errors() - before
        if errors > 0:
            raise GroundTruthError(f"{errors} segments arrived damaged")
        self.retransmits = done.retransmits
        return done.gigabits

    def extra(self) -> Mapping[str, float]:
        return {"retransmits": self.retransmits}

    def _errors(self) -> int:
        return sum(host.checksum_errors() for host in self.hosts)


@contextlib.contextmanager
def _without_offloads(hosts: Sequence[Host]) -> Iterator[None]:
    try:
        for host in hosts:
            host.set_offloads(False)
        yield
    finally:
        for host in hosts:
            host.set_offloads(True)


@dataclass(frozen=True)
class Contender:
    """A forwarder, before it is known whether it can run here."""

    name: str
    join: Callable[[], Join]
    limit: str | None = LIMIT
    at_least: float | None = None
    offloads: bool = True

    def side(
        self,
        hosts: tuple[Host, Host],
        transfer: Callable[[Host, Host], Transfer],
    ) -> Side:
        if not self.offloads:
            peers.program("ethtool")
        turn = Round(hosts, self.join(), transfer, self.offloads)
        return Side(
            self.name,
            turn,
            self.limit,
            self.at_least,
            extra=turn.extra,
        )


_in_c: Final = partial(forwarders.in_c, vnet_hdr=True, auxdata=True)

CONTENDERS: Final = (
    Contender(LIMIT, _in_c, limit=None),
    Contender("C, control", _in_c),
    Contender("C, bare", partial(_in_c, auxdata=False)),
    Contender(BRIDGE, forwarders.rawmmsg_bridge, at_least=0.95),
    Contender("rawmmsg, bare loop", forwarders.bare),
    Contender(PLAIN, partial(_in_c, vnet_hdr=False), offloads=False),
    Contender(LIBPCAP, forwarders.with_libpcap, offloads=False),
    Contender(KERNEL, forwarders.kernel_bridge),
)
QUICK: Final = (LIMIT, BRIDGE, PLAIN, LIBPCAP, KERNEL)

# The rate of the bridge, as a multiple of libpcap's.
LIBPCAP_TARGET: Final = 5.0


@dataclass(frozen=True)
class Scene:
    """What is the same for all forwarders of a table."""

    key: str
    title: str
    one_cpu: bool
    contenders: Sequence[Contender]


def scenes(context: Context) -> Iterator[Scene]:
    quick = [one for one in CONTENDERS if one.name in QUICK]
    yield Scene(
        "two-way",
        "both ways, one CPU",
        one_cpu=True,
        contenders=context.pick(CONTENDERS, quick, CONTENDERS),
    )
    if not context.quick and not context.brief:
        yield Scene(
            "free",
            "both ways, all CPUs",
            one_cpu=False,
            contenders=[
                replace(one, at_least=None)
                for one in CONTENDERS
                if one.name in (LIMIT, BRIDGE, LIBPCAP)
            ],
        )


def compared_with_libpcap(table: Table) -> Table:
    """The same figures once more, seen from there."""
    return replace(
        table,
        key=f"{table.key}/libpcap",
        title=f"{table.title}, compared with libpcap",
        sides=[
            replace(
                side,
                limit=None if side.name == LIBPCAP else LIBPCAP,
                at_least=LIBPCAP_TARGET if side.name == BRIDGE else None,
            )
            for side in table.sides
            if side.name in QUICK
        ],
        missing=(),
    )


def measure(context: Context) -> Iterator[Table]:
    peers.program("iperf3")
    with two_hosts() as hosts:
        for scene in scenes(context):
            context.progress.step(scene.title)
            table = measure_scene(context, scene, hosts)
            yield table
            if LIBPCAP in table.samples.figures:
                yield compared_with_libpcap(table)


def measure_scene(
    context: Context, scene: Scene, hosts: tuple[Host, Host]
) -> Table:
    transfer = partial(
        iperf.transfer,
        amount=context.pick(("-t", "1"), ("-t", "1"), ("-n", "1M")),
        two_way=True,
    )
    sides, missing = available(
        partial(contender.side, hosts, transfer)
        for contender in scene.contenders
    )
    # Programs inherit the CPU.
    where = (
        cpus.pinned(context.receivers_cpu)
        if scene.one_cpu
        else contextlib.nullcontext()
    )
    with where:
        samples = context.rounds(sides)
    return Table(
        f"forwarding/{scene.key}",
        f"TCP between two hosts, {scene.title}",
        "Gbit/s",
        samples,
        sides,
        missing,
    )
