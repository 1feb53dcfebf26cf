"""Every frame and every copy is counted, whatever happens to ports."""

import random
import socket
from pathlib import Path

import pytest
from support.datagrams import Datagram, add, data
from support.frames import frame, numbered
from support.guest_links import guest_at
from support.linux import drop_frames_of, ip
from support.switching import DEFAULT, Lab, lab

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.switching.members import PortRules
from rawmmsg.bridge.switching.vlans import Vlans

STATIONS = [bytes((2, 0, 0, 0, 0, i)) for i in range(8)]
TAGS = (b"", bytes.fromhex("81000005"), bytes.fromhex("81000fff"))


def random_frame(rng: random.Random) -> bytes:
    packet = numbered(
        rng.randrange(1000),
        rng.choice((60, 60, 1000, 1514)),
        dst=rng.choice([*STATIONS, b"\xff" * 6, b"\xff" * 6]),
        src=rng.choice([*STATIONS, bytes(6)]),
    )
    return packet[:12] + rng.choice(TAGS) + packet[12:]


def super_frames() -> PacketBatch:
    batch = PacketBatch(4, SUPER_FRAME)
    for size in (2000, 60_000, 5000):
        add(batch, Datagram(payload=data(size)), 1400)
    # Its header promises what the frame does not have.
    add(batch, Datagram(payload=data(3000)), 1400)
    return batch


def make_trouble(net: Lab, rng: random.Random) -> None:
    """Sends frames, some of which cannot be forwarded, while links go down
    and up."""
    with RawSocket(net.links[0].a, vnet_hdr=True, protocol=0) as sender:
        for _ in range(30):
            port = rng.randrange(3)
            net.send(port, *(random_frame(rng) for _ in range(40)))
            sender.sendmmsg_all(super_frames())
            if rng.random() < 0.3:
                flap(net, rng.choice((1, 2)))


def flap(net: Lab, port: int) -> None:
    link = net.links[port]
    link.down(link.b)
    net.send(0, frame(bytes(46), b"\xff" * 6, STATIONS[0]))
    net.settle()
    link.up(link.b)


@pytest.mark.parametrize("seed", range(4))
def test_counts_add_up_while_the_kernel_refuses_frames(seed: int) -> None:
    """A filter drops some of them on their way out (ENOBUFS), and others
    behind them are too long. What waits meanwhile does not fit into the
    queue."""
    rng = random.Random(seed)
    with lab(DEFAULT, PortRules(queue=8), DEFAULT) as net:
        drop_frames_of(net.links[1].b, 300)
        ip("link", "set", "dev", net.links[1].b, "mtu", "1000")
        for _ in range(60):
            net.send(
                0,
                *(
                    numbered(
                        i, rng.choice((60, 300, 300, 1400)), src=STATIONS[0]
                    )
                    for i in range(rng.randrange(1, 60))
                ),
            )
            net.counts()
    last = net.last["p1"]
    assert {"queue_full", "refused", "too_long"} <= set(last.copies_dropped)
    assert net.last["p2"].sent == net.last["p0"].received


@pytest.mark.parametrize("seed", range(3))
def test_all_counts_add_up(short_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    blocked, guest = short_path / "peer", short_path / "guest"
    others = {
        "blocked": (f"unix:{short_path / 'switch'},{blocked}", DEFAULT),
        "guest": (f"vhost-user:{guest}", PortRules(queue=32)),
        "absent": (f"vhost-user:{short_path / 'absent'}", DEFAULT),
    }
    limited = PortRules(flood=2000)
    access = PortRules(Vlans.access(5), is_isolated=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(str(blocked))
        with (
            lab(DEFAULT, limited, access, others=others) as net,
            guest_at(guest, buffers=[1536] * 64) as link,
        ):
            make_trouble(net, rng)
            for _ in range(5):
                peer.recv(70_000)
            link.receive(20)
            make_trouble(net, rng)
            net.settle()  # asserts it
    last = net.last
    assert {"malformed", "vlan"} <= set(last["p0"].dropped)
    assert "queue_full" in last["blocked"].copies_dropped
    assert "link_down" in last["absent"].copies_dropped
    assert "link_down" in last["p1"].copies_dropped
    assert last["blocked"].made > 0
    assert all(one.adds_up for one in last.values())
