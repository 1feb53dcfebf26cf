"""A sender in C that sends numbered frames at a steady pace."""

import contextlib
import ctypes
from collections.abc import Callable
from functools import partial
from typing import Final

from . import cpus
from .link import Ends, Frames
from .native import Side

_NS: Final = 1_000_000_000


class Sent(ctypes.Structure):
    """struct pace: counts of the frames sent."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("sent", "wall_ns", "cpu_ns")
    )


class Sender:
    """Sends frames of `size` bytes on a veth pair, `burst` at once. `number`
    is that of the next frame."""

    def __init__(
        self, stack: contextlib.ExitStack, ends: Ends, burst: int, size: int
    ) -> None:
        self.burst = burst
        self.number = 0
        self._side = Side(
            *(stack, "lab/pace.c", ends.names),
            Frames(burst, size),
            tx=ends.tx.fileno(),
        )

    def send(
        self,
        rate: float,
        seconds: float,
        cpu: int,
        *,
        before: Callable[[], object] = int,
    ) -> Sent:
        """Sends `rate` frames a second on this CPU, in a thread that calls
        `before` first."""
        sent = Sent()
        interval = round(_NS * self.burst / rate)
        bursts = max(1, round(seconds * _NS / interval))
        numbers = map(ctypes.c_uint64, (bursts, interval, self.number))
        send = partial(self._side.call, "run", *numbers, ctypes.byref(sent))

        def run(_: ctypes.c_int) -> None:
            before()
            send()

        with cpus.elsewhere(cpu, run):
            pass
        self.number += sent.sent
        return sent
