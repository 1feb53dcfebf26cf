"""Peers that take no frames, or die, while others get theirs. Every frame is
counted, at every moment."""

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import WAIT
from support.calls import eventually
from support.datagrams import Datagram, add, data
from support.frames import numbered
from support.guest_links import guest_at
from support.switching import DEFAULT, Lab, lab, open_port

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.switching.members import PortRules

A, B, C = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 4))


class Peers:
    """Peers of a Unix port and of a stream port, which can die."""

    def __init__(self, folder: Path) -> None:
        self.ports = {
            "unix": (f"unix:{folder / 'switch'},{folder / 'peer'}", DEFAULT),
            "stream": (f"stream:unix:{folder / 'listen'},listen", DEFAULT),
        }
        self._folder = folder
        self._open: list[socket.socket] = []

    def start(self) -> None:
        """The stream's send buffer is small."""
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        datagrams.bind(str(self._folder / "peer"))
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(self._folder / "listen"))
        self._open = [datagrams, stream]
        for sock in self._open:
            sock.settimeout(WAIT)

    def send(self, packet: bytes) -> None:
        datagrams, stream = self._open
        datagrams.sendto(packet, str(self._folder / "switch"))
        stream.sendall(len(packet).to_bytes(4, "big") + packet)

    def read(self) -> None:
        """Takes what has arrived."""
        for sock in self._open:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while sock.recv(70_000):
                    pass
            sock.settimeout(WAIT)

    def die(self) -> None:
        for sock in self._open:
            sock.close()
        self._open.clear()
        (self._folder / "peer").unlink(missing_ok=True)


@pytest.fixture
def peers(short_path: Path) -> Iterator[Peers]:
    made = Peers(short_path)
    yield made
    made.die()


def test_a_port_that_takes_nothing_delays_nobody(
    peers: Peers, short_path: Path
) -> None:
    """Whenever the switch counts, all other frames have been sent."""
    late: list[int] = []
    peers.ports["guest"] = (f"vhost-user:{short_path / 'vm'}", DEFAULT)

    def look() -> None:
        counts = net.switch.statistics()
        late.append(counts["p0"].forwarded - counts["p1"].sent)

    with (
        lab(DEFAULT, DEFAULT, others=peers.ports) as net,
        guest_at(short_path / "vm", buffers=[1536] * 8),
    ):
        peers.start()
        net.switch.every(0.001, look)
        for first in range(0, 4000, 50):
            packets = [
                numbered(i, 1500, src=A) for i in range(first, first + 50)
            ]
            net.send(0, *packets)
            net.arrives(1, *packets)
        net.settle()
        last = net.last
        assert len(late) > 10
        assert not any(late)
        assert last["p1"].sent == last["p0"].received == 4000
        for name in peers.ports:
            assert last[name].copies == 4000
            assert last[name].copies_dropped["queue_full"] > 3000
            assert last[name].waiting <= 256


def make_trouble(net: Lab, peers: Peers, rng: random.Random) -> None:
    """Frames of all kinds, from all ports, while peers block, read and
    die."""
    segments = Datagram(payload=data(14_000)).segments(1400)
    batch = PacketBatch(2, SUPER_FRAME)
    add(batch, Datagram(payload=data(20_000)), 1400)
    with RawSocket(net.links[0].a, vnet_hdr=True, protocol=0) as sender:
        for _ in range(25):
            peers.start()
            for i in range(rng.randrange(80)):
                source = bytes((2, 1, 0, 0, rng.randrange(8), i))
                size = rng.choice((60, 1514))
                net.send(rng.randrange(2), numbered(i, size, src=source))
            sender.sendmmsg_all(batch)
            for packet in segments:
                peers.send(packet)
            if rng.random() < 0.5:
                peers.read()
            if rng.random() < 0.3:
                link = net.links[1]
                link.down(link.b)
                net.counts()
                link.up(link.b)
            peers.die()
            net.counts()


@pytest.mark.parametrize("seed", range(3))
def test_counts_add_up_while_peers_die(peers: Peers, seed: int) -> None:
    """The table is small, a hook drops frames, super-frames are cut and
    segments merged."""
    rng = random.Random(seed)

    def drop_some(_: str, batch: PacketBatch) -> list[int]:
        return [i for i in range(len(batch)) if batch[i][-1] % 7 == 0]

    rules = PortRules(is_plain=True), DEFAULT
    with lab(
        *rules, others=peers.ports, on_frames=drop_some, stations=20
    ) as net:
        make_trouble(net, peers, rng)
        net.settle()
    last = net.last
    assert last["p0"].dropped["hook"] > 0
    assert last["unix"].received > 0
    assert last["stream"].received > 0
    assert sum(last["unix"].copies_dropped.values()) > 0
    assert "link_down" in last["stream"].copies_dropped
    assert len(net.switch.table) <= 20
    assert net.switch.table.displaced > 0


def test_ports_end_and_come_back_while_frames_pass() -> None:
    """Statistics go on, and addresses behind a port are forgotten with it."""
    with lab(DEFAULT, DEFAULT, DEFAULT) as net:
        net.send(2, numbered(0, src=C))
        for port in (0, 1):
            net.arrives(port, numbered(0, src=C))
        changes: list[int] = []

        def change() -> None:
            if changes:
                return
            net.switch.remove("p2").close()
            changes.append(len(net.switch.table))
            net.switch.add("p2", open_port(net.links[2].b))

        net.switch.every(0.001, change)
        eventually(lambda: len(changes) == 1, "the port is not removed")
        assert changes == [0]
        packets = [numbered(i, dst=C, src=A) for i in range(50)]
        net.send(0, *packets)
        for port in (1, 2):
            net.arrives(port, *packets)
        assert net.counts()["p2"].received == 1
        net.send(2, numbered(1, dst=A, src=C))
        net.arrives(0, numbered(1, dst=A, src=C))
        net.send(0, *packets)
        net.arrives(2, *packets)
        net.is_quiet(1)
