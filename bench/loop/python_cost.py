"""Python's own cost: the same loop, with and without a look at each packet.

The loop of measurement "loop", with 64-byte frames. C reads nothing of them.
"rawmmsg" hands the batch over as a whole: what Python costs there is a call
or two for each batch. "a handler per packet" calls a Python function with each
packet, which reads its EtherType: that is paid for each of them, however large
the batch. "columns" reads the EtherTypes of the whole batch at once, with
numpy, in the batch's own memory. The socket module calls the same handler.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from rawmmsg import PacketBatch

from ..framework import Context, GroundTruthError, Table
from ..network.link import HEADER, Frames
from ..sides.slicer import Contender, table
from ..sides.ways import (
    AUXDATA,
    Handle,
    SharedLink,
    Start,
    Way,
    limit,
    rawmmsg,
    stdlib,
)
from ..tools import peers

SIZE: Final = 64
BATCHES: Final = (1, 4, 16, 64, 256, 1024)

ETHERTYPE: Final = int.from_bytes(HEADER[12:14], "big")


def handle(packet: "memoryview[int]") -> None:
    """What a program does with a packet, at the least: reads one field."""
    if packet[12] << 8 | packet[13] != ETHERTYPE:
        raise GroundTruthError("a packet of another kind")


def handle_each(batch: PacketBatch) -> None:
    for packet in batch:
        handle(packet)


def in_columns(
    shared: SharedLink, frames: Frames, stack: contextlib.ExitStack
) -> Way:
    """Reads the field of all packets at once, in numpy."""
    numpy: Any = peers.module("numpy")
    wanted = numpy.frombuffer(HEADER[12:14], "u1")

    def handle_batch(batch: PacketBatch) -> None:
        found = numpy.asarray(batch)[: len(batch), 12:14]
        if not (found == wanted).all():
            raise GroundTruthError("a packet of another kind")

    return _rawmmsg(handle_batch)(shared, frames, stack)


def _rawmmsg(handle: Handle | None = None) -> Start:
    return rawmmsg(lambda link: link.rx, AUXDATA, handle=handle)


CONTENDERS: Final = (
    Contender("C", limit(AUXDATA)),
    Contender("rawmmsg", _rawmmsg(), "C"),
    Contender("rawmmsg, columns", in_columns, "C"),
    Contender("rawmmsg, a handler per packet", _rawmmsg(handle_each), "C"),
    Contender("stdlib, a handler per packet", stdlib(handle=handle), "C"),
)


def measure(context: Context) -> Iterator[Table]:
    for batch in context.pick(BATCHES, (1, 64, 1024), (16,)):
        yield table(
            context,
            CONTENDERS,
            Frames(batch, SIZE),
            key=f"python_cost/{SIZE}B/batch{batch}",
            title=f"{SIZE}-byte frames, batches of {batch:,}",
        )
