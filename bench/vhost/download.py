"""From a host, which sends at a steady pace on a veth pair, to a virtual
machine."""

import contextlib
import ctypes
import os
import re
from functools import partial
from typing import Final

from ..forward.hosts import wait_until
from ..lab import cpus
from ..lab.contender import GroundTruthError, Slice
from ..lab.link import Ends, Frames, numbered
from ..lab.native import Side
from . import recordings
from .machine import Machine, Place
from .switches import Switch

RATE: Final = 100_000  # frames a second

_RECEIVED: Final = re.compile(r"RX-packets: (\d+)")


class _Pace(ctypes.Structure):
    """struct pace: counts of the frames sent."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("sent", "wall_ns", "cpu_ns")
    )


class Download:
    """A contender in a place of its own."""

    def __init__(self, place: Place, switch: Switch) -> None:
        ends = place.stack.enter_context(Ends())
        self._place = place
        self._sender = Side(
            *(place.stack, "vhost/pace.c", ends.names),
            Frames(place.burst, place.size),
            tx=ends.tx.fileno(),
        )
        self._number = 0  # of the next frame
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

    def _send(self) -> _Pace:
        """Sends on the machine's CPU. If the user may choose that, it goes
        before the machine, which would use all of it."""
        place, pace = self._place, _Pace()
        interval = 1_000_000_000 * place.burst // RATE
        bursts = max(1, round(place.seconds * 1e9 / interval))
        numbers = map(ctypes.c_uint64, (bursts, interval, self._number))
        send = partial(self._sender.call, "run", *numbers, ctypes.byref(pace))

        def run(_: ctypes.c_int) -> None:
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            send()

        with cpus.elsewhere(place.machines_cpu, run):
            pass
        return pace

    def _check(self, sent: int) -> None:
        """Checks that the machine has received every frame, unchanged and in
        order."""
        testpmd, burst = self._machine.testpmd, self._place.burst
        numbers = range(self._number, self._number + sent)
        self._number = numbers.stop
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
