"""Guests as ports of a switch."""

from pathlib import Path

from support.bridged_guests import LINUX_BUFFERS, frames_of
from support.calls import eventually
from support.datagrams import Datagram, add, data
from support.frames import numbered
from support.guest_driver import NEGOTIATED
from support.guest_links import guest_at
from support.switching import DEFAULT, Lab, lab

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.switching.members import PortRules
from rawmmsg.bridge.switching.vlans import Vlans
from rawmmsg.vhost import Feature

A, B, C = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 4))
BROADCAST = b"\xff" * 6


def guest(path: Path, rules: PortRules = DEFAULT) -> tuple[str, PortRules]:
    return f"vhost-user:{path}", rules


def test_guests_and_an_interface_reach_each_other(short_path: Path) -> None:
    g, h = short_path / "g", short_path / "h"
    with (
        lab(DEFAULT, others={"g": guest(g), "h": guest(h)}) as net,
        guest_at(g, buffers=LINUX_BUFFERS) as one,
        guest_at(h, buffers=LINUX_BUFFERS) as two,
    ):
        hello = numbered(1, src=A)
        one.guest.send(hello)
        assert frames_of(two, 1) == [hello]
        net.arrives(0, hello)
        answer = numbered(2, dst=A, src=B)
        two.guest.send(answer)
        assert frames_of(one, 1) == [answer]
        packets = [
            numbered(i, dst=(A, B, BROADCAST)[i % 3], src=C)
            for i in range(150)
        ]
        net.send(0, *packets)
        for link, own in ((one, A), (two, B)):
            assert frames_of(link, 100) == [
                packet for packet in packets if packet[:6] in (own, BROADCAST)
            ]
        net.is_quiet(0)
        assert net.last["g"].sent == 101


def test_tags_for_guests(short_path: Path) -> None:
    path = short_path / "g"
    access = guest(path, PortRules(Vlans.access(5)))
    with (
        lab(DEFAULT, others={"g": access}) as net,
        guest_at(path, buffers=LINUX_BUFFERS) as link,
    ):
        plain, answer = numbered(1, src=A), numbered(2, dst=A, src=B)
        link.guest.send(plain)
        net.arrives(0, tagged(5, plain))
        net.send(0, answer, tagged(5, answer))
        assert frames_of(link, 1) == [answer]


def tagged(vlan: int, packet: bytes) -> bytes:
    tag = bytes.fromhex("8100") + vlan.to_bytes(2, "big")
    return packet[:12] + tag + packet[12:]


def test_a_guest_without_buffers_keeps_nobody_waiting(
    short_path: Path,
) -> None:
    path = short_path / "g"
    packets = [numbered(i, src=A) for i in range(500)]
    rules = PortRules(queue=64)
    with (
        lab(DEFAULT, DEFAULT, others={"g": guest(path, rules)}) as net,
        guest_at(path, buffers=[1536] * 8) as link,
    ):
        link.guest.send(numbered(0, src=B))  # it is connected
        net.arrives(0, numbered(0, src=B))
        net.arrives(1, numbered(0, src=B))
        net.send(0, *packets)
        net.arrives(1, *packets)
        net.settle()
        assert net.last["g"].waiting > 0
        assert set(net.last["g"].copies_dropped) == {"queue_full"}
        # It gets what waits when it has buffers again.
        kept = 500 - net.last["g"].copies_dropped["queue_full"]
        seen = frames_of(link, kept)
        assert seen == packets[:kept]
        net.settle()
        assert (net.last["g"].sent, net.last["g"].waiting) == (kept, 0)


def test_super_frames_for_a_guest_that_takes_none_are_cut(
    short_path: Path,
) -> None:
    path = short_path / "g"
    large = Datagram(payload=data(5000))
    with (
        lab(DEFAULT, others={"g": guest(path)}) as net,
        guest_at(path, Feature.VERSION_1, buffers=LINUX_BUFFERS) as link,
    ):
        link.guest.send(numbered(0, src=B))
        net.arrives(0, numbered(0, src=B))
        batch = PacketBatch(1, SUPER_FRAME)
        add(batch, large, 1400)
        with RawSocket(net.links[0].a, vnet_hdr=True, protocol=0) as sender:
            sender.sendmmsg_all(batch)
        assert frames_of(link, 4) == large.segments(1400)
        net.settle()
        assert net.last["g"].made == 3


def test_a_guest_that_is_started_again_is_served_again(
    short_path: Path,
) -> None:
    path = short_path / "g"
    with lab(DEFAULT, others={"g": guest(path)}) as net:
        for number in range(2):
            with guest_at(path, NEGOTIATED, buffers=LINUX_BUFFERS) as link:
                link.guest.send(numbered(number, src=B))
                net.arrives(0, numbered(number, src=B))
                net.send(0, numbered(9, dst=B, src=A))
                assert frames_of(link, 1) == [numbered(9, dst=B, src=A)]
        eventually(lambda: is_gone(net), "frames wait for no guest")


def is_gone(net: Lab) -> bool:
    net.send(0, numbered(9, dst=B, src=A))
    return "link_down" in net.counts()["g"].copies_dropped
