"""Descriptors of every kind, for a hostile front end to pass."""

import ctypes
import fcntl
import mmap
import os
import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from support.front_end import PAGE, memory_file
from support.hard_descriptors import lingering_socket

PAGES: Final = 64
"""Of the guest's memory."""

_FULL: Final = 2**64 - 2
_SEAL_WRITE: Final = 0x0008


class Passed:
    """What a front end may pass. Everything is open until close()."""

    def __init__(self, draw: random.Random, directory: Path) -> None:
        self._draw = draw
        self._opened = ExitStack()
        self._directory = directory
        self._lingering: list[socket.socket] = []
        # Those that a good front end passes.
        self.guest = self._keep(memory_file(PAGES * PAGE))
        self.memory = mmap.mmap(self.guest, PAGES * PAGE)
        self._opened.callback(self.memory.close)
        self.eventfds = [self._keep(os.eventfd(0)) for _ in range(4)]
        self.eventfds.append(
            self._keep(os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK))
        )
        self._strange = [*self._memory(), *self._files(), *self._others()]

    def close(self) -> None:
        self.forget_lingering()
        self._opened.close()

    def any(self) -> int:
        draw = self._draw
        kind = draw.randrange(20)
        if kind < 8:
            return draw.choice(self.eventfds)
        if kind < 12:
            return self.guest
        return draw.choice(self._strange)

    @contextmanager
    def lingering(self) -> Iterator[int]:
        """A descriptor whose closing waits, if the front end passes it in this
        block."""
        sock, peer = self._opened.enter_context(lingering_socket())
        self._lingering.append(peer)
        try:
            yield sock.fileno()
        except BaseException:
            peer.close()
            raise
        finally:
            sock.close()

    def forget_lingering(self) -> None:
        """Ends the waiting."""
        for peer in self._lingering:
            peer.close()
        self._lingering.clear()

    def kick(self) -> None:
        """Writes to an eventfd, or reads it, or makes it block."""
        draw = self._draw
        chosen = draw.choice(self.eventfds)
        with suppress(BlockingIOError):
            match draw.randrange(8):
                case 0:
                    os.set_blocking(chosen, False)
                    os.eventfd_write(chosen, _FULL)
                case 1:
                    os.set_blocking(chosen, False)
                    os.eventfd_read(chosen)
                case 2:
                    os.set_blocking(chosen, draw.randrange(2) == 0)
                case _:
                    os.set_blocking(chosen, False)
                    os.eventfd_write(chosen, 1)

    def _keep(self, descriptor: int) -> int:
        self._opened.callback(os.close, descriptor)
        return descriptor

    def _memory(self) -> Iterator[int]:
        for size in (0, 1, PAGE - 1, PAGE, 2 * PAGE + 1, 1 << 40, 2**63 - 1):
            yield self._keep(memory_file(size))
        yield self._keep(memory_file(PAGE, 0))
        yield self._keep(memory_file(PAGE, fcntl.F_SEAL_SHRINK | _SEAL_WRITE))
        link = f"/proc/self/fd/{self.guest}"
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH):
            yield self._keep(os.open(link, flags))
        with suppress(OSError):
            huge = os.memfd_create(
                "huge", os.MFD_HUGETLB | os.MFD_ALLOW_SEALING
            )
            self._keep(huge)
            os.truncate(huge, 1 << 21)
            yield huge

    def _files(self) -> Iterator[int]:
        file = self._directory / "file"
        file.write_bytes(bytes(PAGE))
        for path, flags in (
            (file, os.O_RDWR),
            (self._directory, os.O_RDONLY),
            (self._directory, os.O_PATH),
            ("/dev/null", os.O_RDWR),
            ("/dev/zero", os.O_RDWR),
            ("/proc/self/status", os.O_RDONLY),
            ("/proc/self/mem", os.O_RDWR),
            ("/proc/self/ns/net", os.O_RDONLY),
        ):
            yield self._keep(os.open(path, flags))

    def _others(self) -> Iterator[int]:
        for end in os.pipe():
            yield self._keep(end)
        for sock in (
            *socket.socketpair(),
            *socket.socketpair(type=socket.SOCK_DGRAM),
            socket.socket(),
            socket.create_server(("127.0.0.1", 0)),
        ):
            yield self._opened.enter_context(sock).fileno()
        yield self._opened.enter_context(select.epoll()).fileno()
        yield self._keep(os.pidfd_open(os.getpid()))
        timer = ctypes.CDLL(None).timerfd_create(time.CLOCK_MONOTONIC, 0)
        yield self._keep(timer)
