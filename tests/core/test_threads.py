"""Threads that share sockets and batches: close() wakes what waits, one
direction never waits for the other, and what must not be shared is refused."""

import errno
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Final

import numpy
import pytest
from numpy.lib.stride_tricks import as_strided
from support import WAIT
from support.calls import (
    RECEIVING,
    SENDING,
    Call,
    descriptors,
    eventually,
)
from support.frames import PACKET, datagram_pair, flood, number_of, numbered
from support.programs import accept

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

IN_USE: Final = "the batch is in use by another call"


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Threads take turns as often as they can, where they have to."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def fill(sock: RawSocket) -> None:
    """Sends until there is no room, which is a few packets."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(PACKET)
    sock.setblocking(True)


def refusal(function: Callable[[], object]) -> str:
    """What a BufferError says."""
    with pytest.raises(BufferError) as caught:
        function()
    return str(caught.value)


def assert_closed_under(call: Call) -> None:
    error = call.error()
    assert isinstance(error, OSError), f"not woken by close(): {error!r}"
    assert error.errno == errno.EBADF, f"woken, but with {error!r}"


# close() and detach()


@pytest.mark.parametrize("method", [*RECEIVING, *SENDING])
def test_close_wakes_a_call_that_waits(
    method: str, busy_threads: None, scaled: Callable[[int], int]
) -> None:
    """Also one that is just about to wait: half of the rounds do not look."""
    before = descriptors()
    rounds = 1_000 if method in ("recvmmsg_into", "sendmmsg_all") else 200
    for number in range(scaled(rounds)):
        peer, sock = datagram_pair()
        with peer, sock:
            if method in SENDING:
                fill(sock)
            call = Call((RECEIVING | SENDING)[method], sock)
            if number % 2 == 0:
                call.until_blocked()
            sock.close()
            assert_closed_under(call)
    assert descriptors() == before, "descriptors leak"


@pytest.mark.parametrize("method", RECEIVING)
def test_close_wakes_a_receive_on_an_interface_at_once(
    veth: Veth, method: str, scaled: Callable[[int], int]
) -> None:
    """Not at the end of the second after which the interface is looked at."""
    before = descriptors()
    waited = []
    # Closing a packet socket waits for the network's readers: 10 ms or more.
    for _ in range(scaled(25)):
        with RawSocket(veth.b) as sock:
            call = Call(RECEIVING[method], sock)
            call.until_blocked()
            began = time.monotonic()
            sock.close()
            assert_closed_under(call)
            waited.append(call.ended_at - began)
    assert descriptors() == before, "descriptors leak"
    assert median(waited) < 0.5, "woken late"


def test_close_wakes_all_calls_that_wait() -> None:
    peer, sock = datagram_pair()
    with peer, sock:
        fill(sock)
        calls = [
            Call(method, sock)
            for method in [*RECEIVING.values(), *SENDING.values()] * 2
        ]
        for call in calls:
            call.until_blocked()
        sock.close()
        for call in calls:
            assert_closed_under(call)


def test_close_ends_a_call_that_packets_keep_busy(veth: Veth) -> None:
    with flood(veth.a, [PACKET]), RawSocket(veth.b) as sock:
        batch = PacketBatch(16)

        def receive() -> None:
            while True:
                sock.recvmmsg_into(batch)

        with Call(receive) as call:
            eventually(
                lambda: sock.statistics().packets_received > 0, "none received"
            )
            sock.close()
        assert_closed_under(call)


def test_close_ends_a_sendmmsg_all_that_need_not_wait(veth: Veth) -> None:
    packets = [PACKET] * 2_000_000
    with RawSocket(veth.a, protocol=0) as sock:
        with Call(sock.sendmmsg_all, packets) as call:
            eventually(lambda: sock.statistics().packets_sent > 0, "none sent")
            sock.close()
        assert_closed_under(call)
    error = call.error()
    assert 0 < error.packets_sent < len(packets)  # type: ignore[union-attr]


def test_closed_socket_takes_no_packet(veth: Veth) -> None:
    """Nothing of the caller's is written after close() has returned and the
    call has ended."""
    memory = bytearray(2048)
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        with Call(sock.recv_into, memory) as call:
            call.until_blocked()
            sock.close()
        assert_closed_under(call)
        sender.sendmmsg_all([PACKET])
    assert memory == bytes(2048)


def test_kernels_close_wakes_nothing_and_even_delivers(veth: Veth) -> None:
    """Why there is an eventfd: close(2) of a descriptor leaves a call on it
    waiting, which then receives on the closed socket; and shutdown(2), which
    would wake it, does not exist here."""
    with RawSocket(veth.a, protocol=0) as sender:
        receiver = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)
        )
        receiver.bind((veth.b, 3))
        with pytest.raises(OSError, match="not supported") as caught:
            receiver.shutdown(socket.SHUT_RDWR)
        assert caught.value.errno == errno.EOPNOTSUPP
        number = receiver.fileno()
        seen = threading.Event()

        def receive() -> bytes:
            seen.set()
            return os.read(number, 2048)

        with Call(receive) as call:
            assert seen.wait(WAIT)
            # Neither finds out that it is blocked; a moment must do.
            time.sleep(0.1)
            receiver.close()
            time.sleep(0.1)
            assert call.pending, "close(2) woke the call"
            sender.sendmmsg_all([PACKET])
        assert call.result() == PACKET


def test_close_by_many_threads_closes_once(
    scaled: Callable[[int], int],
) -> None:
    """A second close of the same number would hit what another thread has
    just opened under it."""
    before = descriptors()
    threads = 8
    for number in range(scaled(50)):
        peer, sock = datagram_pair()
        barrier = threading.Barrier(threads)

        def close_and_open(
            sock: RawSocket = sock, barrier: threading.Barrier = barrier
        ) -> list[int]:
            barrier.wait(WAIT)
            sock.close()
            return list(os.pipe())

        with peer:
            receive = Call(sock.recv, 2048) if number % 2 else None
            calls = [Call(close_and_open) for _ in range(threads)]
            opened = [one for call in calls for one in call.result()]
            if receive is not None:
                assert_closed_under(receive)
        for one in opened:
            os.close(one)  # EBADF: somebody closed it before
    assert descriptors() == before, "descriptors leak"


def test_close_and_detach_at_once_give_the_descriptor_to_one(
    scaled: Callable[[int], int],
) -> None:
    before = descriptors()
    for _ in range(scaled(200)):
        peer, sock = datagram_pair()
        barrier = threading.Barrier(2)

        def run(
            method: Callable[[], Any], barrier: threading.Barrier = barrier
        ) -> Any:
            barrier.wait(WAIT)
            return method()

        with peer, sock:
            calls = [Call(run, sock.close), Call(run, sock.detach)]
            _, detached = [call.result() for call in calls]
            if detached != -1:
                os.close(detached)  # EBADF: close() had it too
    assert descriptors() == before, "neither closed it"


@pytest.mark.parametrize("method", [*RECEIVING, *SENDING])
def test_detach_with_a_call_in_flight_is_ebusy(method: str) -> None:
    peer, sock = datagram_pair()
    with peer, sock:
        if method in SENDING:
            fill(sock)
        with Call((RECEIVING | SENDING)[method], sock) as call:
            call.until_blocked()
            number = sock.fileno()
            with pytest.raises(OSError, match="detach: ") as caught:
                sock.detach()
            assert caught.value.errno == errno.EBUSY
            assert sock.fileno() == number, "refused, but not as it was"
            assert call.pending, "the refusal ended the call"
            sock.close()
        assert_closed_under(call)


def test_detach_works_when_the_call_has_ended() -> None:
    peer, sock = datagram_pair()
    with peer, sock:
        with Call(sock.recv, 2048) as call:
            call.until_blocked()
            peer.send(PACKET)
        assert call.result() == PACKET
        os.close(sock.detach())


# One direction never waits for the other


def test_sending_does_not_wait_for_a_receive(veth: Veth) -> None:
    with RawSocket(veth.a) as far, RawSocket(veth.b) as sock:
        far.settimeout(WAIT)
        with Call(sock.recv, 2048) as call:
            call.until_blocked()
            assert sock.sendmmsg([PACKET]) == 1
            sock.sendmmsg_all([PACKET])
            assert sock.send(PACKET) == len(PACKET)
            for _ in range(3):
                assert far.recv(2048) == PACKET
            assert call.pending
            far.send(PACKET)
        assert call.result() == PACKET


def test_receiving_does_not_wait_for_a_send() -> None:
    peer, sock = datagram_pair()
    with peer, sock:
        fill(sock)
        with Call(sock.send, PACKET) as call:
            call.until_blocked()
            for method in RECEIVING.values():
                peer.send(PACKET)
                method(sock)
            assert call.pending
            sock.close()
        assert_closed_under(call)


def test_options_do_not_wait_for_a_receive(veth: Veth) -> None:
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        with Call(sock.recv, 2048) as call:
            call.until_blocked()
            sock.attach_filter(accept(14))
            sock.statistics()
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            sock.settimeout(1)
            assert sock.getsockname()[0] == veth.b
            assert call.pending
            sender.send(PACKET)
        assert call.result() == PACKET[:14], "the new filter is not in force"


def test_both_directions_at_once_lose_nothing(veth: Veth) -> None:
    """Two threads on each of two sockets, as Scapy's use of one."""
    count, window = 5_000, 50

    def send(sock: RawSocket, room: threading.Semaphore) -> None:
        for first in range(0, count, window):
            assert room.acquire(timeout=WAIT)
            sock.sendmmsg_all([numbered(first + i) for i in range(window)])

    def receive(sock: RawSocket, room: threading.Semaphore) -> list[int]:
        batch = PacketBatch(64)
        numbers: list[int] = []
        while len(numbers) < count:
            windows = len(numbers) // window
            sock.recvmmsg_into(batch)
            numbers += map(number_of, batch.tolist())
            for _ in range(len(numbers) // window - windows):
                room.release()
        return numbers

    with RawSocket(veth.a) as a, RawSocket(veth.b) as b:
        a.settimeout(WAIT)
        b.settimeout(WAIT)
        # Without privilege a receive buffer holds a few hundred packets.
        at_a, at_b = threading.Semaphore(4), threading.Semaphore(4)
        calls = [
            Call(receive, a, at_a),
            Call(receive, b, at_b),
            Call(send, a, at_b),
            Call(send, b, at_a),
        ]
        received = [call.result() for call in calls[:2]]
        for call in calls[2:]:
            call.result()
    assert received == [list(range(count))] * 2


def test_two_receivers_get_every_packet_exactly_once(
    veth: Veth, busy_threads: None
) -> None:
    count, window = 20_000, 200
    taken: list[list[int]] = [[], []]
    done = threading.Event()

    def receive(sock: RawSocket, numbers: list[int]) -> None:
        batch = PacketBatch(16)
        while not done.is_set():
            try:
                sock.recvmmsg_into(batch)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                return
            numbers += map(number_of, batch.tolist())

    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        calls = [Call(receive, sock, numbers) for numbers in taken]

        def all_taken() -> bool:
            sent = sender.statistics().packets_sent
            return sum(map(len, taken)) == sent

        for first in range(0, count, window):
            sender.sendmmsg_all([numbered(first + i) for i in range(window)])
            eventually(all_taken, "packets are missing")
        received = sock.statistics().packets_received
        done.set()
        sock.close()
        for call in calls:
            call.result()
    assert sorted(itertools.chain(*taken)) == list(range(count))
    assert received == count
    for numbers in taken:
        assert numbers == sorted(numbers), "order is lost within a thread"


def test_statistics_in_many_threads_count_each_drop_once(veth: Veth) -> None:
    """The kernel forgets what it has told."""
    stop = threading.Event()
    with RawSocket(veth.b, rcvbuf=4096) as sock:

        def read() -> int:
            most = 0
            while not stop.is_set():
                dropped = sock.statistics().packets_dropped
                assert dropped is not None
                assert dropped >= most, "the count went back"
                most = dropped
            return most

        readers = [Call(read) for _ in range(3)]
        with RawSocket(veth.a, protocol=0) as sender:
            for _ in range(50):
                sender.sendmmsg_all([PACKET] * 100)
        stop.set()
        for reader in readers:
            reader.result()
        sock.setblocking(False)
        batch = PacketBatch()
        with pytest.raises(BlockingIOError):
            while True:
                sock.recvmmsg_into(batch)
        received, dropped, *_ = sock.statistics()
        assert dropped is not None
        assert dropped > 0
        assert received + dropped == 5_000


# A batch in two threads


def test_batch_of_a_call_that_waits_is_refused_to_every_other() -> None:
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
            # What does not touch the packets is not refused.
            assert (len(batch), batch.capacity) == (2, 4)
            assert batch.lengths[1] == 3
            assert numpy.asarray(batch).shape == (4, 2048)
            assert call.pending
            peer.send(b"one")
        assert call.result() == 1
        assert batch.tolist() == [b"one"]
        assert sock2.recvmmsg_into(batch) == 1, "a refusal took the packet"


def test_batch_being_sent_is_refused_to_every_other() -> None:
    peer, sock = datagram_pair()
    batch = PacketBatch(4)
    batch.extend([PACKET, b"two"])
    with peer, sock:
        fill(sock)
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
        assert_closed_under(call)
    assert batch.tolist() == [PACKET, b"two"]


def test_two_threads_receive_into_one_batch_without_corruption(
    veth: Veth, busy_threads: None
) -> None:
    """One has it, the other is refused; what is copied out is whole."""
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


def test_indexing_while_another_thread_receives(
    veth: Veth, busy_threads: None, scaled: Callable[[int], int]
) -> None:
    """A view of a whole frame, or an error: never memory beyond it."""
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
        # Once more when nobody receives any more: then nothing is in use.
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


# `lengths`, lists and buffers that change under a call


class Flipper:
    """Flips the length of packet 0 between a good and a bad one, all the time:
    a single numpy call, which holds no lock meanwhile, writes the one entry a
    million times."""

    def __init__(self, batch: PacketBatch, good: int, bad: int) -> None:
        entry = numpy.asarray(batch.lengths)[:1]
        entry[0] = good
        self._entry = as_strided(entry, (1_000_000,), (0,))
        self._values = numpy.tile(numpy.array([bad, good], "u4"), 500_000)
        self._stop = threading.Event()
        self._call = Call(self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            numpy.copyto(self._entry, self._values)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._call.result()


@pytest.fixture(params=[61, 2**32 - 1], ids=["one too long", "4 GiB"])
def bad_length(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def outcomes(function: Callable[[], Any]) -> Iterator[Any]:
    """What it returns, each time that it does not refuse the length; until it
    has done both."""
    deadline = time.monotonic() + WAIT
    taken = refused = 0
    while taken + refused < 20_000 or 0 in (taken, refused):
        assert time.monotonic() < deadline, "the length does not change"
        try:
            result = function()
        except ValueError as error:
            assert "beyond the frame" in str(error)
            refused += 1
        else:
            taken += 1
            yield result


def neighbours() -> PacketBatch:
    """A frame of 60 bytes, and right behind it another's."""
    batch = PacketBatch(
        buffer=bytearray(b"\x01" * 60 + b"\x02" * 60), capacity=2
    )
    batch.set_count(1)
    return batch


def test_length_written_during_tolist_never_reaches_beyond_the_frame(
    busy_threads: None, bad_length: int
) -> None:
    batch = neighbours()
    with Flipper(batch, 60, bad_length):
        for packets in outcomes(batch.tolist):
            assert packets == [b"\x01" * 60]


def test_length_written_during_indexing_never_reaches_beyond_the_frame(
    busy_threads: None, bad_length: int
) -> None:
    batch = neighbours()
    with Flipper(batch, 60, bad_length):
        for view in outcomes(lambda: batch[0]):
            assert view == b"\x01" * 60


@pytest.mark.parametrize("method", ["sendmmsg", "sendmmsg_all"])
def test_length_written_during_send_never_reaches_beyond_the_frame(
    busy_threads: None, method: str, bad_length: int
) -> None:
    batch = neighbours()
    peer, sock = datagram_pair()
    with peer, sock, Flipper(batch, 60, bad_length):
        for _ in outcomes(lambda: getattr(sock, method)(batch)):
            assert peer.recv(2048) == b"\x01" * 60


def test_list_changed_by_another_thread_during_send(
    veth: Veth, busy_threads: None, scaled: Callable[[int], int]
) -> None:
    """Each packet sent was in the list; a list that became too short is an
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
                        "the threads do not mix"
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
        fill(sock)
        with Call(sock.sendmmsg, [packet, parts]) as call:
            call.until_blocked()
            # A bytearray has no lock; this call and the other one have.
            sock.statistics()
            for buffer in (packet, *parts):
                with pytest.raises(BufferError):
                    buffer.append(0)
            sock.close()
        assert_closed_under(call)
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


def test_socket_and_batch_dropped_during_a_call_live_until_it_ends() -> None:
    """The call holds what it uses, when nobody else does."""
    peer, sock = datagram_pair()
    with peer:
        batch = PacketBatch(2)
        lengths = batch.lengths
        call = Call(sock.recvmmsg_into, batch)
        call.until_blocked()
        number = os.dup(sock.fileno())
        keep = [sock]
        del sock, batch
        peer.send(b"held")
        assert call.result() == 1
        assert lengths[0] == 4
        keep.pop().close()
        os.close(number)
