"""How fast `rawmmsg switch` is with many stations, two pairs of ports, and
while somebody floods it with addresses.

One CPU sends 64-byte frames in C, as fast as possible; the command has another
CPU. The figure is the rate at which frames arrive at the far ends, which is
the rate at which the switch forwards, because its queues are full. One frame
in 64 is compared with the one sent, to the byte; they must come in order; and
at the end the switch must account for every frame.

"One pair" sends from one station to another, which is behind another port.
"Two pairs" do so between four ports; the figure is the sum. "64 stations" are
behind each port, and each frame of 64 that are sent together goes from another
station to another one.

"New addresses" come at a third port, 5,000 per second, each in a frame that
the switch floods to all other ports; or in the same port and the same batches
as the frames of the pair, which is worse. "After 100,000 addresses" has
received as many before each slice. These use a switch of their own; the
control of "one pair" is another one, which shows how much processes of the
same program differ.

Memory. The figure is how much more memory the switch occupies after another
100,000 addresses than at the beginning, in every round. It knows 8,192
stations at most, and must have learned all of these addresses.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from ..forward import blast
from ..forward.blast import End, Loaded, Place, Stream
from ..forward.hosts import wait_until
from ..forward.switches import Pids, rawmmsg_switch, reporting_switch
from ..lab import cpus
from ..lab.contender import Contender, GroundTruthError, Ready, Slice, control
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab

SIZE: Final = 64
STATIONS: Final = 64
PER_SECOND: Final = 5_000
FLOOD: Final = 100_000
# The switch can learn more per second, so that it loses none.
FLOOD_PER_SECOND: Final = 20_000

_UNKNOWN: Final = 255  # a side where no station is


class Attacked(Loaded):
    """A switch of which the third port gets frames from new stations."""

    slow: Stream
    in_between: Stream

    def __init__(self, place: Place) -> None:
        super().__init__(place, self._switch, links=3)
        self._cpu = place.senders_cpu
        self.slow = self._strangers(2, 0, 1)
        self.in_between = self._strangers(0, 1 << 30, 1)
        self._flood = self._strangers(2, 2 << 30, blast.BATCH)

    def _strangers(self, side: int, first: int, count: int) -> Stream:
        return Stream(
            *(self.ends[side].tx, self.place.size, (side, _UNKNOWN)),
            count=count,
            per_second=PER_SECOND if count == 1 else None,
            first_source=first,
        )

    @contextmanager
    def _switch(self, *ports: str) -> Iterator[Pids]:
        with reporting_switch(*ports) as (pid, report):
            yield [pid]
        learned = report["stations"]["learned"]
        if learned < self._flood.sent:
            raise GroundTruthError(
                f"{self._flood.sent} new addresses, {learned} were learned"
            )

    def flood(self, addresses: int) -> None:
        """The third port gets frames from so many new stations, as fast as
        the switch can take them."""
        end = self._flood.sent + addresses
        with cpus.pinned(self._cpu):
            while self._flood.sent < end:
                self._flood_some(self.ends[1])

    def _flood_some(self, witness: End) -> None:
        before, sent = witness.arrived(), self._flood.sent
        blast.run([self._flood], 1e-9)
        wanted = before + self._flood.sent - sent
        wait_until(
            lambda: witness.arrived() >= wanted,
            "the switch has lost new addresses",
        )

    def memory(self) -> float:
        """The memory that the switch occupies, in MB."""
        text = Path(f"/proc/{self.pids[0]}/status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024 / 1e6


Prepare: TypeAlias = "Callable[[Switches], Ready]"


@dataclass(frozen=True)
class Switches:
    """All that are measured."""

    plain: Loaded
    other: Loaded
    attacked: Attacked
    flood: int  # addresses


def _made(place: Place, flood: int) -> Switches:
    return Switches(
        Loaded(place, rawmmsg_switch, links=4),
        Loaded(place, rawmmsg_switch),
        Attacked(place),
        flood,
    )


def one_pair(which: Callable[[Switches], Loaded]) -> Prepare:
    def prepare(switches: Switches) -> Ready:
        loaded = which(switches)
        flows = [loaded.flow(0, 1)]
        return Ready(lambda _: loaded.run(flows))

    return prepare


def two_pairs(switches: Switches) -> Ready:
    loaded = switches.plain
    flows = [loaded.flow(0, 1), loaded.flow(2, 3)]
    return Ready(lambda _: loaded.run(flows))


def many_stations(switches: Switches) -> Ready:
    loaded = switches.plain
    flows = [loaded.flow(0, 1, STATIONS)]
    return Ready(lambda _: loaded.run(flows))


def attacked_by(which: Callable[[Attacked], Stream]) -> Prepare:
    def prepare(switches: Switches) -> Ready:
        attacked = switches.attacked
        flows = [attacked.flow(0, 1)]
        return Ready(lambda _: attacked.run(flows, which(attacked)))

    return prepare


def after_a_flood(switches: Switches) -> Ready:
    attacked = switches.attacked
    flows = [attacked.flow(0, 1)]

    def run(_: int) -> Slice:
        attacked.flood(switches.flood)
        return attacked.run(flows)

    return Ready(run)


_PAIR: Final = Contender("one pair", one_pair(lambda all_: all_.plain))
CONTENDERS: Final = (
    _PAIR,
    dataclasses.replace(
        control(_PAIR, None), prepare=one_pair(lambda all_: all_.other)
    ),
    Contender("two pairs", two_pairs, _PAIR.name, at_least=0.95),
    Contender("64 stations", many_stations, _PAIR.name, at_least=0.8),
    Contender(
        *("new addresses", attacked_by(lambda one: one.slow), _PAIR.name),
        at_least=0.9,
    ),
    Contender(
        "new addresses in the same batches",
        *(attacked_by(lambda one: one.in_between), _PAIR.name),
    ),
    Contender(
        *("after 100,000 addresses", after_a_flood, _PAIR.name), at_least=0.9
    ),
)


def growing(place: Place, flood: int) -> Contender[Place]:
    """Its figure is how much it has grown, in MB."""

    def prepare(place: Place) -> Ready:
        attacked = Attacked(place)
        attacked.run([attacked.flow(0, 1)])
        before = attacked.memory()

        def run(_: int) -> Slice:
            attacked.flood(flood)
            return Slice(attacked.memory() - before)

        return Ready(run)

    return Contender("100,000 more addresses", prepare, at_most=16)


def measure(lab: Lab) -> Iterator[Table]:
    for size in lab.sizes([SIZE]):
        flood = lab.pick(FLOOD, FLOOD, 1_000)
        with ExitStack() as stack:
            place = Place(
                *(stack, lab.senders_cpu, lab.receivers_cpu),
                *(size, lab.long_slices.seconds),
            )
            yield lab.table(
                "switch/rate",
                f"{size}-byte frames through `rawmmsg switch`, one CPU",
                *("Mpps", CONTENDERS, _made(place, flood), lab.long_slices),
                calibrate=Calibrate.ONCE,
            )
            yield lab.table(
                "switch/memory",
                "Memory of `rawmmsg switch` for new addresses",
                *("MB", [growing(place, flood)], place, lab.long_slices),
                calibrate=Calibrate.ONCE,
            )
