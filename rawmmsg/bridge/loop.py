"""One thread that moves frames in all directions."""

import math
import os
import select
from collections.abc import Callable, Collection, Sequence
from functools import partial
from time import monotonic
from typing import Protocol

from .directions import make_directions
from .merging import Merging
from .ports import Port

__all__ = ["Bridge", "Loop", "Mover"]

# Seconds between two calls of Port.tend().
TEND = 0.25


class Mover(Protocol):
    """What the loop knows of a direction, or of a part of it: see
    `Direction`."""

    @property
    def source(self) -> Port | None:
        """The port that forward() receives from."""

    @property
    def ports(self) -> Collection[Port]:
        """wake() is called after an event at one of them."""

    @property
    def accepts(self) -> bool: ...
    @property
    def room(self) -> int: ...
    @property
    def due(self) -> float: ...
    def forward(self) -> bool: ...
    def resume(self) -> None: ...
    def wake(self) -> bool: ...
    def finish(self) -> None: ...


class Loop:
    """Calls those that move frames between open ports."""

    def __init__(self, ports: Sequence[Port], movers: Sequence[Mover]) -> None:
        self._ports = ports
        self._movers = movers
        # What to call for a descriptor that is readable, and who receives the
        # frames that arrive at a descriptor.
        self._readers: dict[int, Callable[[], bool]] = {}
        self._from: dict[int, Mover] = {}
        self._sources: list[int] = []
        self._others: list[int] = []  # descriptors that have no frames
        self._poll = select.poll()
        self._find_descriptors()
        self._watched: dict[int, int] = {}
        self._timers: list[_Timer] = [_Timer(TEND, self._tend)]
        self._due = 0.0
        self._wait_ms = 0
        self._ended = False
        self._spins_until = 0.0
        self._calls: dict[int, Callable[[], object]] = {}

    def every(self, seconds: float, call: Callable[[], object]) -> None:
        """Calls `call` every `seconds` seconds while the bridge runs."""
        self._timers.append(_Timer(seconds, call))

    def on_signal(self, number: int, call: Callable[[], object]) -> None:
        """Calls `call`, and goes on, when the byte that is read from the
        descriptor of run() is this number. (signal.set_wakeup_fd())"""
        self._calls[number] = call

    def end(self) -> None:
        """Makes run() return."""
        self._ended = True

    def run(self, *wakes: int) -> None:
        """Moves frames until end() is called or a byte can be read from one
        of the descriptors `wakes`, except one for on_signal().

        Raises OSError (ENODEV) if an interface disappears: `filename` is its
        name.
        """
        readers = self._readers
        for wake in wakes:
            readers[wake] = partial(self._woken, wake)
            self._poll.register(wake, select.POLLIN)
        self._rearm()
        readable = select.POLLIN
        try:
            while not self._ended:
                for descriptor, events in self._wait(self._wait_ms):
                    if events != readable:
                        self._serve(descriptor, events)
                    elif readers[descriptor]():
                        self._rearm()
                if monotonic() >= self._due:
                    self._attend()
        finally:
            for mover in self._movers:
                mover.finish()

    def _poll_spinning(self, wait_ms: int) -> list[tuple[int, int]]:
        """As poll(), but does not sleep for a while after the last frames of a
        port that has `spin`."""
        poll = self._poll.poll
        while True:
            found = poll(0)
            now = monotonic()
            if found or now >= self._due:
                return found
            if now >= self._spins_until:
                return poll(wait_ms)

    def _then_spin(
        self, port: Port | None, call: Callable[[], bool]
    ) -> Callable[[], bool]:
        """Returns what to call for an event of the port."""
        if port is None or not port.spin:
            return call
        return partial(self._spin_after, port.spin, call)

    def _spin_after(self, seconds: float, call: Callable[[], bool]) -> bool:
        has_changed = call()
        until = monotonic() + seconds
        self._spins_until = max(self._spins_until, until)
        return has_changed

    def _woken(self, wake: int) -> bool:
        for number in os.read(wake, 4096):
            self._calls.get(number, self.end)()
        return False

    def _serve(self, descriptor: int, events: int) -> None:
        """Handles any events other than "readable" alone."""
        for mover in self._movers:
            if mover.room == descriptor:
                mover.resume()
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
        for descriptor, mover in zip(self._sources, self._movers, strict=True):
            if descriptor >= 0:
                self._from[descriptor] = mover
                self._readers[descriptor] = self._then_spin(
                    mover.source, mover.forward
                )
        for port in self._ports:
            movers = [mover for mover in self._movers if port in mover.ports]
            for descriptor, call in port.readers.items():
                self._readers[descriptor] = self._then_spin(
                    port, partial(self._serve_port, call, movers)
                )
                self._others.append(descriptor)
        spins = any(port.spin for port in self._ports)
        self._wait = self._poll_spinning if spins else self._poll.poll

    def _descriptors_of_sources(self) -> list[int]:
        return [
            -1 if mover.source is None else mover.source.descriptor
            for mover in self._movers
        ]

    def _serve_port(
        self, call: Callable[[], bool], movers: list[Mover]
    ) -> bool:
        has_changed = call()
        if has_changed:
            self._find_descriptors()
        for mover in movers:
            has_changed |= mover.wake()
        return has_changed

    def _attend(self) -> None:
        """Makes the calls that are due."""
        now = monotonic()
        for mover in self._movers:
            if now >= mover.due:
                mover.resume()
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
        for descriptor, mover in self._from.items():
            if mover.accepts:
                wanted[descriptor] = wanted.get(descriptor, 0) | select.POLLIN
        for mover in self._movers:
            room = mover.room
            if room >= 0:
                wanted[room] = wanted.get(room, 0) | select.POLLOUT
        for descriptor, events in wanted.items():
            self._watch(descriptor, events)
        self._due = min(
            *(mover.due for mover in self._movers),
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


class Bridge(Loop):
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
        super().__init__((a, b), self.directions)


class _Timer:
    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self.seconds = seconds
        self.call = call
        self.due = monotonic() + seconds
