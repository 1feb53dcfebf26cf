"""The size of the bridge's batches: small for long frames, large for short
ones, and the order of frames is always kept."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.bridging import Network, bridging, stopped, take
from support.datagrams import Datagram, add, data
from support.frames import numbered, same_frames
from support.linux import ip, tc

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.batched import Batched
from rawmmsg.bridge.batches import make_stacks
from rawmmsg.bridge.ports import Port, parse_port
from rawmmsg.testing import Veth

SMALL, LARGE = 60, 15_000
"""Frame lengths. The CPU cache holds many small frames, but few large ones."""


@pytest.fixture
def network(veth_factory: Callable[..., Veth]) -> Network:
    return Network(veth_factory(mtu=20_000), veth_factory(mtu=20_000))


# The size: one direction of a bridge, step by step


class OneDirection:
    """From left.a to right.a, one batch at each call."""

    def __init__(self, network: Network, stack: ExitStack) -> None:
        def opened(name: str) -> Port:
            port = parse_port(name)
            port.open(None)
            stack.callback(port.close)
            return port

        # Opened before the port's socket, so the kernel delivers to it later.
        self._watch = stack.enter_context(
            RawSocket(network.left.b, ignore_outgoing=True)
        )
        self._sender = stack.enter_context(
            RawSocket(network.left.a, protocol=0)
        )
        self._a, self._b = opened(network.left.b), opened(network.right.b)

    def begin(self, batch: int | None = None) -> None:
        stacks, _ = make_stacks(self._a, self._b, batch)
        self._direction = Batched(self._a, self._b, stacks)

    def counts(self, number: int, size: int) -> list[int]:
        """Sends `number` frames of this size; returns how many each batch
        held."""
        self._sender.sendmmsg_all([numbered(i, size) for i in range(number)])
        take(self._watch, number)
        counts: list[int] = []
        while sum(counts) < number:
            before = self._direction.received
            assert not self._direction.forward(), "the direction has to wait"
            counts.append(self._direction.received - before)
        return counts


@pytest.fixture
def direction(network: Network) -> Iterator[OneDirection]:
    with ExitStack() as stack:
        yield OneDirection(network, stack)


def test_short_frames_make_batches_large(direction: OneDirection) -> None:
    """The size adapts after the first batch."""
    direction.begin()
    assert direction.counts(100, SMALL) == [8, 64, 28]
    assert direction.counts(12, LARGE) == [12]
    assert direction.counts(12, LARGE) == [8, 4]
    assert direction.counts(7, SMALL) == [7]
    assert direction.counts(20, SMALL) == [8, 12]
    assert direction.counts(5, LARGE) == [5]
    assert direction.counts(10, LARGE) == [8, 2]


def test_batch_size_can_be_fixed(direction: OneDirection) -> None:
    direction.begin(10)
    assert direction.counts(25, SMALL) == [10, 10, 5]
    assert direction.counts(12, LARGE) == [10, 2]
    assert direction.counts(12, SMALL) == [10, 2]


def test_summary_shows_the_average_batch(network: Network) -> None:
    """200 frames are queued at the start: batches of 8, then of 64."""
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
def test_order_is_kept_across_batch_sizes(
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


def test_order_is_kept_while_both_directions_wait(
    network: Network,
) -> None:
    """The queues (tc-tbf(8)) drain within the time limit. Both directions
    share their batches, and each holds one while it waits."""
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


# A frame longer than a row among short ones


@pytest.mark.parametrize("count", [1, 3, 9, 25])
def test_truncated_frame_among_short_ones_is_dropped(
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


def test_truncated_datagram_among_short_ones_is_dropped(
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
