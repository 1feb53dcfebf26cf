"""The batches that frames are in on their way through the bridge: few where
they are long, many where they are short, and always in order."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.bridging import Network, Running, bridging, take
from support.datagrams import Datagram, add, data
from support.frames import numbered, same_frames
from support.linux import ip, tc

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.batches import make_stacks
from rawmmsg.bridge.direction import Direction
from rawmmsg.bridge.ports import Port, parse_port
from rawmmsg.testing import Veth

SMALL, LARGE = 60, 15_000
"""Bytes; the cache holds many of the first, and not many of the second."""


@pytest.fixture
def network(veth_factory: Callable[..., Veth]) -> Network:
    return Network(veth_factory(mtu=20_000), veth_factory(mtu=20_000))


@contextmanager
def stopped(bridge: Running) -> Iterator[None]:
    """What is sent inside waits for it, all at once."""
    pid = bridge.process.pid
    bridge.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    yield
    bridge.process.send_signal(signal.SIGCONT)


# How many: one way of a bridge, step by step


class Way:
    """From left.a to right.a, a batch whenever asked."""

    def __init__(self, network: Network, stack: ExitStack) -> None:
        def opened(name: str) -> Port:
            port = parse_port(name)
            port.open(None)
            stack.callback(port.close)
            return port

        # Older than the port's socket, so the kernel serves it later.
        self._watch = stack.enter_context(
            RawSocket(network.left.b, ignore_outgoing=True)
        )
        self._sender = stack.enter_context(
            RawSocket(network.left.a, protocol=0)
        )
        self._a, self._b = opened(network.left.b), opened(network.right.b)

    def begin(self, batch: int | None = None) -> None:
        stacks, _ = make_stacks(self._a, self._b, batch)
        self._direction = Direction(self._a, self._b, stacks)

    def counts(self, number: int, size: int) -> list[int]:
        """Sends so many frames of this size; how many each batch held."""
        self._sender.sendmmsg_all([numbered(i, size) for i in range(number)])
        take(self._watch, number)
        counts: list[int] = []
        while sum(counts) < number:
            before = self._direction.received
            assert not self._direction.forward(), "it has to wait"
            counts.append(self._direction.received - before)
        return counts


@pytest.fixture
def way(network: Network) -> Iterator[Way]:
    with ExitStack() as stack:
        yield Way(network, stack)


def test_batch_is_as_large_as_frames_are_small(way: Way) -> None:
    """The first one of another kind tells."""
    way.begin()
    assert way.counts(100, SMALL) == [8, 64, 28]
    assert way.counts(12, LARGE) == [12]
    assert way.counts(12, LARGE) == [8, 4]
    assert way.counts(7, SMALL) == [7]
    assert way.counts(20, SMALL) == [8, 12]
    assert way.counts(5, LARGE) == [5]
    assert way.counts(10, LARGE) == [8, 2]


def test_batch_of_a_size_that_is_asked_for_is_kept(way: Way) -> None:
    way.begin(10)
    assert way.counts(25, SMALL) == [10, 10, 5]
    assert way.counts(12, LARGE) == [10, 2]
    assert way.counts(12, SMALL) == [10, 2]


def test_statistics_show_the_batches(network: Network) -> None:
    """8, then 64, of 200 frames that are there when it begins."""
    with (
        RawSocket(network.left.a, protocol=0) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        bridging(*network.ports) as bridge,
    ):
        with stopped(bridge):
            left.sendmmsg_all([numbered(i) for i in range(200)])
        take(right, 200)
        ab, _ = bridge.end().directions
    assert 8 < ab.per_call <= 50


# Order


@pytest.mark.parametrize("options", [(), ("--batch", "5")], ids=["", "5"])
def test_order_is_kept_whatever_batch_frames_are_in(
    network: Network, options: tuple[str, ...]
) -> None:
    sizes = [SMALL] * 20 + [LARGE] * 9 + [SMALL] * 3 + [LARGE, SMALL] * 5
    with (
        RawSocket(network.left.a, ignore_outgoing=True) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        bridging(*network.ports, *options) as bridge,
    ):
        for first in range(0, 1000, 100):
            packets = [
                numbered(first + i, size) for i, size in enumerate(sizes)
            ]
            left.sendmmsg_all(packets)
            right.sendmmsg_all(packets[::-1])
            same_frames(take(right, len(packets)), packets)
            same_frames(take(left, len(packets)), packets[::-1])
        assert all(one.dropped == 0 for one in bridge.end().directions)


def test_frames_that_wait_both_ways_at_once_keep_their_order(
    network: Network,
) -> None:
    """tc-tbf(8): queues that drain within the bound. Both ways have the same
    batches, and each holds one of them while it waits."""
    for name in network.ports:
        tc(
            *("qdisc", "replace", "dev", name, "root"),
            *("tbf", "burst", "16000", "rate", "100mbit", "limit", "32000"),
        )
    sizes = [SMALL, SMALL, 1_000, SMALL, LARGE, LARGE] * 30
    packets = [numbered(i, size) for i, size in enumerate(sizes)]
    with (
        RawSocket(network.left.a, ignore_outgoing=True) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        bridging(*network.ports) as bridge,
    ):
        for i in range(0, len(packets), 6):
            left.sendmmsg_all(packets[i : i + 6])
            right.sendmmsg_all(packets[i : i + 6])
            if i % 12 == 6:
                same_frames(take(right, 12), packets[i - 6 : i + 6])
                same_frames(take(left, 12), packets[i - 6 : i + 6])
        assert all(one.dropped == 0 for one in bridge.end().directions)


# A frame longer than any batch's, among small ones


@pytest.mark.parametrize("count", [1, 3, 9, 25])
def test_truncated_frame_is_found_among_small_ones(
    network: Network, count: int
) -> None:
    ip("link", "set", network.left.a, "gso_max_size", "200000")
    sent = PacketBatch(2 * count + 1, 200_000)
    small = [numbered(i) for i in range(2 * count)]
    sent.extend(small[:count])
    add(sent, Datagram(data(150_000), version=6), 1_400)
    sent.extend(small[count:])
    with (
        RawSocket(network.left.a, protocol=0, vnet_hdr=True) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        bridging(*network.ports) as bridge,
    ):
        with stopped(bridge):
            left.sendmmsg_all(sent)
        same_frames(take(right, len(small)), small)
        ab, _ = bridge.end().directions
    assert (ab.received, ab.reasons) == (len(small) + 1, {"too long": 1})


def test_truncated_datagram_is_found_among_small_ones(
    network: Network, short_path: Path
) -> None:
    local, remote = str(short_path / "local"), str(short_path / "remote")
    small = [numbered(i) for i in range(8)]
    with (
        RawSocket(network.left.a, ignore_outgoing=True) as left,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer,
    ):
        peer.bind(remote)
        with bridging(network.left.b, f"unix:{local},{remote}") as bridge:
            with stopped(bridge):
                for packet in [*small, bytes(SUPER_FRAME + 1), numbered(8)]:
                    peer.sendto(packet, local)
            same_frames(take(left, 9), [*small, numbered(8)])
            _, ba = bridge.end().directions
    assert (ba.received, ba.reasons) == (10, {"too long": 1})
