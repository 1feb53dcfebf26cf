"""Many numbered frames through a veth pair, with a thread at each end: each
frame arrives once, in order and unchanged, or is counted as dropped."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy
import pytest
from support import WAIT
from support.calls import Call
from support.frames import frame

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

CAPACITY: Final = 64
WINDOW: Final = 3 * CAPACITY
"""The maximum number of frames in flight. Receive buffers of users without
privilege hold more."""

# A frame is a header, these fields, and a tail of up to 63 bytes, whose length
# and contents depend on the number.
FRAME: Final = numpy.dtype(
    [
        ("header", "V14"),
        ("number", ">u8"),
        ("filler", "<u8", (4,)),
        ("checksum", "<u8"),
    ]
)
SIZE: Final = FRAME.itemsize
TAIL: Final = 64
FACTORS: Final = numpy.array(
    [
        0x9E3779B97F4A7C15,
        0xBF58476D1CE4E5B9,
        0x94D049BB133111EB,
        0xD6E8FEB86659FD93,
    ],
    "u8",
)

HEADER: Final = numpy.frombuffer(frame(), "u1")
PLACES: Final = numpy.arange(TAIL, dtype="u1")

Array: TypeAlias = numpy.ndarray[Any, Any]


def lengths_of(numbers: Array) -> Array:
    return (SIZE + numbers % TAIL).astype("u4")


def checksum(records: Array) -> Array:
    """A checksum of the number and the filler that depends on their order."""
    total = records["number"].astype("u8")
    for i in range(4):
        total = (total ^ records["filler"][:, i]) * FACTORS[i]
        total ^= total >> numpy.uint64(29)
    return total


def tails_of(numbers: Array) -> Array:
    """Byte k of frame i's tail is (i + k) % 256."""
    return numbers.astype("u1")[:, None] + PLACES


def number(rows: Array, lengths: Array, first: int) -> None:
    """Fills the rows with frames number `first`, first + 1 and so on."""
    numbers = numpy.arange(first, first + len(rows), dtype="u8")
    records = rows[:, :SIZE].view(FRAME)[:, 0]
    rows[:, : len(HEADER)] = HEADER
    records["number"] = numbers
    records["filler"] = (numbers[:, None] + numpy.uint64(1)) * FACTORS
    records["checksum"] = checksum(records)
    rows[:, SIZE:] = tails_of(numbers)
    lengths[:] = lengths_of(numbers)


def verify(rows: Array, lengths: Array, due: int) -> int:
    """Checks every byte of the frames, and that their numbers increase from
    `due` on. Returns the next number that may come."""
    records = rows[:, :SIZE].view(FRAME)[:, 0]
    numbers = records["number"].astype("u8")
    assert (records["checksum"] == checksum(records)).all(), (
        "a field was changed"
    )
    assert (rows[:, : len(HEADER)] == HEADER).all(), "the header was changed"
    assert (lengths == lengths_of(numbers)).all(), "a length was changed"
    inside = PLACES < (numbers % TAIL)[:, None]
    right = rows[:, SIZE:] == tails_of(numbers)
    assert (right | ~inside).all(), "the tail was changed"
    assert numbers[0] >= due, f"{numbers[0]} came after {due - 1}"
    assert (numbers[1:] > numbers[:-1]).all(), (
        "frames are out of order or duplicated"
    )
    return int(numbers[-1]) + 1


class Window:
    """Limits the number of frames in flight."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._free >= count, WAIT), (
                "frames do not arrive"
            )
            self._free -= count

    def give(self, count: int) -> None:
        with self._changed:
            self._free += count
            self._changed.notify()


def send_all(
    sock: RawSocket, total: int, take: Callable[[int], object]
) -> None:
    """Sends `total` frames, numbered from 0, in batches."""
    batch = PacketBatch(CAPACITY, SIZE + TAIL)
    rows, lengths = numpy.asarray(batch), numpy.asarray(batch.lengths)
    for first in range(0, total, CAPACITY):
        count = min(CAPACITY, total - first)
        number(rows[:count], lengths[:count], first)
        batch.set_count(count)
        take(count)
        sock.sendmmsg_all(batch)


def receive_all(
    sock: RawSocket,
    total: int,
    all_sent: threading.Event,
    give: Callable[[int], object],
) -> tuple[int, int]:
    """Receives and verifies until every frame was received or counted as
    dropped; returns both numbers."""
    batch = PacketBatch(CAPACITY, SIZE + TAIL)
    rows, lengths = numpy.asarray(batch), numpy.asarray(batch.lengths)
    sock.settimeout(0.1)
    due = received = dropped = 0
    quiet_since = time.monotonic()
    while received + dropped < total or not all_sent.is_set():
        try:
            count = sock.recvmmsg_into(batch)
        except TimeoutError:
            dropped = sock.statistics().packets_dropped or 0
            assert time.monotonic() < quiet_since + WAIT, (
                f"of {total} frames {received} came and {dropped} are counted"
                " as dropped"
            )
            continue
        due = verify(rows[:count], lengths[:count], due)
        received += count
        give(count)
        quiet_since = time.monotonic()
    return received, sock.statistics().packets_dropped or 0


def transfer(
    sender: RawSocket, receiver: RawSocket, total: int, window: Window | None
) -> tuple[int, int]:
    """Sends in one thread and receives in another. Prints the result and
    returns it."""
    all_sent = threading.Event()
    give = window.give if window else lambda count: None
    take = window.take if window else lambda count: None
    began = time.monotonic()
    receiving = Call(receive_all, receiver, total, all_sent, give)
    sending = Call(send_all, sender, total, take)
    while sending.pending and receiving.pending:
        sending.wait(0.1)
    if receiving.pending:
        all_sent.set()
    while receiving.pending:
        receiving.wait(0.1)
    received, dropped = receiving.result()
    sending.result()
    statistics = sender.statistics()
    print(
        f"sent {statistics.packets_sent}, received {received}, dropped"
        f" {dropped}, retries {statistics.send_retries},"
        f" {time.monotonic() - began:.1f} s"
    )
    assert statistics.packets_sent == total
    assert received == receiver.statistics().packets_received
    return received, dropped


def test_windowed_transfer_loses_nothing(
    veth: Veth, scaled: Callable[[int], int]
) -> None:
    """The sender waits for the receiver: all frames arrive, none is
    dropped."""
    total = scaled(100_000)
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        received, dropped = transfer(sender, sock, total, Window(WINDOW))
    assert (received, dropped) == (total, 0)


@pytest.mark.parametrize("rcvbuf", [None, 65_536])
def test_free_running_transfer_accounts_for_every_frame(
    veth: Veth, rcvbuf: int | None, scaled: Callable[[int], int]
) -> None:
    """The sender does not wait: frames received and frames dropped add up
    exactly."""
    total = scaled(100_000)
    with (
        RawSocket(veth.a, protocol=0) as sender,
        RawSocket(veth.b, rcvbuf=rcvbuf) as sock,
    ):
        received, dropped = transfer(sender, sock, total, None)
    assert received + dropped == total


@pytest.mark.no_network
def test_verification_finds_every_kind_of_damage() -> None:
    """A wrong bit in any byte, another length, another order."""
    rows = numpy.zeros((8, SIZE + TAIL), "u1")
    lengths = numpy.zeros(8, "u4")
    number(rows, lengths, 56)  # the last one has the maximum length
    assert verify(rows, lengths, 56) == 64
    for byte in range(int(lengths[7])):
        rows[7, byte] ^= 1 << byte % 8
        with pytest.raises(AssertionError):
            verify(rows, lengths, 56)
        rows[7, byte] ^= 1 << byte % 8
    lengths[3] -= 1
    with pytest.raises(AssertionError, match="a length was"):
        verify(rows, lengths, 56)
    lengths[3] += 1
    with pytest.raises(AssertionError, match="56 came after 56"):
        verify(rows, lengths, 57)
    for wrong in ([0, 2, 1], [0, 0, 1]):
        with pytest.raises(
            AssertionError, match="frames are out of order or duplicated"
        ):
            verify(rows[wrong], lengths[wrong], 56)
    assert verify(rows, lengths, 56) == 64
