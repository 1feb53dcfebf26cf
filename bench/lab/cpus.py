"""Which CPU a thread runs on."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[int]:
    """Keeps the calling thread, and what it starts meanwhile, on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def first() -> int:
    """Where senders run."""
    return min(os.sched_getaffinity(0))


def last() -> int:
    """Where receivers run: another CPU than first(), where there are two."""
    return max(os.sched_getaffinity(0))
