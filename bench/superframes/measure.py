"""Super-frames: what offload headers are worth, in bytes per second.

One thread sends a batch over a veth pair and receives it back; one CPU does
all the work, the kernel's part on either end included. The frames are TCP
segments: of 65,000 bytes, to be cut into segments by whoever puts them on a
wire, of 1,514 bytes whose checksum is still to be computed, and of 1,514 bytes
without offload headers. The first two go through vnet_hdr=True.

A batch of 64 super-frames has 4 MB: it leaves most second-level caches between
the sending and the receiving call, in C as well.

In every slice the frames have new numbers. All are counted, by the kernel too,
and those of the last batch compared to the byte, with their headers.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from rawmmsg import RawSocket
from rawmmsg.testing import veth_pair

from ..framework import (
    Context,
    GroundTruthError,
    Side,
    Table,
    Unavailable,
    available,
)
from ..network.link import PATIENCE, Counter
from ..network.super_frames import OFFLOAD, PLAIN, SUPER, Kind
from ..sides.super_loops import CLoop, RawmmsgLoop, SuperLoop
from ..tools import cpus

# A slice whose last batch came in parts cannot be checked: it is run again.
_MOST_TRIES: Final = 100

KINDS: Final = (SUPER, OFFLOAD, PLAIN)

# What super-frames are to reach, as multiples of the others.
TARGETS: Final = {OFFLOAD: 11.0, PLAIN: 7.0}

# The batch at which the limit runs once more, beside itself.
CONTROLLED: Final = 8

Make: TypeAlias = Callable[[RawSocket, RawSocket, int, Kind], SuperLoop]


@dataclass
class Slicer:
    """Runs the slices of a loop, each of which is checked."""

    loop: SuperLoop
    kind: Kind
    batch: int
    counter: Counter
    rounds: int = 1  # in a slice
    number: int = 0  # of the slice

    def run(self) -> float:
        """A slice: gigabits per second."""
        bits = 8 * self.kind.size * self.batch * self.rounds
        return bits / self.time()

    def time(self) -> int:
        """The nanoseconds that a slice takes."""
        for _ in range(_MOST_TRIES):
            self.number += 1
            frames = [
                self.kind.frame(self.number, i) for i in range(self.batch)
            ]
            self.loop.load(frames)
            self.counter.reset()
            begin = time.perf_counter_ns()
            count = self._run()
            taken = time.perf_counter_ns() - begin
            self.counter.check(self.rounds * self.batch)
            if count == self.batch:
                self._check(frames)
                return taken
        raise GroundTruthError("no batch comes in one piece")

    def calibrate(self, seconds: float) -> None:
        """Finds how many rounds take so long."""
        wanted = int(seconds * 1e9)
        # The best of three, for another process may have had the CPU.
        while (taken := min(self.time() for _ in range(3))) < wanted // 4:
            self.rounds *= 2
        self.rounds = max(1, self.rounds * wanted // taken)

    def _run(self) -> int:
        try:
            return self.loop.run(self.rounds)
        except TimeoutError:
            raise GroundTruthError(
                f"{self.kind.name}: a frame has not arrived"
            ) from None

    def _check(self, frames: Sequence[bytes]) -> None:
        wanted = self.kind.header
        for i, frame in enumerate(frames):
            received, header = self.loop.received(i)
            if header is not None and wanted is not None:
                header = header._replace(header_length=wanted.header_length)
            if received != frame or header != wanted:
                raise GroundTruthError(
                    f"{self.kind.name}: frame {i} of slice {self.number} is"
                    f" not what was sent; header {header}"
                )


class Links:
    """A veth pair with sockets for offload headers, and one without: a second
    socket that listens on the same pair would cost both. What it opens is
    closed with `stack`."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._pairs = {
            vnet_hdr: self._open(vnet_hdr) for vnet_hdr in (False, True)
        }

    def _open(self, vnet_hdr: bool) -> tuple[RawSocket, RawSocket]:
        keep = self._stack.enter_context
        veth = keep(veth_pair())
        tx = keep(RawSocket(veth.a, protocol=0, vnet_hdr=vnet_hdr))
        rx = keep(RawSocket(veth.b, vnet_hdr=vnet_hdr))
        tx.settimeout(PATIENCE)
        rx.settimeout(PATIENCE)
        return tx, rx

    def slicer(self, make: Make, batch: int, kind: Kind) -> Slicer:
        """Makes a loop ready; Unavailable where the receive buffer does not
        hold its batch."""
        tx, rx = self._pairs[kind.vnet_hdr]
        needed = batch * kind.truesize
        if rx.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < needed:
            raise Unavailable(
                f"a receive buffer for {batch} {kind.name}",
                f"run as root, or sysctl -w net.core.rmem_max={needed}",
            )
        loop = self._stack.enter_context(
            contextlib.closing(make(tx, rx, batch, kind))
        )
        counter = self._stack.enter_context(
            contextlib.closing(Counter(rx.fileno()))
        )
        return Slicer(loop, kind, batch, counter)


def measure(context: Context) -> Iterator[Table]:
    for batch in context.pick((1, 8, 64), (8,), (1, 8)):
        table = measure_batch(context, batch)
        yield table
        for kind, target in TARGETS.items():
            view = _compared_with(table, kind, target)
            if view.sides:
                yield view


def measure_batch(context: Context, batch: int) -> Table:
    title = f"batches of {batch}"
    context.progress.step(title)
    with contextlib.ExitStack() as stack:
        stack.enter_context(cpus.pinned(context.receivers_cpu))
        links = Links(stack)

        def make(name: str, loop: Make, kind: Kind, limit: str | None) -> Side:
            slicer = links.slicer(loop, batch, kind)
            slicer.calibrate(context.slice_seconds)
            return Side(name, slicer.run, limit)

        sides, missing = available(
            partial(make, *contender) for contender in contenders(batch)
        )
        return Table(
            f"superframes/batch{batch}",
            f"Sending and receiving on one CPU, {title}",
            "Gbit/s",
            context.slices(sides),
            sides,
            missing,
        )


def contenders(batch: int) -> Iterator[tuple[str, Make, Kind, str | None]]:
    """The sides, each kind of frame with its limit in C."""
    for kind in KINDS:
        limit = f"C, {kind.name}"
        yield limit, CLoop, kind, None
        yield f"rawmmsg, {kind.name}", RawmmsgLoop, kind, limit
    if batch == CONTROLLED:
        limit = f"C, {SUPER.name}"
        yield f"{limit}, control", CLoop, SUPER, limit


def _compared_with(table: Table, kind: Kind, target: float) -> Table:
    """The same figures once more: super-frames as multiples of others."""
    sides = {side.name: side for side in table.sides}
    shown: list[Side] = []
    for way in ("C", "rawmmsg"):
        other = sides.get(f"{way}, {kind.name}")
        best = sides.get(f"{way}, {SUPER.name}")
        if other is not None and best is not None:
            shown.append(replace(other, limit=None))
            shown.append(replace(best, limit=other.name, at_least=target))
    return replace(
        table,
        key=f"{table.key}/{'headers' if kind.vnet_hdr else 'plain'}",
        title=f"{table.title}: super-frames and {kind.name}",
        sides=shown,
        missing=(),
    )
