"""One thread that moves frames in both directions."""

import math
import os
import select
from collections.abc import Callable
from time import monotonic

from .batches import make_stacks
from .direction import Direction
from .merging import Merging
from .ports import Port

__all__ = ["Bridge"]

# Seconds between two calls of Port.tend().
TEND = 0.25


class Bridge:
    """A switch between two open ports, `a` and `b`.

    `batch`: how many frames it receives at once; by default it decides.
    `merging`: what it merges; by default nothing.
    """

    def __init__(
        self,
        a: Port,
        b: Port,
        batch: int | None = None,
        merging: Merging | None = None,
    ) -> None:
        from_a, from_b = make_stacks(a, b, batch)
        self.directions = (
            Direction(a, b, from_a, merging),
            Direction(b, a, from_b, merging),
        )
        self._from = {
            direction.source.sock.fileno(): direction
            for direction in self.directions
        }
        self._ports = (a, b)
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        self._timers: list[_Timer] = [_Timer(TEND, self._tend)]
        self._due = 0.0
        self._wait_ms = 0
        self._ended = False

    def every(self, seconds: float, call: Callable[[], object]) -> None:
        """Calls `call` every `seconds` seconds while the bridge runs."""
        self._timers.append(_Timer(seconds, call))

    def end(self) -> None:
        """Makes run() return."""
        self._ended = True

    def run(self, wake: int) -> None:
        """Moves frames until end() is called or a byte can be read from the
        descriptor `wake`.

        Raises OSError (ENODEV) if an interface disappears: `filename` is its
        name.
        """
        readers: dict[int, Callable[[], bool]] = {
            descriptor: direction.forward
            for descriptor, direction in self._from.items()
        }
        readers[wake] = lambda: self._woken(wake)
        self._poll.register(wake, select.POLLIN)
        self._rearm()
        poll, readable = self._poll.poll, select.POLLIN
        try:
            while not self._ended:
                for descriptor, events in poll(self._wait_ms):
                    if events != readable:
                        self._serve(descriptor, events)
                    elif readers[descriptor]():
                        self._rearm()
                if monotonic() >= self._due:
                    self._attend()
        finally:
            for direction in self.directions:
                direction.finish()

    def _woken(self, wake: int) -> bool:
        os.read(wake, 4096)
        self._ended = True
        return False

    def _serve(self, descriptor: int, events: int) -> None:
        """Handles any events other than "readable" alone."""
        for direction in self.directions:
            if direction.room == descriptor:
                direction.resume()
        source = self._from.get(descriptor)
        if source is not None and events != select.POLLOUT and source.accepts:
            source.forward()
        self._rearm()

    def _attend(self) -> None:
        """Makes the calls that are due."""
        now = monotonic()
        for direction in self.directions:
            if now >= direction.due:
                direction.resume()
        for timer in self._timers:
            if now >= timer.due:
                timer.call()
                timer.due = now + timer.seconds
        self._rearm()

    def _tend(self) -> None:
        for port in self._ports:
            port.tend()

    def _rearm(self) -> None:
        """Makes poll(2) wait for what the directions wait for."""
        wanted = dict.fromkeys(self._watched, 0)
        for descriptor, direction in self._from.items():
            if direction.accepts:
                wanted[descriptor] = wanted.get(descriptor, 0) | select.POLLIN
            if direction.room >= 0:
                room = direction.room
                wanted[room] = wanted.get(room, 0) | select.POLLOUT
        for descriptor, events in wanted.items():
            self._watch(descriptor, events)
        self._due = min(
            *(direction.due for direction in self.directions),
            *(timer.due for timer in self._timers),
        )
        left = max(0.0, self._due - monotonic())
        self._wait_ms = math.ceil(left * 1000)

    def _watch(self, descriptor: int, events: int) -> None:
        """Sets the events of a descriptor. Without events it is unregistered,
        because poll(2) would still report its errors, again and again."""
        if events == self._watched.get(descriptor, 0):
            return
        if events:
            self._poll.register(descriptor, events)
            self._watched[descriptor] = events
        else:
            self._poll.unregister(descriptor)
            del self._watched[descriptor]


class _Timer:
    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self.seconds = seconds
        self.call = call
        self.due = monotonic() + seconds
