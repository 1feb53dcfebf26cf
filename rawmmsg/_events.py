"""Descriptors that a program can wait for with select(2), poll(2), epoll(7),
or an event loop."""

import contextlib
import os
import select
import weakref
from collections.abc import Iterable, Sized
from typing import Final, Protocol

from rawmmsg import RawSocket

_FLAGS: Final = os.EFD_CLOEXEC | os.EFD_NONBLOCK


class Event:
    """An eventfd(2), readable while it is set.

    It has no close(): it is closed when nothing refers to it any more. So if
    a thread or a signal handler drops it while another call uses its number,
    that number stays taken.
    """

    _number = -1  # until the constructor has made one

    def __init__(self) -> None:
        self._number = os.eventfd(0, _FLAGS)

    def fileno(self) -> int:
        return self._number

    def set(self) -> None:
        """Makes it readable. Edge-triggered waiters get an event each time."""
        os.eventfd_write(self._number, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):  # if it is not set
            os.eventfd_read(self._number)

    def renew(self) -> None:
        """In a forked child, replaces the eventfd, which is shared with the
        parent, by a new one that has the same number and is not set."""
        fresh = os.eventfd(0, _FLAGS)
        os.dup2(fresh, self._number, inheritable=False)
        os.close(fresh)

    def __del__(self) -> None:
        if self._number != -1:
            os.close(self._number)


class Readiness:
    """One epoll(7) descriptor to wait for several receivers and for frames
    that are held.

    It is readable while a receiver has packets, or if follow() has last seen
    frames. Like an Event, it is closed when nothing refers to it any more.
    """

    def __init__(self, receivers: Iterable[RawSocket]) -> None:
        self._held = Event()
        self._epoll = self._watching(receivers)

    def _watching(self, receivers: Iterable[RawSocket]) -> select.epoll:
        made = select.epoll()
        made.register(self._held.fileno(), select.EPOLLIN)
        for one in receivers:
            _watch(made, one)
        return made

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def blocking(self) -> bool:
        """False if a user has set O_NONBLOCK on the descriptor."""
        return os.get_blocking(self._epoll.fileno())

    def add(self, receiver: RawSocket) -> None:
        _watch(self._epoll, receiver)

    def follow(self, frames: Sized) -> None:
        """Makes the descriptor readable if there are frames, and not readable
        if there are none.

        Must be called after every change of the frames. The last call then
        leaves the right state, even if threads or signal handlers call it at
        the same time, without a lock.
        """
        while True:
            held = bool(frames)
            if held:
                self._held.set()
            else:
                self._held.clear()
            if bool(frames) == held:
                break

    def renew(self, receivers: Iterable[RawSocket]) -> None:
        """In a forked child, replaces what is shared with the parent, as
        Event.renew() does. Otherwise each would change what the other waits
        for."""
        self._held.renew()
        fresh = self._watching(receivers)
        os.set_blocking(fresh.fileno(), self.blocking)
        os.dup2(fresh.fileno(), self.fileno(), inheritable=False)


def _watch(poller: select.epoll, receiver: RawSocket) -> None:
    number = receiver.fileno()
    if number != -1:  # not closed
        poller.register(number, select.EPOLLIN)


class _Renewable(Protocol):
    def _renew_after_fork(self) -> None:
        """Called in a forked child before any other code runs."""


_renewed_after_fork: Final[weakref.WeakSet[_Renewable]] = weakref.WeakSet()


def renew_after_fork(owner: _Renewable) -> None:
    """Registers the owner of an Event or a Readiness, for as long as it
    lives."""
    _renewed_after_fork.add(owner)


def _after_fork() -> None:
    for owner in list(_renewed_after_fork):
        owner._renew_after_fork()


os.register_at_fork(after_in_child=_after_fork)
