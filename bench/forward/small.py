"""Forwarding of small frames between two veth ports, one way and both.

One CPU does all the work: it sends a burst from one host's end, which the
forwarder finds in its queue, has it forwarded, and counts what arrives at the
other end. The figure has the time of sending and of forwarding in it, since a
ring has its copy made by who sends, and the kernel's bridge does everything
there; "forwarding" is the second part alone. To read the far end afterwards is
not measured. Who forwards waits for frames with poll(2).

"C" and "rawmmsg", a loop on the library, have batches of 64 frames of 2,048
bytes. "rawmmsg bridge" is the code of that command, with offload headers and
frames of 64 KiB, 64 in a batch as long as small ones come, and "C, as the
bridge" has the same. libpcap is in immediate mode and injects each packet from
the callback of pcap_dispatch().

In every slice the frames have new numbers. All are counted at the far end, and
those of the last burst compared to the byte.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ..framework import Context, Side, Table, available
from ..network.arena import Arena, Times
from ..sides import small_forwarders as ways
from ..tools import cpus

SIZE: Final = 64
BURST: Final = 128  # each way; unprivileged receive buffers hold twice that


@dataclass(frozen=True)
class Contender:
    """A way to forward, and what it is compared with."""

    name: str
    start: ways.Start
    limit: str | None = None
    at_least: float | None = None


CONTENDERS: Final = (
    Contender("C", ways.in_c),
    Contender("C, control", ways.in_c, "C"),
    Contender("rawmmsg", ways.with_rawmmsg, "C", 0.95),
    Contender("libpcap", ways.with_libpcap, "C"),
    Contender("kernel's bridge", ways.with_the_kernel, "C"),
    Contender("C, as the bridge", ways.in_c_as_the_bridge, "C"),
    Contender(
        "rawmmsg bridge", ways.with_the_bridge, "C, as the bridge", 0.95
    ),
)


@dataclass
class Slicer:
    """Runs the slices of a forwarder."""

    arena: Arena
    forward: ways.Forward
    bursts: int = 1  # in a slice
    times: Times = field(default=Times(0, 0), init=False)

    def run(self) -> float:
        """A slice: million frames per second."""
        self.times = self.arena.run(self.forward, self.bursts)
        return self._frames() * 1e3 / sum(self.times)

    def extra(self) -> Mapping[str, float]:
        return {"forwarding, ns": self.times.forwarding / self._frames()}

    def calibrate(self, seconds: float) -> None:
        """Finds how many bursts take so long."""
        wanted = int(seconds * 1e9)
        # The best of three, for another process may have had the CPU.
        taken = min(sum(self.arena.run(self.forward, 1)) for _ in range(3))
        self.bursts = max(1, wanted // taken)

    def _frames(self) -> int:
        return self.bursts * self.arena.frames


def measure(context: Context) -> Iterator[Table]:
    if not context.brief:
        yield measure_way(context, "one-way", "one way", two_way=False)
    yield measure_way(context, "two-way", "both ways", two_way=True)


def measure_way(
    context: Context, key: str, title: str, *, two_way: bool
) -> Table:
    context.progress.step(title)
    with contextlib.ExitStack() as stack:
        stack.enter_context(cpus.pinned(context.receivers_cpu))

        def make(contender: Contender) -> Side:
            arena = Arena(stack, two_way=two_way, count=BURST, size=SIZE)
            slicer = Slicer(arena, contender.start(stack, arena))
            slicer.calibrate(context.slice_seconds)
            return Side(
                contender.name,
                slicer.run,
                contender.limit,
                contender.at_least,
                extra=slicer.extra,
            )

        sides, missing = available(
            partial(make, contender) for contender in CONTENDERS
        )
        return Table(
            f"forwarding_small/{key}",
            f"{SIZE}-byte frames forwarded on one CPU, {title}",
            "Mpps",
            context.slices(sides),
            sides,
            missing,
        )
