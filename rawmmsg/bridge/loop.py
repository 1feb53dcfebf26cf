"""One thread that moves frames in both directions."""

import math
import os
import select
from collections.abc import Callable
from functools import partial
from time import monotonic

from .direction import Direction
from .directions import make_directions
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
        self.directions = make_directions(a, b, batch, merging)
        self._ports = (a, b)
        # What to call for a descriptor that is readable, and the direction
        # whose frames arrive at a descriptor.
        self._readers: dict[int, Callable[[], bool]] = {}
        self._from: dict[int, Direction] = {}
        self._sources: list[int] = []
        self._others: list[int] = []  # descriptors that have no frames
        self._find_descriptors()
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
        readers = self._readers
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
        if events != select.POLLOUT:
            source = self._from.get(descriptor)
            if source is None:
                self._readers.get(descriptor, _nothing)()
            elif source.accepts:
                source.forward()
        self._rearm()

    def _find_descriptors(self) -> None:
        """Sets what to call for the descriptors of the ports. One that has
        been closed may still have an event in this round."""
        for descriptor in (*self._from, *self._others):
            self._readers[descriptor] = _nothing
        self._from.clear()
        self._others.clear()
        self._sources = self._descriptors_of_sources()
        for descriptor, direction in zip(
            self._sources, self.directions, strict=True
        ):
            if descriptor >= 0:
                self._from[descriptor] = direction
                self._readers[descriptor] = direction.forward
        for port in self._ports:
            for descriptor, call in port.readers.items():
                self._readers[descriptor] = partial(self._serve_port, call)
                self._others.append(descriptor)

    def _descriptors_of_sources(self) -> list[int]:
        return [direction.source.descriptor for direction in self.directions]

    def _serve_port(self, call: Callable[[], bool]) -> bool:
        has_changed = call()
        if has_changed:
            self._find_descriptors()
        for direction in self.directions:
            has_changed |= direction.wake()
        return has_changed

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
        if True in [port.tend() for port in self._ports]:
            self._find_descriptors()

    def _rearm(self) -> None:
        """Makes poll(2) wait for what the directions wait for."""
        if self._sources != self._descriptors_of_sources():
            self._find_descriptors()
        wanted = dict.fromkeys(self._watched, 0)
        for descriptor in self._others:
            wanted[descriptor] = select.POLLIN
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


def _nothing() -> bool:
    """Handles an event of a descriptor that has been closed."""
    return False


class _Timer:
    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self.seconds = seconds
        self.call = call
        self.due = monotonic() + seconds
