"""A flood of addresses does not make the switch grow."""

import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest
from support.frames import frame
from support.switching import open_port

from rawmmsg import PacketBatch
from rawmmsg.bridge.switching.fabric import Fabric
from rawmmsg.bridge.switching.table import MOST_STATIONS
from rawmmsg.testing import veth_pair

BATCH: Final = 64
ADDRESSES: Final = 1563 * BATCH  # 100,000
# After so many, the tables are as large as they ever are.
FIRST: Final = 625 * BATCH
MOST_BYTES: Final = 12_000_000

UNKNOWN: Final = bytes((2, 0, 0, 0, 1, 0))


@pytest.fixture
def switch() -> Iterator[Fabric]:
    """A switch with the ports p0 and p1, at whose other ends nobody
    listens."""
    with ExitStack() as opened:
        switch = Fabric()
        for i in range(2):
            port = open_port(opened.enter_context(veth_pair()).b)
            opened.callback(port.close)
            switch.add(f"p{i}", port)
        yield switch


def flood(switch: Fabric, start: int, stop: int) -> int:
    """Each of these stations sends a frame. Returns how much memory was in use
    at most meanwhile."""
    tracemalloc.reset_peak()
    batch = PacketBatch(BATCH)
    batch.extend([frame(bytes(46), UNKNOWN, b"\6\0\0\0\0\0")] * BATCH)
    views = list(batch)
    for first in range(start, stop, BATCH):
        for number, view in enumerate(views, first):
            view[8:12] = number.to_bytes(4, "big")
        switch.send("p0", batch)
    return tracemalloc.get_traced_memory()[1]


def test_memory_is_bounded(switch: Fabric) -> None:
    """That of the address table, and that of decisions."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        first = flood(switch, 0, FIRST) - before
        later = flood(switch, FIRST, ADDRESSES) - before
    finally:
        tracemalloc.stop()
    assert switch.table.learned == ADDRESSES
    assert len(switch.table) == MOST_STATIONS
    assert later < 1.25 * first
    assert later < MOST_BYTES
