"""Forwarders between two hosts that exchange a frame at a time.

end a ------- veth ------- port a   port b ------- veth ------- end b
"""

import contextlib
import ctypes
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from rawmmsg import RawSocket
from rawmmsg.testing import veth_pair

from ..forward.sides import Join
from ..lab import cpus, native
from ..lab.contender import GroundTruthError, Ready, Slice
from ..lab.link import BACK, HEADER, PATIENCE, as_stdlib, numbered, set_timeout

_SOURCE: Final = "latency/hosts.c"


@dataclass(frozen=True)
class Place:
    """The CPU of the forwarders, and how many round trips of a frame of `size`
    bytes a slice has. All forwarders run at once, each between ports of its
    own."""

    stack: contextlib.ExitStack
    forwarders_cpu: int
    size: int
    trips: int


def joined(join: Join) -> Callable[[Place], Ready]:
    """Makes a forwarder ready; the figure of a slice is the median."""

    def prepare(place: Place) -> Ready:
        a, b = (place.stack.enter_context(veth_pair()) for _ in range(2))
        # Threads and programs run on the CPU of the thread that starts them.
        with cpus.pinned(place.forwarders_cpu):
            place.stack.enter_context(join(a.b, b.b))
        exchange = _hosts(place, a.a, b.a)

        def run(_: int) -> Slice:
            taken = (ctypes.c_uint64 * place.trips)()
            try:
                native.succeeded(exchange(place.trips, taken), _SOURCE)
            except OSError as error:
                raise GroundTruthError(str(error)) from error
            return Slice(statistics.median(taken) / 1e3, sum(taken))

        return Ready(run, place.trips)

    return prepare


def _hosts(place: Place, *ends: str) -> Callable[..., int]:
    """A function that makes so many round trips between two interfaces."""
    sockets = [
        place.stack.enter_context(RawSocket(end, ignore_outgoing=True))
        for end in ends
    ]
    for sock in sockets:
        with as_stdlib(sock) as copy:
            set_timeout(copy, PATIENCE)
    frames = [
        ctypes.create_string_buffer(numbered(place.size, header)(0, 0))
        for header in (HEADER, BACK)
    ]
    run = native.library(_SOURCE).hosts_run
    descriptors = [sock.fileno() for sock in sockets]
    return partial(run, *descriptors, *frames, ctypes.c_size_t(place.size))
