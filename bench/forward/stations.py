"""`rawmmsg switch` with many stations, with two pairs of ports, and while and
after it gets frames from many new stations."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from ..lab import cpus
from ..lab.contender import Contender, GroundTruthError, Ready, Slice, control
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab
from . import blast
from .blast import End, Loaded, Place, Stream
from .hosts import wait_until
from .switches import Pids, rawmmsg_switch, reporting_switch

SIZE: Final = 64
STATIONS: Final = 64
PER_SECOND: Final = 5_000
FLOOD: Final = 100_000

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
                "forward/switch/rate",
                f"{size}-byte frames through `rawmmsg switch`, one CPU",
                *("Mpps", CONTENDERS, _made(place, flood), lab.long_slices),
                calibrate=Calibrate.ONCE,
            )
            yield lab.table(
                "forward/switch/memory",
                "Memory of `rawmmsg switch` for new addresses",
                *("MB", [growing(place, flood)], place, lab.long_slices),
                calibrate=Calibrate.ONCE,
            )
