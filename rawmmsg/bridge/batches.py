"""The batches that the directions of a bridge receive into."""

from .._rawmmsg import PacketBatch
from ..constants import SUPER_FRAME
from .ports import Port

__all__ = ["Slot", "Stacks", "make_shared_stacks", "make_stacks"]

Slot = tuple[PacketBatch, "memoryview[int]"]
"""A batch and its lengths."""

Stacks = tuple[list[Slot], list[Slot]]
"""A stack of batches of few frames, so that super-frames are still in the CPU
cache when they are sent, and one of many, so that small frames share a system
call. The batch that was used last is on top."""

_FEW = 8
_MANY = 64


def make_stacks(a: Port, b: Port, size: int | None) -> tuple[Stacks, Stacks]:
    """Returns the stacks for the frames that enter at `a`, and at `b`.

    Two interfaces share one pair of stacks, so that less memory has to be in
    the cache. A direction takes at most two batches of a size from its stacks.
    """
    if a.is_interface and b.is_interface:
        shared = _with_super_frames(size, 4)
        return shared, shared
    return _for_port(a, size), _for_port(b, size)


def make_shared_stacks(size: int | None) -> Stacks:
    """Returns the stacks for any number of ports that do not keep a batch."""
    return _with_super_frames(size, 1)


def _for_port(port: Port, size: int | None) -> Stacks:
    if port.has_offloads:
        return _with_super_frames(size, 2)
    stack = _stack(size or _MANY, 2)
    return stack, stack


def _with_super_frames(size: int | None, count: int) -> Stacks:
    if size is not None:
        stack = _stack(size, count)
        return stack, stack
    return _stack(_FEW, count), _stack(_MANY, count)


def _stack(size: int, count: int) -> list[Slot]:
    batches = [PacketBatch(size, SUPER_FRAME) for _ in range(count)]
    return [(batch, batch.lengths) for batch in batches]
