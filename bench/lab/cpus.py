"""Which CPU a thread runs on."""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keeps the calling thread, and whatever it starts, on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def first() -> int:
    """The CPU that senders run on."""
    return min(os.sched_getaffinity(0))


def last() -> int:
    """The CPU that receivers run on: another one than first(), if there are
    two."""
    return max(os.sched_getaffinity(0))


class Elsewhere:
    """Runs a function on another CPU, in a thread, until `over` is 1."""

    def __init__(
        self, cpu: int, function: Callable[[ctypes.c_int], object]
    ) -> None:
        self.over = ctypes.c_int()
        self._cpu = cpu
        self._function = function
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with pinned(self._cpu):
                self._function(self.over)
        except OSError as error:
            self._failure = error
        finally:
            self.over.value = 1  # otherwise another thread would wait for ever

    def finish(self) -> None:
        """Waits for the end of the function; raises the OSError that it
        raised."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Tells the function to end, and waits for it."""
        self.over.value = 1
        self.finish()
