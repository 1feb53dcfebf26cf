"""rawmmsg.aio: tasks in one thread that receive and send batches, wait for
each other and are cancelled."""

import asyncio
import errno
import itertools
import os
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

import pytest
from support import WAIT
from support.calls import drain, packets_sent, raises
from support.frames import (
    PACKET,
    datagram_pair,
    frame,
    number_of,
    numbered,
    pending,
)
from support.linux import descriptors, ip, tc

from rawmmsg import PacketBatch, RawSocket, aio
from rawmmsg.testing import Veth

BIG: Final = numbered(0, 1_000)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs asyncio.run() with a time limit."""

    async def limited() -> None:
        async with asyncio.timeout(WAIT):
            await main

    asyncio.run(limited())


async def turns(count: int) -> None:
    """Lets the other tasks run `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def waiting(awaitable: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Starts a task and returns it once it waits."""
    task = asyncio.create_task(awaitable)
    await turns(5)
    assert not task.done(), f"the task does not wait: {task}"
    return task


async def one(sock: RawSocket) -> list[bytes]:
    """Returns the next packets."""
    batch = await anext(aio.batches(sock, PacketBatch(8)))
    return batch.tolist()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, RawSocket]]:
    """A standard socket and the RawSocket connected to it."""
    peer, sock = datagram_pair()
    sock.setblocking(False)
    with peer, sock:
        yield peer, sock


@pytest.fixture
def peer(ends: tuple[socket.socket, RawSocket]) -> socket.socket:
    return ends[0]


@pytest.fixture
def sock(ends: tuple[socket.socket, RawSocket]) -> RawSocket:
    return ends[1]


@pytest.fixture
def full(sock: RawSocket) -> RawSocket:
    """The RawSocket, with a full send queue."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(PACKET)
    return sock


# Receiving


def test_each_step_yields_the_batch_with_all_queued_packets(
    peer: socket.socket, sock: RawSocket
) -> None:
    async def main() -> None:
        batch = PacketBatch(4)
        for i in range(6):
            peer.send(numbered(i))
        seen = []
        async for received in aio.batches(sock, batch):
            assert received is batch
            seen.append([number_of(packet) for packet in received.tolist()])
            if len(seen) == 2:
                break
        assert seen == [[0, 1, 2, 3], [4, 5]]

    run(main())


def test_step_waits_for_a_packet(peer: socket.socket, sock: RawSocket) -> None:
    async def main() -> None:
        task = await waiting(one(sock))
        peer.send(PACKET)
        assert await task == [PACKET]

    run(main())


def test_batch_stays_until_the_next_step(
    peer: socket.socket, sock: RawSocket
) -> None:
    async def main() -> None:
        steps = aio.batches(sock, PacketBatch(1))
        peer.send(numbered(0))
        peer.send(numbered(1))
        batch = await anext(steps)
        await turns(10)
        assert batch.tolist() == [numbered(0)]
        assert (await anext(steps)).tolist() == [numbered(1)]

    run(main())


def test_other_tasks_run_while_packets_are_always_queued(
    peer: socket.socket, sock: RawSocket
) -> None:
    turns_of_other = 0

    async def other() -> None:
        nonlocal turns_of_other
        while True:
            turns_of_other += 1
            await asyncio.sleep(0)

    async def main() -> None:
        for _ in range(8):
            peer.send(PACKET)
        task = await waiting(other())
        before = turns_of_other
        steps = aio.batches(sock, PacketBatch(1))
        for _ in range(8):
            await anext(steps)
        assert turns_of_other - before >= 7, (
            "the iterator does not let other tasks run"
        )
        task.cancel()

    run(main())


def test_timeout_ends_the_wait_and_the_iterator_goes_on(
    peer: socket.socket, sock: RawSocket
) -> None:
    async def main() -> None:
        steps = aio.batches(sock, PacketBatch(8))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(steps)
        peer.send(PACKET)
        assert (await anext(steps)).tolist() == [PACKET]

    run(main())


# Cancelling


@pytest.mark.parametrize("later", range(6))
def test_packet_that_arrives_at_cancellation_is_not_lost(
    peer: socket.socket, sock: RawSocket, later: int
) -> None:
    """The task may be at any point between the event and its result."""

    async def main() -> None:
        task = await waiting(one(sock))
        peer.send(PACKET)
        await turns(later)
        task.cancel()
        try:
            received = await task
        except asyncio.CancelledError:
            received = []
        assert received + pending(sock) == [PACKET]

    run(main())


def test_no_packet_is_lost_to_a_timeout(
    peer: socket.socket, sock: RawSocket, scaled: Callable[[int], int]
) -> None:
    """Many waits time out at any point while packets arrive."""
    total = scaled(300)
    seen: list[int] = []
    peer.setblocking(False)

    async def feed() -> None:
        loop = asyncio.get_running_loop()
        for i in range(total):
            await loop.sock_sendall(peer, numbered(i))
            await asyncio.sleep(0.0001 * (i % 3))

    async def main() -> None:
        feeding = asyncio.create_task(feed())
        steps = aio.batches(sock, PacketBatch(2))
        limits = itertools.cycle([0, 0.0001, 0.0002, 0.0005, 0.001])
        timeouts = 0
        while len(seen) < total:
            try:
                async with asyncio.timeout(next(limits)):
                    batch = await anext(steps)
            except TimeoutError:
                timeouts += 1
                continue
            seen.extend(number_of(packet) for packet in batch.tolist())
        await feeding
        assert seen == [*range(total)]
        assert timeouts > 0, "no step was cancelled"

    run(main())


def test_cancelled_wait_leaves_no_descriptor(sock: RawSocket) -> None:
    async def main() -> None:
        before = descriptors()
        task = await waiting(one(sock))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert descriptors() == before

    run(main())


# Several tasks, one socket


def test_each_packet_goes_to_one_task(
    peer: socket.socket, sock: RawSocket
) -> None:
    seen: list[int] = []

    async def work() -> None:
        async for batch in aio.batches(sock, PacketBatch(2)):
            seen.extend(number_of(packet) for packet in batch.tolist())

    async def main() -> None:
        tasks = [await waiting(work()) for _ in range(3)]
        for i in range(100):
            peer.send(numbered(i))
            await turns(i % 4)
        while len(seen) < 100:
            await asyncio.sleep(0.001)
        assert sorted(seen) == [*range(100)]
        for task in tasks:
            task.cancel()

    run(main())


def test_reader_added_by_the_program_is_kept(
    peer: socket.socket, sock: RawSocket
) -> None:
    """The event loop keeps one reader per descriptor and would replace it
    silently."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        called = asyncio.Event()
        loop.add_reader(sock.fileno(), called.set)
        task = await waiting(one(sock))
        peer.send(PACKET)
        assert await task == [PACKET]
        peer.send(PACKET)
        called.clear()
        await called.wait()
        assert loop.remove_reader(sock.fileno())

    run(main())


def test_both_directions_wait_at_once(
    peer: socket.socket, full: RawSocket
) -> None:
    async def main() -> None:
        sending = await waiting(aio.send(full, [BIG]))
        receiving = await waiting(one(full))
        peer.send(PACKET)
        assert await receiving == [PACKET]
        assert not sending.done()
        drain(peer)
        await sending
        assert drain(peer) == [BIG]

    run(main())


# Sending


@pytest.mark.parametrize("as_batch", [True, False])
def test_send_goes_on_until_all_are_sent(
    peer: socket.socket, full: RawSocket, as_batch: bool
) -> None:
    packets = [numbered(i) for i in range(50)]
    batch = PacketBatch(50)
    batch.extend(packets)

    async def main() -> None:
        drain(peer)
        task = asyncio.create_task(
            aio.send(full, batch if as_batch else packets)
        )
        seen: list[bytes] = []
        while len(seen) < 50:
            await asyncio.sleep(0.0005)
            seen += drain(peer)
        await task
        assert seen == packets

    run(main())


def test_send_of_an_empty_list_returns(sock: RawSocket) -> None:
    run(aio.send(sock, []))
    run(aio.send(sock, PacketBatch()))
    assert sock.statistics().packets_sent == 0


def test_send_needs_a_sequence(sock: RawSocket) -> None:
    with pytest.raises(TypeError):
        run(aio.send(sock, 5))  # type: ignore[arg-type]


def test_failed_send_tells_how_many_packets_were_sent(veth: Veth) -> None:
    with RawSocket(veth.a, protocol=0) as sock:
        sock.setblocking(False)
        text = f"packet 2: 2,000 bytes, the MTU of {veth.a} allows 1,514"
        with raises(errno.EMSGSIZE, text) as caught:
            run(aio.send(sock, [PACKET, PACKET, bytes(2_000)]))
    assert packets_sent(caught.value) == 2


def test_cancelled_send_tells_how_many_packets_were_sent(
    peer: socket.socket, full: RawSocket
) -> None:
    async def main() -> None:
        drain(peer)
        task = await waiting(aio.send(full, [PACKET] * 1_000))
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert packets_sent(caught.value) == len(drain(peer)) > 0

    run(main())


def test_send_that_timed_out_tells_how_many_packets_were_sent(
    full: RawSocket,
) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.01):
                await aio.send(full, [PACKET])
        assert packets_sent(caught.value.__context__) == 0

    run(main())


@pytest.fixture
def throttled(veth: Veth) -> Iterator[Callable[[str], RawSocket]]:
    """A socket behind a queue, tc-tbf(8), of 3,000 bytes and some rate."""
    with RawSocket(veth.a, protocol=0) as sock:
        sock.setblocking(False)

        def throttled(rate: str) -> RawSocket:
            tc(
                *("qdisc", "replace", "dev", veth.a, "root"),
                *("tbf", "burst", "2000", "rate", rate, "limit", "3000"),
            )
            return sock

        yield throttled


def test_send_continues_after_a_full_queue(
    veth: Veth, throttled: Callable[[str], RawSocket]
) -> None:
    packets = [numbered(i, 1_000) for i in range(30)]
    with RawSocket(veth.b) as receiver:
        run(aio.send(throttled("2mbit"), packets))
        receiver.settimeout(WAIT)
        assert [receiver.recv(2048) for _ in packets] == packets


def test_send_raises_if_the_queue_stays_full(
    throttled: Callable[[str], RawSocket],
) -> None:
    sock = throttled("100bit")
    with raises(errno.ENOBUFS) as caught:
        run(aio.send(sock, [BIG] * 20))
    assert packets_sent(caught.value) == sock.statistics().packets_sent > 0


def test_send_names_the_other_reason_for_enobufs(veth: Veth) -> None:
    """The kernel returns ENOBUFS also for a packet that is dropped when it is
    sent."""
    ip("link", "set", veth.a, "mtu", "9000")
    packets = [frame(bytes(46)), frame(bytes(3000)), frame(bytes(46))]
    with RawSocket(veth.a, protocol=0) as sock:
        sock.setblocking(False)
        with raises(errno.ENOBUFS) as caught:
            run(aio.send(sock, packets))
    assert packets_sent(caught.value) == 1
    assert re.search(
        r"packet 1, tried \d+ times.* MTU of the far end",
        str(caught.value),
    )
    assert caught.value.filename == veth.a


# Blocking sockets


@pytest.mark.parametrize("timeout", [None, 1.0])
def test_blocking_socket_is_refused(
    sock: RawSocket, timeout: float | None
) -> None:
    sock.settimeout(timeout)
    with pytest.raises(ValueError, match=r"setblocking\(False\)"):
        aio.batches(sock, PacketBatch())
    with pytest.raises(ValueError, match=r"setblocking\(False\)"):
        run(aio.send(sock, [PACKET]))


def test_socket_made_blocking_between_steps_is_refused(
    peer: socket.socket, sock: RawSocket
) -> None:
    async def main() -> None:
        task = await waiting(one(sock))
        sock.setblocking(True)
        peer.send(PACKET)
        with pytest.raises(ValueError, match="non-blocking"):
            await task

    run(main())


# Closed sockets, links that go down


@pytest.mark.parametrize("end", [RawSocket.close, RawSocket.detach])
def test_closed_socket_ends_the_wait(
    sock: RawSocket, end: Callable[[RawSocket], int | None]
) -> None:
    async def main() -> None:
        before = descriptors()
        task = await waiting(one(sock))
        descriptor = end(sock)
        with raises(errno.EBADF):
            await task
        if descriptor is not None:
            os.close(descriptor)
        assert descriptors() < before

    run(main())


@pytest.mark.parametrize(
    "call", [one, lambda sock: aio.send(sock, [PACKET])], ids=["one", "send"]
)
def test_closed_socket_is_an_error(
    sock: RawSocket, call: Callable[[RawSocket], Awaitable[Any]]
) -> None:
    async def main() -> None:
        await call(sock)

    sock.close()
    with raises(errno.EBADF):
        run(main())


def test_link_down_is_one_error_and_the_iterator_continues(
    veth: Veth,
) -> None:
    async def main() -> None:
        with RawSocket(veth.a, protocol=0) as tx, RawSocket(veth.b) as rx:
            rx.setblocking(False)
            steps = aio.batches(rx, PacketBatch())
            for _ in range(2):
                task = await waiting(one(rx))
                veth.down("b")
                with raises(errno.ENETDOWN):
                    await task
                task = await waiting(one(rx))
                veth.up("b")
                tx.send(PACKET)
                assert await task == [PACKET]
            tx.send(PACKET)
            assert (await anext(steps)).tolist() == [PACKET]

    run(main())


def test_deleted_interface_ends_every_wait(veth_factory: Any) -> None:
    async def main() -> None:
        veth = veth_factory()
        with RawSocket(veth.b) as sock:
            sock.setblocking(False)
            task = await waiting(one(sock))
            veth.delete()
            with pytest.raises(OSError) as caught:
                await task
            assert caught.value.errno in {errno.ENETDOWN, errno.ENODEV}
            for _ in range(2):
                with raises(errno.ENODEV):
                    await one(sock)

    run(main())


# Sockets that poll as readable without a packet


def test_false_alarms_use_little_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is shut down for reading polls as readable for ever."""
    waits = 0

    async def count(sock: RawSocket, sending: bool) -> bool:
        nonlocal waits
        waits += 1
        return await wait_ready(sock, sending)

    async def main(sock: RawSocket) -> None:
        task = await waiting(one(sock))
        await asyncio.sleep(0.2)
        task.cancel()

    wait_ready = aio._wait_ready
    monkeypatch.setattr(aio, "_wait_ready", count)
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    plain.bind(("127.0.0.1", 0))
    plain.connect(plain.getsockname())
    plain.shutdown(socket.SHUT_RD)
    with RawSocket(fileno=plain.detach()) as sock:
        sock.setblocking(False)
        run(main(sock))
    # Two calls per pause of 10 ms; fewer on a slow machine.
    assert 0 < waits < 1_000
