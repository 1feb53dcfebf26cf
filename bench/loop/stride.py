"""Frame stride and batch size: how far apart frames, and how many, are best.

Strides: the loop of measurement "loop" in C, bare, with the frames of a batch
at different distances in memory. Batch sizes: the same loop with a
PacketBatch, whose frames are 2,112 bytes apart unless told otherwise.
"""

import itertools
from collections.abc import Iterator
from typing import Final

from rawmmsg import PacketBatch

from ..framework import Context, Table
from ..network.link import Frames
from ..sides.slicer import Contender, table
from ..sides.ways import AUXDATA, limit, rawmmsg

SIZES: Final = (64, 1500)
STRIDES: Final = (1600, 2048, 2240)
BATCHES: Final = (64, 256, 1024)
STRIDE_BATCHES: Final = (64, 1024)

# What a larger batch may cost, per packet, of one of 64: within 15 %.
FLAT: Final = 1.15


def own_stride() -> int:
    """What PacketBatch has."""
    strides = memoryview(PacketBatch()).strides
    assert strides is not None
    return strides[0]


def measure(context: Context) -> Iterator[Table]:
    sizes = context.pick(SIZES, SIZES, SIZES[:1])
    for size in sizes:
        yield _batches(context, size, context.pick(BATCHES, BATCHES, (8, 16)))
    batches = context.pick(STRIDE_BATCHES, (1024,), (16,))
    for size, batch in itertools.product(sizes, batches):
        yield _strides(context, size, batch)


def _batches(context: Context, size: int, batches: tuple[int, ...]) -> Table:
    first = batches[0]
    ways = {
        "rawmmsg": (rawmmsg(lambda link: link.rx, AUXDATA), FLAT),
        "C": (limit(AUXDATA), None),
    }
    sides = [
        Contender(
            f"{name}, {batch:,}",
            way,
            f"{name}, {first:,}" if batch != first else None,
            at_most=at_most if batch != first else None,
            frames=Frames(batch, size),
        )
        for name, (way, at_most) in ways.items()
        for batch in batches
    ]
    return table(
        context,
        sides,
        Frames(first, size),
        key=f"stride/{size}B/batches",
        title=f"{size:,}-byte frames, by packets in a batch",
    )


def _strides(context: Context, size: int, batch: int) -> Table:
    own = own_stride()
    sides = [
        Contender(f"{own:,}", limit(), frames=Frames(batch, size, own)),
        Contender(
            f"{own:,}, control",
            limit(),
            f"{own:,}",
            at_least=0.99,
            at_most=1.01,
            frames=Frames(batch, size, own),
        ),
    ]
    for stride in STRIDES:
        if stride != own:
            frames = Frames(batch, size, stride)
            sides.append(
                Contender(f"{stride:,}", limit(), f"{own:,}", frames=frames)
            )
    return table(
        context,
        sides,
        Frames(batch, size),
        key=f"stride/{size}B/batch{batch}",
        title=f"{size:,}-byte frames, batches of {batch:,}, by stride, in C",
        notes=[f"{own:,} is the stride of a PacketBatch."],
    )
