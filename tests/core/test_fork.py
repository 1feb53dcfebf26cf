"""A forked child has its own copy of the object and of its descriptors. It
shares the queue, the filter and the eventfd with its parent."""

import errno
import fcntl
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support import WAIT
from support.calls import (
    Call,
    eventually,
    handler,
    interrupt_main_thread,
    raises,
    repeating,
    when_main_thread_waits,
)
from support.child import Child, end_child, fork, in_child
from support.frames import PACKET, datagram_pair, pending
from support.linux import descriptors
from support.programs import accept

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth


@contextmanager
def receiving(peer: socket.socket, sock: RawSocket) -> Iterator[Call]:
    """The parent receives in a thread; the child must not disturb it, and it
    gets the next packet."""
    with Call(sock.recv, 2048) as call:
        call.until_blocked()
        yield call
        assert call.pending, "the child ended the parent's call"
        peer.send(PACKET)
    assert call.result() == PACKET


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, RawSocket]]:
    peer, sock = datagram_pair()
    with peer, sock:
        yield peer, sock


def test_close_in_the_child_leaves_the_parents_call_alone(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    sock = pair[1]

    def child() -> None:
        before = descriptors()
        sock.close()
        assert sock.closed
        assert len(descriptors()) == len(before) - 2, (
            "the child left descriptors open"
        )
        sock.close()
        with raises(errno.EBADF):
            sock.recv(2048)

    with receiving(*pair):
        in_child(child)
    assert not sock.closed


def test_close_in_the_child_costs_the_parent_no_cpu(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    """If it signalled the shared eventfd, that would stay readable for the
    parent's calls."""
    with receiving(*pair):
        in_child(pair[1].close)
        assert spent_while(lambda: time.sleep(0.3)) < 0.1
    pair[1].settimeout(0.3)
    assert spent_while(lambda: time_out(pair[1])) < 0.1


def test_dealloc_in_the_child_is_harmless() -> None:
    """It warns, and closes only the child's descriptors."""
    peer, sock = datagram_pair()
    held = [sock]
    del sock
    waiting, begun = os.pipe()

    def child() -> None:
        os.close(begun)
        assert os.read(waiting, 1) == b""
        before = descriptors()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            held.clear()
        assert [one.category for one in caught] == [ResourceWarning]
        assert len(descriptors()) == len(before) - 2, (
            "the child left descriptors open"
        )

    process = Child(child)
    with peer, held[0]:
        with receiving(peer, held[0]):
            os.close(begun)
            process.join()
    os.close(waiting)


def test_detach_in_the_child_works_during_the_parents_call(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    """Only the parent has a call in flight."""
    peer, sock = pair

    def child() -> None:
        number = sock.fileno()
        assert sock.detach() == number
        with socket.socket(fileno=number) as detached:
            peer.send(PACKET)
            detached.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)

    with Call(sock.recv, 2048) as call:
        call.until_blocked()
        in_child(child)
    assert call.result() == PACKET


def test_close_in_the_child_wakes_the_childs_calls(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    """By the child's own eventfd."""
    sock = pair[1]

    def child() -> None:
        call = Call(sock.recv, 2048)
        call.until_blocked()
        sock.close()
        error = call.error()
        assert isinstance(error, OSError), f"{error!r}"
        assert error.errno == errno.EBADF

    with receiving(*pair):
        in_child(child)


def test_detach_in_the_child_is_refused_during_its_own_calls(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    """The child's calls count, the parent's do not."""
    peer, sock = pair

    def child() -> None:
        call = Call(sock.recv, 2048)
        call.until_blocked()
        with raises(errno.EBUSY):
            sock.detach()
        assert not sock.closed
        peer.send(PACKET)
        assert call.result() == PACKET
        os.close(sock.detach())
        assert sock.closed
        assert sock.fileno() == -1

    in_child(child)
    assert not sock.closed


def test_child_receives_and_closes_with_its_own_calls(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    peer, sock = pair

    def child() -> None:
        batch = PacketBatch(2)
        for _ in range(3):
            peer.send(PACKET)
            assert sock.recvmmsg_into(batch) == 1
        assert batch.tolist() == [PACKET]
        sock.close()

    in_child(child)
    peer.send(b"parent")
    assert sock.recv(2048) == b"parent"


def spent_while(function: Callable[[], object]) -> float:
    """The CPU seconds that this process uses while the action runs."""
    before = time.process_time()
    function()
    return time.process_time() - before


def time_out(sock: RawSocket) -> None:
    with pytest.raises(TimeoutError):
        sock.recv(2048)


@pytest.mark.parametrize("waits", [False, True], ids=["before", "in a call"])
def test_close_in_the_parent_leaves_the_child_working(waits: bool) -> None:
    """The parent signals the eventfd for its own call. For the child's calls
    it stays readable, but they neither end, nor use CPU time, nor lose a
    packet."""
    peer, sock = datagram_pair()
    ready, go = os.pipe()

    def child() -> None:
        os.close(go)
        if not waits:
            assert os.read(ready, 1) == b""
        sock.settimeout(1)
        assert spent_while(lambda: time_out(sock)) < 0.1, (
            "the child uses CPU time"
        )
        sock.settimeout(WAIT)
        peer.send(PACKET)
        assert sock.recv(2048) == PACKET
        batch = PacketBatch(2)
        peer.send(PACKET)
        assert sock.recvmmsg_into(batch) == 1
        assert sock.send(PACKET) == len(PACKET)
        sock.close()

    call = Call(sock.recv, 2048)
    call.until_blocked()
    process = Child(child)
    if waits:
        eventually(lambda: sleeps(process.pid), "the child does not wait")
    sock.close()
    error = call.error()
    assert isinstance(error, OSError)
    assert error.errno == errno.EBADF
    os.close(ready)
    os.close(go)
    process.join()
    peer.close()


def sleeps(pid: int) -> bool:
    """Whether the process sleeps, that is, waits in its call."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def test_child_of_a_closed_parent_waits_for_packets() -> None:
    """It notices packets, although the eventfd is always readable."""
    peer, sock = datagram_pair()
    report = os.pipe()

    def child() -> None:
        packet = sock.recv(2048)
        os.write(report[1], packet)
        sock.close()

    call = Call(sock.recv, 2048)
    call.until_blocked()
    process = Child(child)
    eventually(lambda: sleeps(process.pid), "the child does not wait")
    sock.close()
    assert isinstance(call.error(), OSError)
    peer.send(PACKET)
    assert os.read(report[0], 2048) == PACKET
    process.join()
    peer.close()
    for one in report:
        os.close(one)


def test_fork_in_a_signal_handler_and_close_in_the_child(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    """Both processes are then in a call. The child's ends, the parent's
    continues."""
    peer, sock = pair
    parent = os.getpid()
    reader, writer = os.pipe()
    children: list[int] = []

    def split() -> None:
        pid = fork()
        if pid == 0:
            sock.close()
        else:
            children.append(pid)
            os.close(writer)  # the child ends, and with it the reader

    def expect_ebadf() -> None:
        assert isinstance(error, OSError), f"{error!r}"
        assert error.errno == errno.EBADF

    def disturb() -> None:
        interrupt_main_thread()
        with open(reader, encoding="utf-8") as pipe:
            reports.append(pipe.read())
        peer.send(PACKET)

    reports: list[str] = []
    error: BaseException | None = None
    packet = b""
    with handler(split):
        context = when_main_thread_waits(disturb)
        with context:
            try:
                packet = sock.recv(2048)
            except BaseException as caught:
                error = caught
            if os.getpid() != parent:
                end_child(expect_ebadf, writer)
    assert error is None
    assert packet == PACKET
    _, status = os.waitpid(children[0], 0)
    assert (status, reports) == (0, [""])


def test_child_shares_the_queue(veth: Veth) -> None:
    """The process that reads first gets the packet."""
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        sock.settimeout(WAIT)
        sender.sendmmsg_all([PACKET, PACKET + b"second"])

        def child() -> None:
            assert sock.recv(2048) == PACKET

        in_child(child)
        assert sock.recv(2048) == PACKET + b"second"


def test_child_shares_the_filter(veth: Veth) -> None:
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        sock.settimeout(WAIT)
        in_child(lambda: sock.attach_filter(accept(14)))
        sender.send(PACKET)
        assert sock.recv(2048) == PACKET[:14]


def test_parent_still_receives_after_the_child_closed(veth: Veth) -> None:
    """The kernel's socket lives until the last descriptor is closed."""
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        sock.settimeout(WAIT)
        in_child(sock.close)
        sender.send(PACKET)
        assert sock.recv(2048) == PACKET


def test_socket_and_eventfd_are_closed_on_exec(veth: Veth) -> None:
    before = open_numbers()
    with RawSocket(veth.a) as sock:
        opened = open_numbers() - before
        assert sock.fileno() in opened
        assert len(opened) == 2, "expected a socket and an eventfd"
        for number in opened:
            assert fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def open_numbers() -> set[int]:
    """The descriptors that are open, without that of the listing."""
    numbers = os.listdir("/proc/self/fd")
    return {int(n) for n in numbers if os.path.lexists(f"/proc/self/fd/{n}")}


def test_close_in_the_child_waits_for_the_childs_calls(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    """A call of the parent that was in flight at the fork does not count in
    the child. Otherwise the descriptor's number would be freed during a call
    of the child."""
    sock = pair[1]

    def child() -> None:
        number = sock.fileno()
        with Call(sock.recv, 2048) as call:
            call.until_blocked()
            sock.close()
            assert isinstance(call.error(), OSError)
        with pytest.raises(OSError) as caught:
            os.fstat(number)
        assert caught.value.errno == errno.EBADF, "the child left it open"

    with receiving(*pair):
        in_child(child)


def test_socket_closed_in_the_parent_is_closed_in_the_child(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    """Also if, at the fork, the parent's call that closes the descriptors has
    not ended."""
    peer, sock = pair
    children: list[Child] = []
    number = sock.fileno()

    def child() -> None:
        assert sock.closed
        sock.close()
        with pytest.raises(OSError, match="the socket was closed"):
            sock.recv(2048)

    def close_and_fork() -> None:
        sock.close()
        children.append(Child(child))

    call = Call(sock.recv, 2048)
    call.until_blocked()
    close_and_fork()
    assert isinstance(call.error(), OSError)
    children[0].join()
    with pytest.raises(OSError):
        os.fstat(number)
    peer.close()


@pytest.mark.parametrize("rounds", [20])
def test_child_can_change_the_filter_after_any_fork(
    pair: tuple[socket.socket, RawSocket], rounds: int
) -> None:
    """The fork may happen during a change of filter by another thread, which
    the child does not have."""
    sock = pair[1]

    def child() -> None:
        sock.attach_filter(accept())
        sock.detach_filter()

    with repeating(lambda: sock.attach_filter(accept())):
        for _ in range(rounds):
            in_child(child)


def test_batch_used_by_another_thread_is_free_in_the_child(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    peer, sock = pair
    batch = PacketBatch(2)

    def child() -> None:
        batch.clear()
        batch.append(b"child")
        assert batch.tolist() == [b"child"]

    with Call(sock.recvmmsg_into, batch) as call:
        call.until_blocked()
        in_child(child)
        with pytest.raises(BufferError, match="in use"):
            batch.clear()
        peer.send(PACKET)
    assert call.result() == 1
    assert batch.tolist() == [PACKET]


def test_batch_of_the_call_that_forked_is_in_use_in_the_child(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    """A signal handler forks, and the call that it interrupted continues in
    the child."""
    peer, sock = pair
    batch = PacketBatch(2)
    children: list[Child] = []

    def child() -> None:
        with pytest.raises(BufferError, match="in use"):
            batch.clear()

    def split() -> None:
        children.append(Child(child))
        peer.send(PACKET)

    with handler(split), when_main_thread_waits(interrupt_main_thread):
        assert sock.recvmmsg_into(batch) == 1
    children[0].join()


def test_statistics_are_complete_after_the_child_closed(
    veth: Veth,
) -> None:
    """The kernel's counters are shared, and reading resets them."""
    with (
        RawSocket(veth.b, rcvbuf=4096) as sock,
        RawSocket(veth.a, protocol=0) as sender,
    ):
        sender.sendmmsg_all([PACKET] * 200)
        eventually(
            lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0,
            "the socket has an error",
        )
        in_child(sock.close)
        received = len(pending(sock))
        eventually(
            lambda: (sock.statistics().packets_dropped or 0) + received == 200,
            "drops are missing",
        )
