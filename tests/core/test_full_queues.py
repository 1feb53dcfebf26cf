"""Sending when a queue is full: on the interface, or of the socket."""

import errno
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import pytest
from support import WAIT
from support.calls import Call, eventually, packets_sent, raises
from support.frames import (
    datagram_pair,
    frame,
    numbered,
    numbered_frames,
    pending,
    receive,
)
from support.linux import ip, tc

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

# Full queues


BIG: Final = numbered(0, 1_000)
Throttle: TypeAlias = Callable[[str, int], None]


@pytest.fixture
def throttle(pair: Veth) -> Iterator[Throttle]:
    """Puts a token bucket filter, tc-tbf(8), in front of the sender: a rate,
    and the bytes that may queue."""

    def throttle(rate: str, limit: int) -> None:
        tc(
            *("qdisc", "replace", "dev", pair.a, "root"),
            *("tbf", "burst", "2000", "rate", rate, "limit", str(limit)),
        )

    yield throttle
    tc("qdisc", "delete", "dev", pair.a, "root")


@pytest.fixture
def stopped(throttle: Throttle, sender: RawSocket) -> RawSocket:
    """A sender with a full queue, which empties too slowly to matter."""
    throttle("100bit", 3_000)
    with raises(errno.ENOBUFS):
        for _ in range(100):
            sender.send(BIG)
    return sender


def test_full_queue_is_an_immediate_error_of_sendmmsg_and_send(
    stopped: RawSocket,
) -> None:
    """Even on a blocking socket: they do not try again."""
    for _ in range(3):
        with raises(errno.ENOBUFS):
            stopped.sendmmsg([BIG])
        with raises(errno.ENOBUFS):
            stopped.send(BIG)
    assert stopped.statistics().send_retries == 0


def test_poll_reports_a_socket_with_a_full_queue_as_writable(
    stopped: RawSocket,
) -> None:
    """This is why sendmmsg_all() pauses instead of polling."""
    poll = select.poll()
    poll.register(stopped.fileno(), select.POLLOUT)
    with raises(errno.ENOBUFS):
        stopped.send(BIG)
    assert poll.poll(0) == [(stopped.fileno(), select.POLLOUT)]


def test_sendmmsg_returns_the_count_when_the_queue_fills_up(
    throttle: Throttle, sender: RawSocket, receiver: RawSocket
) -> None:
    throttle("100bit", 3_000)
    count = sender.sendmmsg([BIG] * 20)
    assert 0 < count < 20
    with raises(errno.ENOBUFS):
        sender.sendmmsg([BIG] * 20, start=count)
    assert sender.statistics().packets_sent == count


def test_sendmmsg_all_waits_for_a_full_queue_until_the_timeout(
    stopped: RawSocket,
) -> None:
    sent = stopped.statistics().packets_sent
    stopped.settimeout(0.2)
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        stopped.sendmmsg_all([BIG] * 5)
    assert time.monotonic() - began >= 0.2, "the call timed out early"
    assert packets_sent(caught.value) == 0
    statistics = stopped.statistics()
    assert statistics.send_retries > 0, "the retries were not counted"
    assert statistics.packets_sent == sent


def test_sendmmsg_all_without_a_timeout_raises_after_a_second(
    stopped: RawSocket,
) -> None:
    began = time.monotonic()
    with raises(errno.ENOBUFS) as caught:
        stopped.sendmmsg_all([BIG] * 5)
    assert 1.0 <= time.monotonic() - began < WAIT
    assert packets_sent(caught.value) == 0
    # The pauses grow. Without them there would be a hundred thousand retries.
    assert 0 < stopped.statistics().send_retries < 1_000


def test_nonblocking_sendmmsg_all_does_not_retry(
    stopped: RawSocket,
) -> None:
    stopped.setblocking(False)
    with raises(errno.ENOBUFS) as caught:
        stopped.sendmmsg_all([BIG])
    assert packets_sent(caught.value) == 0
    assert stopped.statistics().send_retries == 0


def test_error_of_a_full_queue_has_packets_sent(
    throttle: Throttle, sender: RawSocket
) -> None:
    throttle("100bit", 3_000)
    sender.settimeout(0.05)
    with pytest.raises(TimeoutError) as caught:
        sender.sendmmsg_all([BIG] * 20)
    statistics = sender.statistics()
    assert 0 < packets_sent(caught.value) == statistics.packets_sent < 20


def test_close_ends_the_pause_after_a_full_queue(stopped: RawSocket) -> None:
    with Call(stopped.sendmmsg_all, [BIG]) as call:
        call.until_blocked()
        stopped.close()
    error = call.error()
    assert isinstance(error, OSError)
    assert error.errno == errno.EBADF
    assert packets_sent(error) == 0


def test_sendmmsg_all_over_a_slow_queue_delivers_everything_in_order(
    throttle: Throttle,
    sender: RawSocket,
    receiver: RawSocket,
    shape: Callable[..., Any],
) -> None:
    """Nearly every packet finds the queue full."""
    throttle("20mbit", 3_000)
    given = numbered_frames(200, 1_000)
    sender.sendmmsg_all(shape(given))
    assert receive(receiver, 200) == given
    assert pending(receiver) == [], "a packet was sent twice"
    statistics = sender.statistics()
    assert statistics.packets_sent == 200
    assert statistics.send_retries > 0


def test_every_packet_sent_restarts_the_second_without_progress(
    throttle: Throttle, sender: RawSocket, receiver: RawSocket
) -> None:
    """A slow queue is not a stuck queue."""
    throttle("24kbit", 1_000)
    given = numbered_frames(8, 1_000)
    began = time.monotonic()
    sender.sendmmsg_all(given)
    assert time.monotonic() - began > 1.3, (
        "the queue was too fast for this test"
    )
    assert receive(receiver, 8) == given


def test_qdisc_bypass_skips_the_queue(pair: Veth, stopped: RawSocket) -> None:
    with (
        RawSocket(pair.a, protocol=0, qdisc_bypass=True) as bypass,
        RawSocket(pair.b) as receiver,
    ):
        bypass.sendmmsg_all(numbered_frames(50, 1_000))
        assert receive(receiver, 50) == numbered_frames(50, 1_000)


def test_calls_wait_for_room_in_the_send_buffer(
    pair: Veth, throttle: Throttle, receiver: RawSocket
) -> None:
    """In this case poll(2) reports when there is room, so all calls can wait
    in every mode, and nothing counts as a retry."""
    throttle("2mbit", 1_000_000)
    given = numbered_frames(50, 1_000)
    with RawSocket(pair.a, protocol=0, sndbuf=4_608) as sender:
        sent = 0
        while sent < 30:
            sent += sender.sendmmsg(given[:30], start=sent)
        sender.sendmmsg_all(given[30:])
        assert receive(receiver, 50) == given
        assert sender.statistics().send_retries == 0
    with RawSocket(pair.a, protocol=0, sndbuf=4_608) as sender:
        throttle("100bit", 1_000_000)
        sender.setblocking(False)
        with pytest.raises(BlockingIOError):
            sender.sendmmsg_all(given)
        sender.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sender.sendmmsg(given)


def test_sendmmsg_all_continues_after_a_short_count() -> None:
    """A datagram socket accepts only as many packets as fit its buffer."""
    peer, sock = datagram_pair()
    with peer, sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        room = sock.sendmmsg(numbered_frames(500))
        assert 0 < room < 250

        def drain() -> list[bytes]:
            """Reads no more than there is room for, until the next call has
            ended: it has to stop, as the first did."""
            received = [peer.recv(2048) for _ in range(room)]
            eventually(
                lambda: sock.statistics().batches_sent > 1,
                "sendmmsg_all() goes on when there is room",
            )
            return received + [peer.recv(2048) for _ in range(500 - room)]

        with Call(drain) as call:
            sock.sendmmsg_all(numbered_frames(500)[room:])
        assert call.result() == numbered_frames(500)
        statistics = sock.statistics()
        assert statistics.packets_sent == 500
        assert statistics.batches_sent > 2


def test_enobufs_names_full_queue_and_refused_packet(pair: Veth) -> None:
    """The kernel returns ENOBUFS for both. Only the caller can try another
    packet, so the error says how often this one was tried."""
    ip("link", "set", pair.a, "mtu", "9000")
    try:
        with RawSocket(pair.a, protocol=0) as sock:
            packets = [frame(bytes(46)), frame(bytes(3000)), frame(bytes(46))]
            sock.settimeout(0.05)
            with pytest.raises(
                TimeoutError, match=r"packet 1, tried \d+ times.* MTU"
            ) as caught:
                sock.sendmmsg_all(packets)
            assert packets_sent(caught.value) == 1
            sock.settimeout(None)
            with pytest.raises(
                OSError, match=r"packet 1, tried \d+ times.* MTU"
            ) as refused:
                sock.sendmmsg_all(packets)
            assert refused.value.errno == errno.ENOBUFS
    finally:
        ip("link", "set", pair.a, "mtu", "1500")
