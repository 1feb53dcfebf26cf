"""Memory for batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy


@contextmanager
def shared_memory(size: int) -> Iterator[SharedMemory]:
    memory = SharedMemory(create=True, size=size)
    try:
        yield memory
    finally:
        memory.unlink()
        memory.close()


def zeros(shape: int | tuple[int, ...], dtype: str, order: str = "C") -> Any:
    """An array. numpy's stubs declare it as a buffer only from Python 3.12
    on."""
    return numpy.zeros(shape, dtype, order)  # type: ignore[call-overload]


def resizable(memory: bytearray) -> bool:
    """Whether the bytearray can be resized, that is, whether it has no
    exported buffer."""
    try:
        memory.append(0)
    except BufferError:
        return False
    del memory[-1]
    return True
