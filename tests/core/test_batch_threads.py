"""Threads that share a batch: conflicting uses are refused, and memory that
changes during a call does no harm."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import numpy
import pytest
from numpy.lib.stride_tricks import as_strided
from support import WAIT
from support.calls import (
    Call,
    assert_ended_by_close,
    eventually,
    fill_send_queue,
    outcomes,
    repeating,
)
from support.frames import PACKET, datagram_pair, flood, number_of, numbered

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

IN_USE: Final = "the batch is in use by another call"


def refusal(function: Callable[[], object]) -> str:
    """Returns the message of the BufferError that the function raises."""
    with pytest.raises(BufferError) as caught:
        function()
    return str(caught.value)


# A batch in two threads


def test_batch_of_a_waiting_receive_is_refused_elsewhere() -> None:
    peer, sock = datagram_pair()
    peer2, sock2 = datagram_pair()
    batch = PacketBatch(4)
    batch.extend([PACKET, b"two"])
    with peer, sock, peer2, sock2:
        sock2.setblocking(False)
        peer2.send(PACKET)
        with Call(sock.recvmmsg_into, batch) as call:
            call.until_blocked()
            for use in (
                lambda: sock2.recvmmsg_into(batch),
                lambda: sock2.sendmmsg(batch),
                lambda: sock2.sendmmsg_all(batch),
                lambda: batch.append(PACKET),
                lambda: batch.extend([PACKET]),
                lambda: batch.set_count(1),
                batch.clear,
                batch.tolist,
                lambda: batch[0],
                lambda: list(batch),
            ):
                assert refusal(use) == IN_USE
            # Uses that do not touch the packets are allowed.
            assert (len(batch), batch.capacity) == (2, 4)
            assert batch.lengths[1] == 3
            assert numpy.asarray(batch).shape == (4, 2048)
            assert call.pending
            peer.send(b"one")
        assert call.result() == 1
        assert batch.tolist() == [b"one"]
        assert sock2.recvmmsg_into(batch) == 1, (
            "a refused call took the packet"
        )


def test_batch_being_sent_is_refused_elsewhere() -> None:
    peer, sock = datagram_pair()
    batch = PacketBatch(4)
    batch.extend([PACKET, b"two"])
    with peer, sock:
        fill_send_queue(sock)
        with Call(sock.sendmmsg_all, batch) as call:
            call.until_blocked()
            for use in (
                lambda: sock.recvmmsg_into(batch),
                lambda: sock.sendmmsg(batch),
                lambda: batch.append(PACKET),
                batch.clear,
                batch.tolist,
                lambda: batch[0],
            ):
                assert refusal(use) == IN_USE
            sock.close()
        assert_ended_by_close(call)
    assert batch.tolist() == [PACKET, b"two"]


def test_two_threads_receive_into_one_batch_without_corruption(
    veth: Veth, busy_threads: None
) -> None:
    """One thread has the batch and the other is refused. Every copied packet
    is intact."""
    frames = [numbered(i, 64 + i) for i in range(64)]
    batch = PacketBatch(8, 256)
    stop = threading.Event()

    def receive(sock: RawSocket, counts: dict[str, int]) -> None:
        while not stop.is_set():
            try:
                counts["received"] += sock.recvmmsg_into(batch)
                packets = batch.tolist()
            except BufferError as error:
                assert str(error) == IN_USE
                counts["refused"] += 1
                continue
            for packet in packets:
                assert len(packet) == 64 + number_of(packet)
            counts["copied"] += 1

    counts = [
        dict.fromkeys(["received", "refused", "copied"], 0) for _ in range(3)
    ]

    def total(what: str) -> int:
        return sum(count[what] for count in counts)

    with flood(veth.a, frames), RawSocket(veth.b) as sock:
        sock.settimeout(WAIT)
        calls = [Call(receive, sock, count) for count in counts]
        eventually(
            lambda: (
                (total("copied") >= 200 and total("refused") > 0)
                or not all(call.pending for call in calls)
            ),
            f"no turns: {counts}",
        )
        stop.set()
        for call in calls:
            call.result()
        assert total("received") == sock.statistics().packets_received, (
            "packets were counted twice, or lost"
        )


def test_indexing_during_a_receive_gives_a_frame_or_an_error(
    veth: Veth, busy_threads: None, scaled: Callable[[int], int]
) -> None:
    """Never memory beyond the frame."""
    sizes = {64, 65, 100, 200}
    batch = PacketBatch(8, 256)
    done = threading.Event()

    def receive(sock: RawSocket) -> None:
        try:
            for _ in range(scaled(1_000)):
                sock.recvmmsg_into(batch)
        finally:
            done.set()

    def look(index: int) -> None:
        views, last = 0, False
        # Once more after the last receive, when the batch is not in use.
        while not last:
            last = done.is_set()
            try:
                view = batch[index]
            except (BufferError, IndexError):
                continue
            assert view.nbytes in sizes
            assert bytes(view[12:14]) == b"\x88\xb5"
            views += 1
        assert views > 0 or len(batch) <= index

    frames = [numbered(size, size) for size in sorted(sizes)]
    with flood(veth.a, frames), RawSocket(veth.b) as sock:
        sock.settimeout(WAIT)
        receiver = Call(receive, sock)
        lookers = [Call(look, index) for index in (0, 3, -1)]
        receiver.result()
        for looker in lookers:
            looker.result()


def test_batch_is_filled_by_two_threads_without_a_gap(
    busy_threads: None,
) -> None:
    batch = PacketBatch(4_000, 64)

    def fill_up(mark: bytes) -> int:
        filled = 0
        while filled < 2_000:
            try:
                batch.append(mark * (1 + filled % 60))
            except BufferError:
                continue
            filled += 1
        return filled

    for call in [Call(fill_up, b"a"), Call(fill_up, b"b")]:
        assert call.result() == 2_000
    packets = batch.tolist()
    for mark in (b"a", b"b"):
        mine = [packet for packet in packets if packet.startswith(mark)]
        assert mine == [mark * (1 + i % 60) for i in range(2_000)]


# `lengths`, lists and buffers that change during a call


@contextmanager
def flipping_length(batch: PacketBatch, good: int, bad: int) -> Iterator[None]:
    """Switches the length of packet 0 between a valid and an invalid value. A
    single call of numpy, which does not hold the GIL, writes the entry a
    million times."""
    lengths = numpy.asarray(batch.lengths)
    lengths[0] = good
    entry = as_strided(lengths[:1], (1_000_000,), (0,))
    values = numpy.tile(numpy.array([bad, good], "u4"), 500_000)
    with repeating(lambda: numpy.copyto(entry, values)):
        yield


@pytest.fixture(params=[61, 2**32 - 1], ids=["one too long", "4 GiB"])
def bad_length(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def neighbours() -> PacketBatch:
    """Two adjacent frames of 60 bytes; the batch holds the first."""
    batch = PacketBatch(
        buffer=bytearray(b"\x01" * 60 + b"\x02" * 60), capacity=2
    )
    batch.set_count(1)
    return batch


def test_length_written_during_tolist_never_reaches_beyond_the_frame(
    busy_threads: None, bad_length: int
) -> None:
    batch = neighbours()
    with flipping_length(batch, 60, bad_length):
        for packets in outcomes(batch.tolist):
            assert packets == [b"\x01" * 60]


def test_length_written_during_indexing_never_reaches_beyond_the_frame(
    busy_threads: None, bad_length: int
) -> None:
    batch = neighbours()
    with flipping_length(batch, 60, bad_length):
        for view in outcomes(lambda: batch[0]):
            assert view == b"\x01" * 60


@pytest.mark.parametrize("method", ["segment_into", "merge_into"])
def test_length_written_during_a_conversion_never_reaches_beyond_the_frame(
    busy_threads: None, method: str, bad_length: int
) -> None:
    batch, target = neighbours(), PacketBatch(1)
    convert = partial(getattr(batch, method), target)
    with flipping_length(batch, 60, bad_length):
        for _ in outcomes(convert, "more than the frame holds"):
            assert target.tolist() == [b"\x01" * 60]


@pytest.mark.parametrize("method", ["sendmmsg", "sendmmsg_all"])
def test_length_written_during_send_never_reaches_beyond_the_frame(
    busy_threads: None, method: str, bad_length: int
) -> None:
    batch = neighbours()
    peer, sock = datagram_pair()
    with peer, sock, flipping_length(batch, 60, bad_length):
        for _ in outcomes(lambda: getattr(sock, method)(batch)):
            assert peer.recv(2048) == b"\x01" * 60


def test_list_changed_by_another_thread_during_send(
    veth: Veth, busy_threads: None, scaled: Callable[[int], int]
) -> None:
    """Each packet sent was in the list. A list that became too short is an
    IndexError."""
    every = [numbered(i) for i in range(200)]
    packets = list(every)
    stop = threading.Event()
    changes = 0

    def change() -> None:
        nonlocal changes
        for turn in itertools.cycle(range(4)):
            if stop.is_set():
                return
            changes += 1
            if turn == 0:
                packets.clear()
            elif turn == 1:
                packets.extend(every)
            elif turn == 2:
                packets[0] = packets.pop()
            else:
                del packets[50:]

    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        sock.setblocking(False)
        batch = PacketBatch(256, 128)
        received = turns = 0
        deadline = time.monotonic() + WAIT
        with Call(change) as changer:
            try:
                while turns < scaled(500) or changes < 500 or received == 0:
                    assert time.monotonic() < deadline, (
                        "the threads do not interleave"
                    )
                    turns += 1
                    try:
                        if turns % 2:
                            sender.sendmmsg(packets)
                        else:
                            sender.sendmmsg_all(packets)
                    except IndexError:
                        pass
                    try:
                        received += sock.recvmmsg_into(batch)
                    except BlockingIOError:
                        continue
                    for packet in batch.tolist():
                        assert 0 <= number_of(packet) < 200
            finally:
                stop.set()
        changer.result()


def test_buffers_being_sent_cannot_be_resized() -> None:
    """The kernel reads them until the call ends."""
    peer, sock = datagram_pair()
    packet = bytearray(PACKET)
    parts = (bytearray(b"head"), bytearray(b"tail"))
    with peer, sock:
        fill_send_queue(sock)
        with Call(sock.sendmmsg, [packet, parts]) as call:
            call.until_blocked()
            # A bytearray has no lock, but both calls have one.
            sock.statistics()
            for buffer in (packet, *parts):
                with pytest.raises(BufferError):
                    buffer.append(0)
            sock.close()
        assert_ended_by_close(call)
        for buffer in (packet, *parts):
            buffer.append(0)


def test_buffer_being_received_into_cannot_be_resized() -> None:
    peer, sock = datagram_pair()
    memory = bytearray(64)
    with peer, sock:
        with Call(sock.recv_into, memory) as call:
            call.until_blocked()
            # A bytearray has no lock; this call and the other one have.
            sock.statistics()
            with pytest.raises(BufferError):
                memory.append(0)
            peer.send(b"x")
        assert call.result() == 1
    memory.append(0)
