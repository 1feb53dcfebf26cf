"""From a host, which sends at a steady pace on a veth pair, to a virtual
machine."""

import contextlib
import os
import re
from typing import Final

from ..forward.hosts import wait_until
from ..lab.contender import GroundTruthError, Slice
from ..lab.link import Ends, numbered
from ..lab.pace import Sender, Sent
from . import recordings
from .machine import Machine, Place
from .switches import Switch

RATE: Final = 100_000  # frames a second

_RECEIVED: Final = re.compile(r"RX-packets: (\d+)")


class Download:
    """A contender in a place of its own."""

    def __init__(self, place: Place, switch: Switch) -> None:
        ends = place.stack.enter_context(Ends())
        self._place = place
        self._sender = Sender(place.stack, ends, place.burst, place.size)
        self._machine = Machine(place, switch, ends.veth.b)
        self.run(1)

    def run(self, _: int) -> Slice:
        """Nanoseconds of CPU time for a frame."""
        machine = self._machine
        with machine.switching():
            machine.testpmd.start()
            before = machine.switchs_cpu_ns()
            pace = self._send()
            used = machine.switchs_cpu_ns() - before
            self._check(pace.sent)
        switch, sender = used / pace.sent, pace.cpu_ns / pace.sent
        extra = {
            "switch, ns": switch,
            "sender, ns": sender,
            "kpps": pace.sent * 1e6 / pace.wall_ns,
        }
        return Slice(switch + sender, pace.wall_ns, extra)

    def _send(self) -> Sent:
        """Sends on the machine's CPU. If the user may choose that, it goes
        before the machine, which would use all of it."""
        place = self._place

        def go_first() -> None:
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

        cpu = place.machines_cpu
        return self._sender.send(RATE, place.seconds, cpu, before=go_first)

    def _check(self, sent: int) -> None:
        """Checks that the machine has received every frame, unchanged and in
        order."""
        testpmd, burst = self._machine.testpmd, self._place.burst
        numbers = range(self._sender.number - sent, self._sender.number)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self._received() >= numbers.stop, "")
        testpmd.stop()
        testpmd.run("port stop 1")  # its file is complete
        received = list(recordings.read(self._machine.file))
        testpmd.run("port start 1")  # begins a new one
        make = numbered(self._place.size)
        if received != [make(i, i % burst) for i in numbers]:
            raise GroundTruthError(
                f"{sent} frames sent, {len(received)} arrived, or they were"
                " changed"
            )

    def _received(self) -> int:
        """How many frames the machine's network card has received so far."""
        text = self._machine.testpmd.run("show port stats 0")
        found = _RECEIVED.search(text)
        return int(found[1]) if found is not None else 0
