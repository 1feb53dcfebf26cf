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

ADDRESSES: Final = 100_000
# After so many, the tables are as large as they ever are.
FIRST: Final = 40_000
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


def new_station(number: int) -> bytes:
    return b"\6\0" + number.to_bytes(4, "big")


def flood(switch: Fabric, start: int, stop: int) -> int:
    """Each of these stations sends a frame. Returns how much memory was in use
    at most meanwhile."""
    tracemalloc.reset_peak()
    batch = PacketBatch(64)
    for number in range(start, stop):
        batch.append(frame(bytes(46), UNKNOWN, new_station(number)))
        if len(batch) == batch.capacity or number == stop - 1:
            switch.send("p0", batch)
            batch.clear()
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
