"""Descriptors that a program waits for by its own means: select(2), poll(2),
epoll(7), or an event loop."""

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

    It has no close(): it is closed when nothing refers to it any more. So a
    thread or a signal handler that drops it never frees its number while
    another call is using it.
    """

    _number = -1  # while the constructor has not made one

    def __init__(self) -> None:
        self._number = os.eventfd(0, _FLAGS)

    def fileno(self) -> int:
        return self._number

    def set(self) -> None:
        """Sets it. Edge-triggered waiters get an event each time."""
        os.eventfd_write(self._number, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is not set
            os.eventfd_read(self._number)

    def renew(self) -> None:
        """Replaces the eventfd, which a forked child shares with its parent,
        by one of the child's own with the same number. It is not set."""
        fresh = os.eventfd(0, _FLAGS)
        os.dup2(fresh, self._number, inheritable=False)
        os.close(fresh)

    def __del__(self) -> None:
        if self._number != -1:
            os.close(self._number)


class Readiness:
    """One descriptor for several receivers and for frames that are held: an
    epoll(7) descriptor, which can itself be waited for.

    It is readable while a receiver has packets, or follow() has last seen
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
        """False where a user has set O_NONBLOCK on the descriptor."""
        return os.get_blocking(self._epoll.fileno())

    def add(self, receiver: RawSocket) -> None:
        _watch(self._epoll, receiver)

    def follow(self, frames: Sized) -> None:
        """Makes the descriptor readable if there are frames, and not readable
        if there are none.

        Call it after every change of them: whichever call is the last one then
        leaves the right state, without a lock, among threads and signal
        handlers too.
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
        """Replaces what a forked child shares with its parent, as
        Event.renew() does: otherwise each changed what the other waits for."""
        self._held.renew()
        fresh = self._watching(receivers)
        os.set_blocking(fresh.fileno(), self.blocking)
        os.dup2(fresh.fileno(), self.fileno(), inheritable=False)


def _watch(poller: select.epoll, receiver: RawSocket) -> None:
    number = receiver.fileno()
    if number != -1:  # otherwise it is closed, and never readable again
        poller.register(number, select.EPOLLIN)


class _Renewable(Protocol):
    def renew_after_fork(self) -> None:
        """Called in a forked child, before its own code runs."""


_renewed_after_fork: Final[weakref.WeakSet[_Renewable]] = weakref.WeakSet()


def renew_after_fork(owner: _Renewable) -> None:
    """Registers the owner of an Event or a Readiness."""
    _renewed_after_fork.add(owner)


def _after_fork() -> None:
    for owner in list(_renewed_after_fork):
        owner.renew_after_fork()


os.register_at_fork(after_in_child=_after_fork)
