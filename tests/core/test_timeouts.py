"""Waiting: blocking, with a timeout and non-blocking, as in the socket module;
and the effect of signals on calls that wait."""

import errno
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from support import WAIT
from support import calls as blocking
from support.calls import (
    RECEIVING,
    Call,
    drain,
    eventually,
    fill_send_queue,
    handler,
    interrupt_main_thread,
    packets_sent,
    repeating,
    waits,
    when_main_thread_waits,
)
from support.frames import PACKET, datagram_pair
from support.linux import descriptors

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

SENDING: Final = blocking.SENDING | {
    "sendmmsg of a batch": lambda sock: sock.sendmmsg(full_batch()),
}


def full_batch() -> PacketBatch:
    batch = PacketBatch(1)
    batch.append(PACKET)
    return batch


@dataclass
class Stuck:
    """A socket on which `call` waits until release()."""

    sock: RawSocket
    call: Callable[[RawSocket], Any]
    release: Callable[[], object]

    def __call__(self) -> Any:
        return self.call(self.sock)


def stick(
    sock: RawSocket,
    peer: socket.socket,
    method: str,
) -> Stuck:
    if method in RECEIVING:
        return Stuck(sock, RECEIVING[method], lambda: peer.send(PACKET))
    fill_send_queue(sock)
    return Stuck(sock, SENDING[method], lambda: drain(peer))


@pytest.fixture(params=[*RECEIVING, *SENDING])
def stuck(request: pytest.FixtureRequest) -> Iterator[Stuck]:
    """Every method that waits, on a socket where it has to wait."""
    peer, sock = datagram_pair()
    with peer, sock:
        yield stick(sock, peer, request.param)


@pytest.fixture(params=RECEIVING)
def idle(request: pytest.FixtureRequest) -> Iterator[Stuck]:
    """Every method that receives, on a socket without packets."""
    peer, sock = datagram_pair()
    with peer, sock:
        yield stick(sock, peer, request.param)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, RawSocket]]:
    peer, sock = datagram_pair()
    with peer, sock:
        yield peer, sock


# Blocking, timeout, non-blocking


def test_new_socket_blocks(pair: tuple[socket.socket, RawSocket]) -> None:
    assert pair[1].gettimeout() is None


def test_blocking_call_waits_until_it_can_proceed(stuck: Stuck) -> None:
    with Call(stuck) as call:
        call.until_blocked()
        stuck.release()
    call.result()


@pytest.mark.parametrize("seconds", [0.05, 1e-3, 1e-9, math.ulp(0.0)])
def test_timeout_raises_timeouterror_but_not_early(
    stuck: Stuck, seconds: float
) -> None:
    stuck.sock.settimeout(seconds)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"^timed out$"):
        stuck()
    assert time.monotonic() - began >= seconds, "the call timed out early"


def test_call_within_its_timeout_succeeds(stuck: Stuck) -> None:
    stuck.sock.settimeout(WAIT)
    with Call(stuck) as call:
        call.until_blocked()
        stuck.release()
    call.result()


def test_short_timeout_does_not_affect_a_call_that_need_not_wait(
    stuck: Stuck,
) -> None:
    stuck.sock.settimeout(1e-9)
    stuck.release()
    stuck()


def test_socket_works_after_a_timeout(stuck: Stuck) -> None:
    stuck.sock.settimeout(1e-3)
    with pytest.raises(TimeoutError):
        stuck()
    stuck.release()
    stuck()


@pytest.mark.parametrize("how", ["settimeout(0)", "setblocking(False)"])
def test_nonblocking_call_raises_blockingioerror(
    stuck: Stuck, how: str
) -> None:
    if how == "settimeout(0)":
        stuck.sock.settimeout(0)
    else:
        stuck.sock.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        stuck()
    assert caught.value.errno == errno.EAGAIN


def test_nonblocking_call_that_need_not_wait_succeeds(stuck: Stuck) -> None:
    stuck.sock.settimeout(0)
    stuck.release()
    stuck()


def test_errors_name_call_and_interface(veth: Veth) -> None:
    """Except BlockingIOError, which is not a failure."""
    with RawSocket(veth.a) as sock:
        sock.settimeout(0)
        with pytest.raises(BlockingIOError, match="recvmmsg: ") as caught:
            sock.recv(2048)
        assert caught.value.filename is None
        with pytest.raises(OSError, match="getsockopt: ") as refused:
            sock.getsockopt(socket.SOL_SOCKET, 999)
        assert refused.value.filename == veth.a


def test_call_that_raises_leaves_the_batch_as_it_was(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    batch = full_batch()
    pair[1].settimeout(1e-3)
    with pytest.raises(TimeoutError):
        pair[1].recvmmsg_into(batch)
    pair[1].settimeout(0)
    with pytest.raises(BlockingIOError):
        pair[1].recvmmsg_into(batch)
    assert batch.tolist() == [PACKET]


def test_mode_belongs_to_the_object_not_to_the_descriptor() -> None:
    """A descriptor with O_NONBLOCK is adopted: the socket blocks if asked, and
    the descriptor keeps the flag for its other users."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ends[0], ends[1], RawSocket(fileno=ends[1].dup().detach()) as sock:
        ends[1].setblocking(False)
        with Call(sock.recv, 2048) as call:
            call.until_blocked()
            ends[0].send(PACKET)
        assert call.result() == PACKET
        ends[1].setblocking(True)
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.recv(2048)
        assert ends[1].gettimeout() is None


def test_timeout_longer_than_a_second_is_kept(
    veth: Veth,
) -> None:
    """A wait on an interface is interrupted every second to check whether the
    interface still exists."""
    with RawSocket(veth.a) as sock:
        sock.settimeout(1.1)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            sock.recv(2048)
        assert time.monotonic() - began >= 1.1, "the call timed out early"


def test_settimeout_does_not_affect_a_call_that_waits(idle: Stuck) -> None:
    with Call(idle) as call:
        call.until_blocked()
        idle.sock.settimeout(1e-9)
        # Wakes the call, without a packet.
        idle.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        time.sleep(0.02)
        assert call.pending, "settimeout() ended the call"
        idle.release()
    call.result()


# sendmmsg_all


def test_timeout_of_sendmmsg_all_is_for_the_whole_call(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    """Progress does not extend it (like that of socket.sendall() since
    3.5)."""
    peer, sock = pair
    fill_send_queue(sock)
    sock.settimeout(0.3)
    with repeating(lambda: drain(peer), 0.02):
        began = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            sock.sendmmsg_all([PACKET] * 100_000)
        assert time.monotonic() - began >= 0.3, "the call timed out early"
    assert 0 < packets_sent(caught.value) < 100_000


def test_timeout_of_sendmmsg_all_ends_a_call_that_never_waits(
    veth: Veth,
) -> None:
    packets = [PACKET] * 1_000_000
    with RawSocket(veth.a, protocol=0) as sock:
        sock.settimeout(0.005)
        with pytest.raises(TimeoutError) as caught:
            sock.sendmmsg_all(packets)
        sent = sock.statistics().packets_sent
    assert 0 < sent < 1_000_000
    assert packets_sent(caught.value) == sent


# settimeout, gettimeout, setblocking


@pytest.mark.parametrize(
    "value",
    [None, 0, 0.0, -0.0, 1, 0.25, 0.07, 1e-10, 1e-9, 1.5e-9, 3600, 1e8, True],
)
def test_gettimeout_equals_the_stdlibs(
    pair: tuple[socket.socket, RawSocket], value: float | None
) -> None:
    for sock in pair:
        sock.settimeout(value)
    assert pair[1].gettimeout() == pair[0].gettimeout()
    assert type(pair[1].gettimeout()) is type(pair[0].gettimeout())


@pytest.mark.parametrize(
    "value",
    [-1, -1e-9, math.nan, math.inf, 1e30, 10**30, "1", b"1", [], ()],
)
def test_bad_timeouts_are_refused_as_by_the_stdlib(
    pair: tuple[socket.socket, RawSocket], value: Any
) -> None:
    with pytest.raises(Exception) as expected:
        pair[0].settimeout(value)
    pair[1].settimeout(0.5)
    with pytest.raises(expected.type):
        pair[1].settimeout(value)
    assert pair[1].gettimeout() == 0.5, "a refused value took effect"


@pytest.mark.parametrize("flag", [True, False, 1, 0, None, "x", []])
def test_setblocking_is_settimeout_none_or_0(
    pair: tuple[socket.socket, RawSocket], flag: Any
) -> None:
    pair[1].settimeout(5)
    pair[1].setblocking(flag)
    assert pair[1].gettimeout() == (None if flag else 0.0)


def test_setblocking_raises_what_its_argument_raises(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise KeyError("undecided")

    with pytest.raises(KeyError, match="undecided"):
        pair[1].setblocking(Undecided())  # type: ignore[arg-type]
    assert pair[1].gettimeout() is None


# Signals (PEP 475)


def test_signal_runs_its_handler_and_the_call_continues(stuck: Stuck) -> None:
    ran = threading.Event()
    main = threading.main_thread().native_id
    assert main is not None

    def disturb() -> None:
        interrupt_main_thread()
        assert ran.wait(WAIT), "the handler did not run during the call"
        eventually(lambda: waits(main), "the call did not go on")
        stuck.release()

    with handler(ran.set), when_main_thread_waits(disturb):
        stuck()


def test_signals_do_not_move_the_deadline(stuck: Stuck) -> None:
    """If each signal restarted the timeout, the call would never end."""
    calls: list[float] = []
    stuck.sock.settimeout(0.15)
    with handler(lambda: calls.append(time.monotonic())):
        with repeating(interrupt_main_thread, 0.01):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                stuck()
            ended = time.monotonic()
    assert ended - began >= 0.15, "signals made the wait shorter"
    assert ended - began < WAIT, "signals made the wait longer"
    assert any(began < at < ended for at in calls), (
        "no handler ran during the call"
    )


def test_handler_that_raises_ends_the_call(stuck: Stuck) -> None:
    def fail() -> None:
        raise KeyError("from the handler")

    with handler(fail), when_main_thread_waits(interrupt_main_thread):
        with pytest.raises(KeyError, match="from the handler"):
            stuck()
    stuck.release()
    stuck()
    # If a call still counted as in flight, this would be EBUSY.
    RawSocket(fileno=stuck.sock.detach()).close()


def test_handler_that_raises_releases_the_batch(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    def fail() -> None:
        raise KeyError("from the handler")

    batch = full_batch()
    with handler(fail), when_main_thread_waits(interrupt_main_thread):
        with pytest.raises(KeyError, match="from the handler"):
            pair[1].recvmmsg_into(batch)
    assert batch.tolist() == [PACKET], "the batch was changed"


def test_handler_that_closes_the_socket_ends_the_call(stuck: Stuck) -> None:
    before = descriptors()
    number = stuck.sock.fileno()
    with (
        handler(stuck.sock.close),
        when_main_thread_waits(interrupt_main_thread),
    ):
        with pytest.raises(OSError, match="the socket was closed") as caught:
            stuck()
    assert caught.value.errno == errno.EBADF
    assert stuck.sock.closed
    # The socket and its eventfd are closed.
    assert len(descriptors()) == len(before) - 2, f"{number} is still open"


def test_handler_cannot_detach_during_the_call(stuck: Stuck) -> None:
    caught: list[int | None] = []

    def detach() -> None:
        with pytest.raises(OSError, match="detach: ") as error:
            stuck.sock.detach()
        caught.append(error.value.errno)
        stuck.release()

    with handler(detach), when_main_thread_waits(interrupt_main_thread):
        stuck()
    assert caught == [errno.EBUSY]


def test_handler_cannot_use_the_batch_of_the_call(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    peer, sock = pair
    batch = full_batch()
    refusals: list[str] = []

    def reenter() -> None:
        peer.send(PACKET + b"second")
        for use in (batch.tolist, batch.clear, lambda: batch[0]):
            with pytest.raises(BufferError) as caught:
                use()
            refusals.append(str(caught.value))

    with handler(reenter), when_main_thread_waits(interrupt_main_thread):
        assert sock.recvmmsg_into(batch) == 1
    assert refusals == ["the batch is in use by another call"] * 3
    assert batch.tolist() == [PACKET + b"second"]


def test_handler_can_receive_on_the_same_socket(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    peer, sock = pair
    inner: list[bytes] = []

    def receive() -> None:
        peer.send(b"for the handler")
        inner.append(sock.recv(2048))
        peer.send(b"for the call")

    with handler(receive), when_main_thread_waits(interrupt_main_thread):
        outer = sock.recv(2048)
    assert (inner, outer) == ([b"for the handler"], b"for the call")


def test_handler_runs_during_a_long_sendmmsg_all(veth: Veth) -> None:
    """Ctrl-C works even if the kernel takes every packet at once."""

    def fail() -> None:
        raise KeyError("from the handler")

    main = threading.main_thread()
    packets = [PACKET] * 1_000_000
    with RawSocket(veth.a, protocol=0) as sock:

        def disturb() -> None:
            eventually(
                lambda: sock.statistics().packets_sent > 0, "nothing is sent"
            )
            interrupt_main_thread()

        assert threading.current_thread() is main
        with handler(fail), Call(disturb) as disturber:
            with pytest.raises(KeyError, match="from the handler") as caught:
                sock.sendmmsg_all(packets)
        disturber.result()
        sent = sock.statistics().packets_sent
    assert 0 < sent < len(packets), (
        "the handler ran only after the last packet"
    )
    assert packets_sent(caught.value) == sent


def test_signal_that_arrives_at_the_timeout_is_not_lost(
    idle: Stuck,
) -> None:
    """Its handler runs soon after the end of the call."""
    ran: list[int] = []
    idle.sock.settimeout(1e-4)
    with handler(lambda: ran.append(1)):
        for sent in range(1, 51):
            signal.raise_signal(signal.SIGUSR1)
            with pytest.raises(TimeoutError):
                idle()
            assert len(ran) == sent
