"""From a virtual machine, which sends as fast as the switch takes frames, to
the far side of a veth pair."""

import contextlib
import time
from itertools import count
from typing import Final, NamedTuple

from rawmmsg.testing import veth_pair

from ..forward.hosts import wait_until
from ..lab.contender import GroundTruthError, Slice
from ..lab.far_side import FarSide
from ..lab.link import numbered
from .machine import Machine, Place
from .switches import WAITING, Switch

# The frames that it sends again and again have the numbers of their batch, and
# of their place in it.
_BATCHES: Final = 64
_BATCH: Final = 64

# Seconds in which rings and caches fill, before the counting begins; and of a
# run whose frames are all kept.
_WARM_UP: Final = 0.1
_SHORT: Final = 0.01

# Bytes for the frames that the far side keeps.
_ROOM: Final = 1 << 26


class _Counts(NamedTuple):
    ns: int
    arrived: int
    cpu_ns: int


class Upload:
    """A contender in a place of its own."""

    def __init__(self, place: Place, switch: Switch) -> None:
        veth = place.stack.enter_context(veth_pair())
        self._far = place.stack.enter_context(FarSide(veth, rcvbuf=_ROOM))
        self._place = place
        make = numbered(place.size)
        self._frames = [
            make(batch, i) for batch in range(_BATCHES) for i in range(_BATCH)
        ]
        self._next = 0  # the index of the frame that it sends next
        self._kept = count()
        self._machine = Machine(place, switch, veth.a, self._frames)
        for command in WAITING:
            self._machine.testpmd.run(command)
        with self._machine.switching():
            self._send(None, _SHORT)

    def run(self, _: int) -> Slice:
        """Million frames that arrive per second."""
        with self._machine.switching():
            kept = next(self._kept) % _BATCH
            ns, arrived, cpu_ns = self._send(kept, self._place.seconds)
            self._send(None, _SHORT)
        extra = {"switch's CPU, ns": cpu_ns / arrived}
        return Slice(arrived * 1e3 / ns, ns, extra)

    def _send(self, kept: int | None, seconds: float) -> _Counts:
        """Sends for so long, and checks that every frame has arrived, and that
        those with the number `kept` in their batch, or all, are unchanged and
        in order. Returns what arrived in this time after the warm-up."""
        machine = self._machine.testpmd
        self._far.expect(kept)
        machine.start()
        time.sleep(0 if kept is None else _WARM_UP)
        before = self._counts()
        time.sleep(seconds)
        # On a machine under load, the first ones may take longer.
        wait_until(
            lambda: self._far.arrived()[0] > before.arrived, "no frame arrives"
        )
        after = self._counts()
        card, _ = machine.stop()
        if card.dropped or not card.sent:
            raise GroundTruthError(f"the machine's network card: {card}")
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self._far.arrived()[0] >= card.sent, "")
        self._check(card.sent, kept)
        return _Counts(*(b - a for a, b in zip(before, after, strict=True)))

    def _check(self, sent: int, kept: int | None) -> None:
        numbers = range(self._next, self._next + sent)
        self._next = numbers.stop % len(self._frames)
        expected = [
            self._frames[i % len(self._frames)]
            for i in numbers
            if kept in (None, i % _BATCH)
        ]
        self._far.check(sent, sent * self._place.size, expected)

    def _counts(self) -> _Counts:
        arrived, _ = self._far.arrived()
        used = self._machine.switchs_cpu_ns()
        return _Counts(time.monotonic_ns(), arrived, used)
