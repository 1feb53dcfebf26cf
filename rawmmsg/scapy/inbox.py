"""The receiving half of a Scapy socket: the frames that were received in a
batch, until each is given out."""

import contextlib
import errno
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from .._events import Readiness, renew_after_fork
from .links import Frame, Link

# poll(2) may get no event if another thread closes a socket, or if its
# interface is deleted. So each socket is checked this often, in seconds.
_SLICE: Final = 1.0


class Inbox:
    """Receives frames over one or more links, and holds those that have not
    been given out yet.

    Threads and signal handlers may call any of its methods at any time.
    """

    def __init__(self) -> None:
        self.links: tuple[Link, ...] = ()
        self.frames: deque[Frame] = deque()
        self.closed = False
        self.is_selected = False  # wait_for() has just named it as readable
        # Held while the descriptor or another link is opened. Reentrant,
        # because a signal handler may do the same at that moment.
        self.opening = threading.RLock()
        self._readiness: Readiness | None = None
        renew_after_fork(self)

    def add(self, link: Link) -> None:
        self.links += (link,)
        readiness = self._readiness
        if readiness is not None:
            readiness.add(link.receiver)
        if self.closed:  # meanwhile, by another thread or a signal handler
            link.close()

    def close(self) -> None:
        self.closed = True
        self._readiness = None
        for link in self.links:
            link.close()

    def _renew_after_fork(self) -> None:
        """Gives a forked child a lock and a descriptor of its own: the thread
        that held the lock may not exist there."""
        self.opening = threading.RLock()
        readiness = self._readiness
        if readiness is not None:
            readiness.renew(link.receiver for link in self.links)
            readiness.follow(self.frames)

    # Frames

    def fill(self) -> bool:
        """Receives a batch of each link, unless frames are held already. Never
        waits. Returns False if no frames are there.

        Also returns True, with no frames held, if a link has gone down, so
        that a call that waits returns.
        """
        if self.frames:
            return True
        came = False
        try:
            for link in self.links:
                with contextlib.suppress(BlockingIOError):
                    self.frames.extend(link.receive())
                    came = True
        finally:
            if self.frames:  # also if a later link has failed
                self._note_held()
        return came

    def take(self) -> Frame | None:
        """Waits for a frame, and returns it. Does not wait if wait_for() has
        just named this inbox, and raises BlockingIOError if fileno() is
        non-blocking."""
        selected, self.is_selected = self.is_selected, False
        while not self.frames:
            if self.closed:
                raise EOFError("the socket is closed")
            if self.fill() or selected:
                break
            readiness = self._readiness
            if readiness is not None and not readiness.blocking:
                number = errno.EAGAIN
                raise BlockingIOError(number, os.strerror(number))
            wait_for([self], None)
        frame = self.pop()
        if self.frames:
            # Edge-triggered waiters need an event for each frame that is left.
            self._note_held()
        return frame

    def pop(self) -> Frame | None:
        """Returns the next of the frames that are held."""
        # No check before: another thread may take the last one meanwhile.
        try:
            frame = self.frames.popleft()
        except IndexError:
            return None
        if not self.frames:
            self._note_held()
        return frame

    def put_back(self, frames: Sequence[Frame]) -> None:
        """Makes these frames the next to be given out."""
        self.frames.extendleft(reversed(frames))
        self._note_held()

    def discard_until(self, wanted: Callable[[bytes], object]) -> bool:
        """Discards the frames that are held before the first wanted one;
        returns False if none is wanted."""
        while (frame := self.pop()) is not None:
            if wanted(frame[1]):
                self.put_back([frame])
                return True
        return False

    # Waiting

    def fileno(self) -> int:
        """The descriptor that is readable while take() has a frame; -1 if the
        inbox is closed. The first call makes it."""
        if self._readiness is None and not self.closed:
            with self.opening:
                made = Readiness(link.receiver for link in self.links)
                if self._readiness is None:
                    self._readiness = made
            self._note_held()
            if self.closed:  # meanwhile
                self._readiness = None
        readiness = self._readiness
        return -1 if readiness is None else readiness.fileno()

    def _note_held(self) -> None:
        """Keeps fileno() readable while frames are held, if anybody has asked
        for it."""
        readiness = self._readiness
        if readiness is not None:
            readiness.follow(self.frames)

    def descriptors(self) -> list[int]:
        return [link.receiver.fileno() for link in self.links]

    def has_news(self) -> bool:
        """Whether take() would return, or raise, at once."""
        try:
            return self.fill()
        except (OSError, EOFError):
            return True


def wait_for(sources: Sequence[Any], remain: float | None) -> list[Any]:
    """Waits until some of the sources can be read, for at most `remain`
    seconds (None: for ever), and returns those.

    A source is an Inbox, a socket that has one, or anything with a fileno().
    """
    inboxes = [
        (one, inbox)
        for one in sources
        if (inbox := _inbox_of(one)) is not None
    ]
    deadline = math.inf if remain is None else time.monotonic() + remain
    while True:
        rest = max(0.0, min(_SLICE, deadline - time.monotonic()))
        ready = _poll(sources, rest)
        if not ready and rest == _SLICE:
            ready = [one for one, inbox in inboxes if inbox.has_news()]
        for one, inbox in inboxes:
            inbox.is_selected = one in ready
        if ready or time.monotonic() >= deadline:
            return ready


def _inbox_of(source: Any) -> Inbox | None:
    inbox = getattr(source, "inbox", source)
    return inbox if isinstance(inbox, Inbox) else None


def _poll(sources: Sequence[Any], seconds: float) -> list[Any]:
    """Returns the sources that have an event, in their order."""
    # poll(2), because select(2) takes no descriptor above 1,023.
    poller = select.poll()
    owners: dict[int, Any] = {}
    for one in sources:
        inbox = _inbox_of(one)
        numbers = [one.fileno()] if inbox is None else inbox.descriptors()
        for number in numbers:
            if number < 0:  # closed: the next read will raise EOFError
                return [one]
            owners[number] = one
            poller.register(number, select.POLLIN)
    events = poller.poll(math.ceil(seconds * 1000))
    return list(dict.fromkeys(owners[number] for number, _ in events))
