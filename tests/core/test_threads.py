"""Threads that share a socket: close() wakes calls that wait, and one
direction never waits for the other."""

import errno
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
from support import WAIT
from support.calls import (
    RECEIVING,
    SENDING,
    Call,
    assert_ended_by_close,
    eventually,
    fill_send_queue,
    raises,
)
from support.frames import PACKET, datagram_pair, flood, number_of, numbered
from support.linux import descriptors
from support.programs import accept

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

# close() and detach()


@pytest.mark.parametrize("method", [*RECEIVING, *SENDING])
def test_close_wakes_a_call_that_waits(
    method: str, busy_threads: None, scaled: Callable[[int], int]
) -> None:
    """Also a call that is about to wait: every second round does not check
    that it waits."""
    before = descriptors()
    rounds = 1_000 if method in ("recvmmsg_into", "sendmmsg_all") else 200
    for number in range(scaled(rounds)):
        peer, sock = datagram_pair()
        with peer, sock:
            if method in SENDING:
                fill_send_queue(sock)
            call = Call((RECEIVING | SENDING)[method], sock)
            if number % 2 == 0:
                call.until_blocked()
            sock.close()
            assert_ended_by_close(call)
    assert descriptors() == before, "descriptors were left open"


@pytest.mark.parametrize("method", RECEIVING)
def test_close_wakes_a_receive_on_an_interface_at_once(
    veth: Veth, method: str, scaled: Callable[[int], int]
) -> None:
    """Not only after the second that a wait on an interface lasts at most."""
    before = descriptors()
    waited = []
    # Closing a packet socket waits for the kernel's readers
    # (synchronize_net()), 10 ms or more.
    for _ in range(scaled(25)):
        with RawSocket(veth.b) as sock:
            call = Call(RECEIVING[method], sock)
            call.until_blocked()
            began = time.monotonic()
            sock.close()
            assert_ended_by_close(call)
            waited.append(call.ended_at - began)
    assert descriptors() == before, "descriptors were left open"
    assert median(waited) < 0.5, "the call ended late"


def test_close_wakes_all_calls_that_wait() -> None:
    peer, sock = datagram_pair()
    with peer, sock:
        fill_send_queue(sock)
        calls = [
            Call(method, sock)
            for method in [*RECEIVING.values(), *SENDING.values()] * 2
        ]
        for call in calls:
            call.until_blocked()
        sock.close()
        for call in calls:
            assert_ended_by_close(call)


def test_close_ends_a_call_under_constant_traffic(veth: Veth) -> None:
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
        assert_ended_by_close(call)


def test_close_ends_a_sendmmsg_all_that_never_waits(veth: Veth) -> None:
    packets = [PACKET] * 2_000_000
    with RawSocket(veth.a, protocol=0) as sock:
        with Call(sock.sendmmsg_all, packets) as call:
            eventually(lambda: sock.statistics().packets_sent > 0, "none sent")
            sock.close()
        assert_ended_by_close(call)
    error = call.error()
    assert 0 < error.packets_sent < len(packets)  # type: ignore[union-attr]


def test_closed_socket_receives_no_packet(veth: Veth) -> None:
    """Nothing is written to the caller's memory after close() has returned and
    the call has ended."""
    memory = bytearray(2048)
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        with Call(sock.recv_into, memory) as call:
            call.until_blocked()
            sock.close()
        assert_ended_by_close(call)
        sender.sendmmsg_all([PACKET])
    assert memory == bytes(2048)


def test_close_of_the_kernel_does_not_wake_a_call(veth: Veth) -> None:
    """This is why there is an eventfd. After close(2) on its descriptor, a
    call still waits, and then receives on the closed socket. Packet sockets do
    not support shutdown(2), which would wake it."""
    with RawSocket(veth.a, protocol=0) as sender:
        receiver = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)
        )
        receiver.bind((veth.b, 3))
        with raises(errno.EOPNOTSUPP):
            receiver.shutdown(socket.SHUT_RDWR)
        number = receiver.fileno()
        seen = threading.Event()

        def receive() -> bytes:
            seen.set()
            return os.read(number, 2048)

        with Call(receive) as call:
            assert seen.wait(WAIT)
            # A wait in recv(2) cannot be observed, so this only sleeps.
            time.sleep(0.1)
            receiver.close()
            time.sleep(0.1)
            assert call.pending, "close(2) ended the call"
            sender.sendmmsg_all([PACKET])
        assert call.result() == PACKET


def test_close_by_many_threads_closes_once(
    scaled: Callable[[int], int],
) -> None:
    """A second close of the same number would close a descriptor that another
    thread has just opened."""
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
                assert_ended_by_close(receive)
        for one in opened:
            os.close(one)  # EBADF: another thread closed it first
    assert descriptors() == before, "descriptors were left open"


def test_either_close_or_detach_gets_the_descriptor(
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
                os.close(detached)  # EBADF: close() closed it
    assert descriptors() == before, "nobody closed it"


@pytest.mark.parametrize("method", [*RECEIVING, *SENDING])
def test_detach_with_a_call_in_flight_is_ebusy(method: str) -> None:
    peer, sock = datagram_pair()
    with peer, sock:
        if method in SENDING:
            fill_send_queue(sock)
        with Call((RECEIVING | SENDING)[method], sock) as call:
            call.until_blocked()
            number = sock.fileno()
            with pytest.raises(OSError, match="detach: ") as caught:
                sock.detach()
            assert caught.value.errno == errno.EBUSY
            assert sock.fileno() == number, (
                "the refused detach() changed the socket"
            )
            assert call.pending, "the refused detach() ended the call"
            sock.close()
        assert_ended_by_close(call)


def test_detach_works_after_the_call_has_ended() -> None:
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
        fill_send_queue(sock)
        with Call(sock.send, PACKET) as call:
            call.until_blocked()
            for method in RECEIVING.values():
                peer.send(PACKET)
                method(sock)
            assert call.pending
            sock.close()
        assert_ended_by_close(call)


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
        assert call.result() == PACKET[:14], "the new filter has no effect"


def test_both_directions_work_at_once(veth: Veth) -> None:
    """Two threads on each of two sockets."""
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
        # Without privilege, a receive buffer holds only a few hundred packets.
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
        assert numbers == sorted(numbers), (
            "a thread received packets out of order"
        )


def test_statistics_in_many_threads_count_each_drop_once(veth: Veth) -> None:
    """Reading the kernel's counters resets them."""
    stop = threading.Event()
    with RawSocket(veth.b, rcvbuf=4096) as sock:

        def read() -> int:
            most = 0
            while not stop.is_set():
                dropped = sock.statistics().packets_dropped
                assert dropped is not None
                assert dropped >= most, "the count decreased"
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


def test_call_keeps_its_socket_and_batch_alive() -> None:
    """Even if nothing else refers to them."""
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
