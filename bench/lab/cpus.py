"""Which CPU a thread runs on, and how much of it a process uses."""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


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


@contextlib.contextmanager
def elsewhere(
    cpu: int, function: Callable[[ctypes.c_int], object]
) -> Iterator[ctypes.c_int]:
    """Runs a function on another CPU, in a thread, until it ends; its argument
    is 1 when the context ends, or when it has failed. Raises its exception at
    the end of the context."""
    over = ctypes.c_int()

    def run() -> None:
        try:
            with pinned(cpu):
                function(over)
        finally:
            over.value = 1  # otherwise another thread would wait for ever

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        try:
            yield over
        finally:
            over.value = 1
        future.result()


def used_ns(pid: int) -> int:
    """The CPU time of all threads of a process, the kernel's work for them
    included (Documentation/scheduler/sched-stats.rst)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads)
