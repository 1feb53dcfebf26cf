"""A port that takes no frames keeps nobody waiting, and every frame is
counted."""

import socket
from pathlib import Path
from typing import Any

import pytest
from support import WAIT
from support.calls import eventually
from support.datagrams import Datagram, add, data
from support.frames import frame, numbered
from support.linux import ip
from support.switching import DEFAULT, Lab, lab, open_port, take

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.switching.counts import PortCounts
from rawmmsg.bridge.switching.fabric import Fabric
from rawmmsg.bridge.switching.members import PortRules
from rawmmsg.bridge.switching.queues import Queue

A, B, C = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 4))
BROADCAST = b"\xff" * 6


def counts(net: Lab, port: str) -> PortCounts:
    return net.counts()[port]


def test_a_queue_keeps_frames_in_order_and_has_two_limits() -> None:
    batch = PacketBatch(200, 256)
    packets = [numbered(i, 100) for i in range(200)]
    batch.extend(packets)
    queue = Queue(150, 12_000)
    assert queue.add(batch, 100, 200, 0) == 0
    assert queue.add(batch, 0, 190, 0) == 170
    assert len(queue) == 120
    kept: list[bytes] = []
    while (taken := queue.take()) is not None:
        kept += taken.tolist()
        queue.give_back(taken)
    assert kept == [*packets[100:], *packets[:20]]
    assert len(queue) == 0
    assert queue.add(batch, 0, 200, 100) == 150
    assert queue.clear() == 50
    assert queue.take() is None


class Blocked:
    """A peer of a Unix port that does not read until it is asked to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "peer"
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.path))
        self.sock.settimeout(WAIT)
        self.name = f"unix:{folder / 'switch'},{self.path}"

    def read(self, count: int) -> list[bytes]:
        return [self.sock.recv(70_000) for _ in range(count)]


@pytest.fixture
def blocked(short_path: Path) -> Any:
    peer = Blocked(short_path)
    yield peer
    peer.sock.close()


def test_frames_wait_for_a_port_while_others_get_theirs(
    blocked: Blocked,
) -> None:
    """The kernel queues about ten datagrams for the peer."""
    packets = [numbered(i, dst=BROADCAST, src=A) for i in range(60)]
    options = {"u": (blocked.name, DEFAULT)}
    with lab(DEFAULT, DEFAULT, others=options) as net:
        net.send(0, *packets)
        net.arrives(1, *packets)
        assert blocked.read(60) == packets


def test_what_does_not_fit_into_the_queue_is_dropped(
    blocked: Blocked,
) -> None:
    # The kernel takes ten, or, with a longer net.unix.max_dgram_qlen, as many
    # as the buffer of the socket has room for, which are less than 300.
    packets = [numbered(i, dst=BROADCAST, src=A) for i in range(1000)]
    options = {"u": (blocked.name, PortRules(queue=50))}
    with lab(DEFAULT, DEFAULT, others=options) as net:
        net.send(0, *packets)
        net.arrives(1, *packets)
        eventually(
            lambda: counts(net, "u").copies == 1000, "copies are missing"
        )
        eventually(
            lambda: not counts(net, "u").waiting, "frames wait for ever"
        )
        sent = counts(net, "u").sent
        assert 0 < sent < 400
        assert counts(net, "u").copies_dropped == {"queue_full": 1000 - sent}
        received = blocked.read(sent)
        assert received == sorted(received, key=packets.index)
        # The port is in order again.
        net.send(0, packets[7])
        assert blocked.read(1) == [packets[7]]


def test_super_frames_are_cut_for_sockets_only(blocked: Blocked) -> None:
    large = Datagram(payload=data(5000))
    options = {"u": (blocked.name, DEFAULT)}
    with lab(DEFAULT, DEFAULT, others=options) as net:
        batch = PacketBatch(1, SUPER_FRAME)
        add(batch, large, 1400)
        with RawSocket(net.links[0].a, vnet_hdr=True, protocol=0) as sender:
            sender.sendmmsg_all(batch)
        segments = large.segments(1400)
        assert blocked.read(len(segments)) == segments
        assert len(take(net.ends[1], 1)) == 1
    assert net.last["u"].made == len(segments) - 1
    assert net.last["p1"].made == 0


def test_super_frames_from_a_plain_port_are_cut_for_all() -> None:
    large = Datagram(payload=data(5000))
    seen: list[int] = []
    with lab(
        PortRules(is_plain=True),
        DEFAULT,
        on_frames=lambda _, batch: seen.extend(map(len, batch)),
    ) as net:
        batch = PacketBatch(1, SUPER_FRAME)
        add(batch, large, 1400)
        with RawSocket(net.links[0].a, vnet_hdr=True, protocol=0) as sender:
            sender.sendmmsg_all(batch)
        segments = large.segments(1400)
        net.arrives(1, *segments)
    assert seen == list(map(len, segments))
    assert net.last["p0"].received == len(segments)


def test_segments_from_a_socket_are_merged_for_interfaces(
    blocked: Blocked,
) -> None:
    segments = Datagram(payload=data(14_000)).segments(1400)
    options = {"u": (blocked.name, DEFAULT)}
    with lab(DEFAULT, others=options) as net:
        for segment in segments:
            blocked.sock.sendto(segment, blocked.name[5:].split(",")[0])
        eventually(
            lambda: counts(net, "u").received == 10, "frames are missing"
        )
        sizes = [len(one) for one in take(net.ends[0], 1)]
        assert sum(sizes) >= 1400
    last = net.last["p0"]
    assert last.sent == 10 - last.joined


def test_a_link_that_is_down_is_a_reason() -> None:
    with lab(DEFAULT, DEFAULT) as net:
        net.links[1].down(net.links[1].b)
        net.send(0, frame(bytes(46), BROADCAST, A))
        eventually(
            lambda: counts(net, "p1").copies_dropped == {"link_down": 1},
            "the drop is not counted",
        )
        net.links[1].up()
        net.send(0, frame(bytes(46), BROADCAST, A))
        net.arrives(1, frame(bytes(46), BROADCAST, A))


def test_stations_behind_a_link_that_goes_down_are_forgotten() -> None:
    """Their frames are flooded again: they may come up elsewhere."""
    with lab(DEFAULT, DEFAULT, DEFAULT) as net:
        net.send(1, frame(bytes(46), BROADCAST, B))
        net.arrives(0, frame(bytes(46), BROADCAST, B))
        net.arrives(2, frame(bytes(46), BROADCAST, B))
        net.links[1].down(net.links[1].b)
        eventually(lambda: not len(net.switch.table), "it is still known")
        net.send(0, frame(bytes(46), B, A))
        net.arrives(2, frame(bytes(46), B, A))


def test_an_interface_that_disappears_leaves_the_switch() -> None:
    ended: list[tuple[str, Exception]] = []
    with lab(
        DEFAULT, DEFAULT, DEFAULT, on_end=lambda *why: ended.append(why)
    ) as net:
        net.send(1, frame(bytes(46), BROADCAST, B))
        net.arrives(0, frame(bytes(46), BROADCAST, B))
        net.arrives(2, frame(bytes(46), BROADCAST, B))
        ip("link", "delete", "dev", net.links[1].a)
        eventually(lambda: len(ended) == 1, "the port does not end")
        assert net.switch.names == ["p0", "p2"]
        net.send(0, frame(bytes(46), B, A))
        net.arrives(2, frame(bytes(46), B, A))
    assert ended[0][0] == "p1"
    assert isinstance(ended[0][1], OSError)


def test_ports_are_different() -> None:
    with lab(DEFAULT) as net:
        other = Fabric()
        port = open_port(net.links[0].a)
        other.add("a", port)
        same = open_port(net.links[0].a)
        with pytest.raises(ValueError, match="a and b are the same port"):
            other.add("b", same)
        with pytest.raises(ValueError, match="a: two ports have this name"):
            other.add("a", same)
        same.close()
        other.remove("a").close()
