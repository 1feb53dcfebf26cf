"""The sockets in event loops: code that waits for fileno() gets every
packet."""

import asyncio
import errno
import gc
import os
import select
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from scapy.config import conf
from scapy.layers.inet import ICMP, IP
from scapy.sendrecv import sniff
from support import WAIT
from support.calls import Call, eventually, handler
from support.child import in_child
from support.frames import number_of, numbered
from support.linux import descriptors
from support.scapykit import B4, TRAFFIC, addressed, send
from trio.testing import wait_all_tasks_blocked

from rawmmsg.scapy import (
    BatchSession,
    L2RawMmsgListenSocket,
    L2RawMmsgSocket,
    L3RawMmsgSocket,
    RawSniffer,
)
from rawmmsg.testing import Veth

SO_MEMINFO: Final = 55

CLASSES: Final = [L2RawMmsgSocket, L2RawMmsgListenSocket, L3RawMmsgSocket]


@pytest.fixture
def sock(veth: Veth) -> Iterator[L2RawMmsgSocket]:
    with L2RawMmsgListenSocket(iface=veth.a) as made:
        yield made


def memory(sock: L2RawMmsgSocket) -> int:
    """The memory of the packets that wait in the kernel."""
    option = sock.ins.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
    used: int = struct.unpack_from("I", option)[0]
    return used


def arrive(veth: Veth, sock: L2RawMmsgSocket, *numbers: int) -> None:
    """Sends frames and returns when all of them wait in the kernel."""
    assert memory(sock) == 0
    first, *others = [numbered(number) for number in numbers]
    send(veth.b, [first])
    eventually(lambda: memory(sock) > 0, "the first frame did not arrive")
    whole = memory(sock) * len(numbers)
    if others:
        send(veth.b, others)
    eventually(lambda: memory(sock) >= whole, "not all frames arrived")


def next_number(sock: L2RawMmsgSocket) -> int:
    data = sock.recv_raw()[1]
    assert data is not None
    return number_of(data)


def readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


# Loops


@pytest.mark.parametrize("make", CLASSES)
def test_asyncio_gets_each_packet_of_a_burst(veth: Veth, make: Any) -> None:
    """Also if the reader is removed and added again in the middle."""
    got: list[int] = []

    async def watch(sock: L2RawMmsgSocket, until: int) -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def read() -> None:
            got.append(next_number(sock))
            if len(got) == until:
                done.set()
                assert loop.remove_reader(sock.fileno())

        loop.add_reader(sock.fileno(), read)
        await asyncio.wait_for(done.wait(), WAIT)
        assert not loop.remove_reader(sock.fileno())

    async def main(sock: L2RawMmsgSocket) -> None:
        arrive(veth, sock, 0, 1, 2)
        await watch(sock, 1)
        await watch(sock, 3)
        arrive(veth, sock, 3, 4)
        await watch(sock, 5)

    with make(iface=veth.a) as sock:
        asyncio.run(main(sock))
    assert got == [0, 1, 2, 3, 4]


def test_asyncio_reader_that_reads_until_nothing_is_left(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    """As programs that watch for DHCP do."""
    got: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def read() -> None:
            with suppress(BlockingIOError):
                while True:
                    got.append(next_number(sock))
            if len(got) == 300:
                done.set()

        os.set_blocking(sock.fileno(), False)
        loop.add_reader(sock, read)
        arrive(veth, sock, *range(300))
        await asyncio.wait_for(done.wait(), WAIT)
        assert loop.remove_reader(sock)

    asyncio.run(main())
    assert got == list(range(300))


def test_trio_gets_each_packet_of_a_burst(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    async def main() -> list[int]:
        got = []
        with trio.fail_after(WAIT):
            for _ in range(3):
                await trio.lowlevel.wait_readable(sock.fileno())
                got.append(next_number(sock))
        return got

    arrive(veth, sock, 0, 1, 2)
    assert trio.run(main) == [0, 1, 2]


def test_trio_task_that_waits_is_woken(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    async def main() -> None:
        with trio.fail_after(WAIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.wait_readable, sock.fileno())
                await wait_all_tasks_blocked()
                send(veth.b, [numbered(7)])

    trio.run(main)
    assert next_number(sock) == 7


@pytest.mark.parametrize(
    "make",
    [
        selectors.EpollSelector,
        selectors.PollSelector,
        selectors.SelectSelector,
    ],
)
def test_selectors_notice_packets_that_are_held(
    veth: Veth, sock: L2RawMmsgSocket, make: Any
) -> None:
    arrive(veth, sock, 0, 1, 2)
    with make() as selector:
        selector.register(sock, selectors.EVENT_READ)
        for number in range(3):
            assert len(selector.select(0)) == 1
            assert next_number(sock) == number
        assert selector.select(0) == []
        assert selector.unregister(sock).fd == sock.fileno()


def test_edge_triggered_waiter_gets_an_event_for_each_packet(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    arrive(veth, sock, 0, 1, 2)
    with select.epoll() as poller:
        poller.register(sock.fileno(), select.EPOLLIN | select.EPOLLET)
        for number in range(3):
            assert len(poller.poll(0)) == 1
            assert poller.poll(0) == [], "one edge gives one event"
            assert next_number(sock) == number
        assert poller.poll(0) == []
        arrive(veth, sock, 3)
        assert len(poller.poll(0)) == 1
        assert next_number(sock) == 3


def test_edge_triggered_waiter_that_reads_until_nothing_is_left(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    """As epoll(7) recommends. 300 frames are more than one batch."""
    os.set_blocking(sock.fileno(), False)
    got = []
    with select.epoll() as poller:
        poller.register(sock.fileno(), select.EPOLLIN | select.EPOLLET)
        for burst in (range(300), range(300, 303)):
            arrive(veth, sock, *burst)
            while poller.poll(0):
                with suppress(BlockingIOError):
                    while True:
                        got.append(next_number(sock))
    assert got == list(range(303))


# The descriptor


@pytest.mark.parametrize("make", CLASSES)
def test_descriptor_stays_the_same_until_close(veth: Veth, make: Any) -> None:
    with make(iface=veth.a) as sock:
        number = sock.fileno()
        assert number not in {-1, sock.ins.fileno()}
        assert not os.get_inheritable(number)
        arrive(veth, sock, 0, 1)
        for _ in range(2):
            assert sock.fileno() == number
            next_number(sock)
        assert sock.fileno() == number
    assert sock.fileno() == -1
    assert make(iface=veth.a).fileno() != -1


def test_descriptor_is_readable_while_packets_wait_or_are_held(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    assert not readable(sock.fileno())
    arrive(veth, sock, 0, 1)
    assert readable(sock.fileno())
    next_number(sock)
    assert memory(sock) == 0
    assert readable(sock.fileno())
    next_number(sock)
    assert not readable(sock.fileno())


def test_descriptor_that_is_made_while_packets_are_held(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    arrive(veth, sock, 0, 1)
    next_number(sock)
    assert readable(sock.fileno())
    next_number(sock)
    assert not readable(sock.fileno())


def test_descriptor_is_right_whatever_reads_the_socket(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    number = sock.fileno()
    arrive(veth, sock, *range(9))
    assert len(sniff(opened_socket=sock, count=2, timeout=WAIT)) == 2
    assert readable(number)
    session = BatchSession(lambda data: number_of(data) == 4)
    sniff(opened_socket=sock, count=1, session=session, timeout=WAIT)
    assert readable(number)
    with RawSniffer(opened_socket=sock, count=2) as frames:
        assert [number_of(view) for view in frames] == [5, 6]
    assert readable(number)
    with RawSniffer(opened_socket=sock, count=2) as frames:
        assert [number_of(view) for view in frames] == [7, 8]
    assert not readable(number)
    arrive(veth, sock, *range(3))
    with RawSniffer(opened_socket=sock, count=1) as frames:
        list(frames)
    assert memory(sock) == 0
    assert readable(number), "because of the packets put back"
    session = BatchSession(lambda data: False)
    assert not list(session.recv(sock))
    assert not readable(number)


def test_duplicate_of_the_descriptor_works_alike(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    """asyncio's transports make one, for example."""
    duplicate = os.dup(sock.fileno())
    try:
        arrive(veth, sock, 0, 1)
        for number in range(2):
            assert readable(duplicate)
            assert next_number(sock) == number
        assert not readable(duplicate)
        os.set_blocking(duplicate, False)
        with pytest.raises(BlockingIOError):
            sock.recv()
        arrive(veth, sock, 2, 3)
        next_number(sock)
        sock.close()
        assert not readable(duplicate), "no packet can be received any more"
    finally:
        os.close(duplicate)


def test_layer_3_descriptor_covers_interfaces_opened_later(
    veth_factory: Callable[..., Veth],
) -> None:
    other, veth = veth_factory(), veth_factory()
    with addressed(veth), L3RawMmsgSocket(iface=other.a) as sock:
        number = sock.fileno()
        sock.send(IP(dst=B4) / ICMP())
        assert sock.fileno() == number
        assert not readable(number)
        (ping, *_) = TRAFFIC["ICMP"]
        with Call(select.select, [number], [], [], WAIT) as call:
            send(veth.b, [ping])
        assert call.result()[0] == [number]
        packet = sock.recv()
        assert packet is not None
        assert ICMP in packet
        assert not readable(number)


def test_two_threads_leave_the_descriptor_right(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    os.set_blocking(sock.fileno(), False)

    def read() -> list[int]:
        got = []
        with suppress(BlockingIOError):
            while True:
                data = sock.recv_raw()[1]
                if data is not None:  # otherwise the other thread was faster
                    got.append(number_of(data))
        return got

    for _ in range(20):
        arrive(veth, sock, *range(200))
        with Call(read) as one, Call(read) as other:
            pass
        rest = read()
        every = one.result() + other.result() + rest
        assert sorted(every) == list(range(200))
        assert not readable(sock.fileno())


# O_NONBLOCK


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("method", ["recv", "recv_raw"])
def test_non_blocking_descriptor_without_a_packet_raises(
    veth: Veth, make: Any, method: str
) -> None:
    with make(iface=veth.a) as sock:
        os.set_blocking(sock.fileno(), False)
        with pytest.raises(BlockingIOError) as caught:
            getattr(sock, method)()
        assert caught.value.errno == errno.EAGAIN
        arrive(veth, sock, 1)
        assert next_number(sock) == 1


def test_descriptor_can_be_made_blocking_again(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    os.set_blocking(sock.fileno(), False)
    os.set_blocking(sock.fileno(), True)
    with Call(sock.recv_raw) as call:
        send(veth.b, [numbered(5)])
    assert number_of(call.result()[1]) == 5


def test_sniff_waits_although_the_descriptor_is_non_blocking(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    os.set_blocking(sock.fileno(), False)
    found = sniff(
        opened_socket=sock,
        count=1,
        timeout=WAIT,
        started_callback=lambda: send(veth.b, [numbered(5)]),
    )
    assert [number_of(packet.original) for packet in found] == [5]
    assert not sock.closed


def test_link_that_goes_down_is_an_event(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    os.set_blocking(sock.fileno(), False)
    veth.down("a")
    assert readable(sock.fileno())
    assert sock.recv() is None
    assert not readable(sock.fileno())
    with pytest.raises(BlockingIOError):
        sock.recv()
    veth.up("a")
    arrive(veth, sock, 1)
    assert readable(sock.fileno())
    assert next_number(sock) == 1


# The end


def test_close_while_it_is_registered(veth: Veth) -> None:
    """While packets are held, and others wait in the kernel."""
    with select.epoll() as poller:
        sock = L2RawMmsgSocket(iface=veth.a)
        arrive(veth, sock, 0, 1)
        poller.register(sock.fileno(), select.EPOLLIN)
        next_number(sock)
        arrive(veth, sock, 2)
        assert len(poller.poll(0)) == 1
        sock.close()
        assert poller.poll(0) == []


def test_close_in_a_reader(veth: Veth) -> None:
    """A packet may tell a program to stop."""
    sock = L2RawMmsgSocket(iface=veth.a)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def read() -> None:
            next_number(sock)
            assert loop.remove_reader(sock.fileno())
            sock.close()
            done.set()

        loop.add_reader(sock.fileno(), read)
        arrive(veth, sock, 0, 1)
        await asyncio.wait_for(done.wait(), WAIT)

    asyncio.run(main())
    assert sock.fileno() == -1


@pytest.mark.parametrize("make", CLASSES)
def test_nothing_is_left_open(veth: Veth, make: Any) -> None:
    gc.collect()
    before = descriptors()
    for end in (lambda sock: sock.close(), lambda sock: None):
        sock = make(iface=veth.a)
        sock.fileno()
        arrive(veth, sock, 0, 1)
        next_number(sock)
        end(sock)
        del sock
        gc.collect()
        assert descriptors() == before
    sock = make(iface=veth.a)
    sock.close()
    assert sock.fileno() == -1
    assert descriptors() == before


def test_close_in_a_handler_while_the_descriptor_is_in_use(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    """The handler runs in the middle of a call of the inbox."""
    sock.fileno()

    def close(_: bytes) -> bool:
        with handler(sock.close):
            os.kill(os.getpid(), 10)
        return True

    arrive(veth, sock, 0, 1)
    assert sock.inbox.fill()
    assert sock.inbox.discard_until(close)
    assert sock.closed
    assert next_number(sock) == 0, "packets that are held can still be read"


# Forked children


def watched(number: int) -> int:
    """How many files an epoll descriptor waits for."""
    text = Path(f"/proc/self/fdinfo/{number}").read_text(encoding="ascii")
    return text.count("tfd:")


def test_forked_child_does_not_change_what_the_parent_waits_for(
    veth_factory: Callable[..., Veth],
) -> None:
    other, veth = veth_factory(), veth_factory()
    with addressed(veth), L3RawMmsgSocket(iface=other.a) as sock:
        number = sock.fileno()
        os.set_blocking(number, False)
        arrive(other, sock, 0, 1)
        next_number(sock)
        before = watched(number)

        def child() -> None:
            assert sock.fileno() == number
            assert not os.get_blocking(number)
            assert not os.get_inheritable(number)
            assert readable(number), (
                "the child has its own copy of the held packets"
            )
            assert next_number(sock) == 1
            assert not readable(number)
            sock.send(IP(dst=B4) / ICMP())
            assert watched(number) == before + 1
            sock.close()

        in_child(child)
        assert watched(number) == before
        assert readable(number)
        assert next_number(sock) == 1
        assert not readable(number)


def test_forked_child_gets_packets_of_its_own(
    veth: Veth, sock: L2RawMmsgSocket
) -> None:
    """Parent and child share the queue in the kernel, but packets that the
    child holds do not wake the parent."""
    number = sock.fileno()

    def child() -> None:
        arrive(veth, sock, 0, 1)
        assert readable(number)
        assert next_number(sock) == 0
        assert readable(number)

    in_child(child)
    assert not readable(number)


def test_stop_in_a_forked_child_does_not_wake_the_parent(veth: Veth) -> None:
    with RawSniffer(veth.a, count=1, timeout=WAIT) as frames:
        alarm = frames._alarm
        assert alarm is not None
        in_child(frames.stop)
        assert not readable(alarm.fileno())
        send(veth.b, [numbered(1)])
        assert [number_of(view) for view in frames] == [1]


def test_fork_while_another_thread_opens_a_descriptor(
    sock: L2RawMmsgSocket,
) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with sock.inbox.opening:
            held.set()
            release.wait()

    def child() -> None:
        assert sock.fileno() != -1

    with Call(hold):
        assert held.wait(WAIT)
        try:
            in_child(child)
        finally:
            release.set()


def test_scapys_own_socket_is_non_blocking_in_the_same_way(veth: Veth) -> None:
    """It is the model for the tests above."""
    with conf.L2listen(iface=veth.a) as theirs:
        os.set_blocking(theirs.fileno(), False)
        with pytest.raises(BlockingIOError):
            theirs.recv_raw()
        send(veth.b, [numbered(1)])
        select.select([theirs.fileno()], [], [], WAIT)
        data = theirs.recv_raw()[1]
    assert data is not None
    assert number_of(data) == 1
