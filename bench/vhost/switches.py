"""Switches between an interface and a vhost-user socket."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from ..forward.hosts import wait_until
from ..forward.sides import rawmmsg_bridge
from ..lab import cpus
from . import testpmd

# Makes testpmd wait while it cannot send, instead of dropping frames.
WAITING: Final = ("set fwd io retry", "set burst tx delay 1 retry 10000000")


@dataclass(frozen=True)
class Ends:
    """What a switch joins, the folder for its files, and its CPU."""

    interface: str
    socket: str
    folder: str
    cpu: int


def _nothing() -> None:
    """A switch that sleeps while it has nothing to do needs no command."""


@dataclass(frozen=True)
class Running:
    """The id of a switch's process. It forwards between start() and stop()."""

    pid: int
    start: Callable[[], object] = _nothing
    stop: Callable[[], object] = _nothing


Switch: TypeAlias = Callable[[Ends], AbstractContextManager[Running]]


def dpdk(ring: int) -> Switch:
    """DPDK's vhost driver and its driver for packet rings, of so many
    frames."""

    @contextlib.contextmanager
    def switch(ends: Ends) -> Iterator[Running]:
        ports = (
            f"net_vhost0,iface={ends.socket}",
            f"net_af_packet0,iface={ends.interface},blocksz=4096,framesz=2048,"
            f"framecnt={ring}",
        )
        where = (ends.cpu, ends.folder, "switch")
        with testpmd.running(*where, ports) as made:
            for command in WAITING:
                made.run(command)
            yield Running(made.pid, made.start, made.stop)

    return switch


@contextlib.contextmanager
def bridge(ends: Ends) -> Iterator[Running]:
    """The command `rawmmsg bridge`."""
    ports = (ends.interface, f"vhost-user:{ends.socket}")
    with contextlib.ExitStack() as stack:
        with cpus.pinned(ends.cpu):
            pid = stack.enter_context(
                rawmmsg_bridge(*ports, "--trust-memory", both_ways=False)
            )
        exists = Path(ends.socket).exists
        wait_until(exists, "rawmmsg bridge does not listen for guests")
        yield Running(pid)
