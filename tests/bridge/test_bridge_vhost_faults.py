"""Rings that are full or broken, and frames that cannot be passed on."""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
from support.bridged_guests import frames_of, guest_and
from support.bridging import bridging, take
from support.datagrams import Datagram, data, super_frame
from support.frames import numbered, same_frames
from support.guest_cards import offload_header
from support.guest_driver import (
    NEGOTIATED,
    RINGS,
    TRANSMIT,
    Guest,
    OffloadHeader,
)
from support.guest_links import VhostUserLink, guest_at
from support.linux import drop_frames_of, tc
from support.peers import fd_peer

from rawmmsg import SUPER_FRAME, RawSocket
from rawmmsg.testing import Veth
from rawmmsg.vhost import Feature

TICKS = ("--stats", "0.02")

MSS = 1_400
LARGE = Datagram(data(30_001))
SEGMENTS = LARGE.segments(MSS)

# A guest that takes no super-frames.
PLAIN = Feature.MRG_RXBUF | Feature.VERSION_1


@pytest.fixture
def guest(short_path: Path) -> Path:
    """The path of a port."""
    return short_path / "guest"


# A full ring


def test_frames_wait_in_the_queue_while_a_guest_takes_none(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    """None is dropped, however long it takes. The other direction continues,
    and the bridge does not spin."""
    packets = [numbered(i) for i in range(300)]
    with guest_and(pair.b, guest, buffers=()) as (bridge, link):
        sender.sendmmsg_all(packets)
        link.guest.send(numbered(1000))
        same_frames(take(far, 1), [numbered(1000)])
        bridge.stays_idle()
        got: list[bytes] = []
        queue = link.guest.receive
        while len(got) < 300:
            link.guest.post([1536] * 20)
            link.wait(0, lambda: queue.used_index != queue.next_used)
            got += [one.frame for one in link.guest.received(again=False)]
        same_frames(got, packets)
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent, ab.dropped) == (300, 300, 0)
    assert (ba.received, ba.sent) == (1, 1)


def test_socket_is_not_read_while_a_guest_takes_no_frames(guest: Path) -> None:
    """So its peer has to wait. No frame is dropped."""
    with fd_peer(socket.SOCK_SEQPACKET) as peer:
        peer.sock.setblocking(False)
        fds = peer.pass_fds
        with guest_and(peer.port, guest, buffers=(), pass_fds=fds) as (
            bridge,
            link,
        ):
            count = 0
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:
                try:
                    peer.sock.send(numbered(count))
                except BlockingIOError:
                    time.sleep(0.001)
                else:
                    count += 1
            bridge.stays_idle()
            link.guest.post([1536] * 20)
            same_frames(frames_of(link, count), map(numbered, range(count)))
            ab, _ = bridge.end().directions
    assert (ab.received, ab.sent, ab.dropped) == (count, count, 0)


def test_guest_waits_while_the_other_one_takes_no_frames(
    guest: Path, short_path: Path
) -> None:
    other = short_path / "other"
    with (
        guest_and(f"vhost-user:{other}", guest) as (bridge, one),
        guest_at(other, buffers=()) as second,
    ):
        for i in range(120):
            one.guest.send(numbered(i), layout=[76])
        bridge.stays_idle()
        one.guest.finish_sent()
        assert one.guest.transmit.in_flight >= 120 - 64
        for at in range(0, 120, 40):
            second.guest.post([1536] * 40)
            same_frames(
                frames_of(second, 40), map(numbered, range(at, at + 40))
            )
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent, ba.dropped) == (120, 120, 0)


def test_segments_wait_for_buffers(
    pair: Veth, sender: RawSocket, guest: Path
) -> None:
    """Those of a super-frame for which the guest has too few buffers, and the
    frames behind them."""
    with (
        RawSocket(pair.a, protocol=0, vnet_hdr=True) as left,
        guest_and(pair.b, guest, features=PLAIN, buffers=[1536] * 10) as (
            bridge,
            link,
        ),
    ):
        left.sendmmsg_all(super_frame(LARGE, MSS))
        sender.send(numbered(1))
        bridge.stays_idle()
        same_frames(frames_of(link, len(SEGMENTS)), SEGMENTS)
        same_frames(frames_of(link, 1), [numbered(1)])
        ab, _ = bridge.end().directions
    assert (ab.received, ab.sent) == (2, len(SEGMENTS) + 1)


def test_segments_of_another_guest_wait_for_buffers(
    guest: Path, short_path: Path
) -> None:
    """Even if there is no frame behind them."""
    other = short_path / "other"
    with (
        guest_and(f"vhost-user:{other}", guest) as (bridge, one),
        guest_at(other, PLAIN, buffers=[1536] * 10) as second,
    ):
        one.guest.send(LARGE.build(whole=False), offload_header(LARGE, MSS))
        bridge.stays_idle()
        same_frames(frames_of(second, len(SEGMENTS)), SEGMENTS)
        one.guest.send(numbered(1))
        same_frames(frames_of(second, 1), [numbered(1)])
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (2, len(SEGMENTS) + 1)


def test_guest_that_goes_while_it_is_full_gets_nothing_late(
    pair: Veth, sender: RawSocket, guest: Path
) -> None:
    """The frames that waited for it are dropped."""
    with bridging(pair.b, f"vhost-user:{guest}", *TICKS) as bridge:
        with guest_at(guest, buffers=[1536] * 5) as link:
            sender.sendmmsg_all([numbered(i) for i in range(100)])
            link.wait(0, lambda: link.guest.receive.used_index == 5)
        bridge.drops(95)
        with guest_at(guest) as link:
            sender.send(numbered(100))
            same_frames(frames_of(link, 1), [numbered(100)])
        ab, _ = bridge.end().directions
    assert (ab.received, ab.sent, ab.reasons) == (101, 6, {"link down": 95})


def test_bridge_ends_while_a_guest_is_full(
    pair: Veth, guest: Path, short_path: Path
) -> None:
    """What it has received, but not sent, is counted as dropped."""
    other = short_path / "other"
    with (
        guest_and(f"vhost-user:{other}", guest) as (bridge, one),
        guest_at(other, PLAIN, buffers=[1536] * 10) as second,
    ):
        one.guest.send(LARGE.build(whole=False), offload_header(LARGE, MSS))
        one.guest.send_all(map(numbered, range(10)))
        second.wait(0, lambda: second.guest.receive.used_index == 10)
        outcome = bridge.end()
    assert outcome.code == 0
    _, ba = outcome.directions
    assert ba.dropped > 0


# A broken ring


@pytest.mark.parametrize("ring", RINGS)
def test_broken_ring_is_reported_once(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path, ring: int
) -> None:
    """The other one continues, and so does the same one when it has been
    started anew."""
    with guest_and(pair.b, guest) as (bridge, link):
        queue = link.guest.queues[ring]
        queue.put_available(queue.size)
        queue.publish()
        link.kick(ring)
        if ring == TRANSMIT:
            works = partial(gets, link, sender)
        else:
            works = partial(sends, link, far)
            sender.sendmmsg_all([numbered(i) for i in range(300)])
        bridge.says(f"rawmmsg: vhost-user:{guest}: ")
        bridge.says(" until its network card or the virtual machine")
        for _ in range(3):
            works()
            link.kick(ring)
            time.sleep(0.3)  # longer than the time between two checks
        for index in RINGS:
            link.stop_ring(index)
        link.guest = Guest(link.guest.memory, notify=link.kick)
        link.start()
        link.guest.post([1536] * 100)
        gets(link, sender)
        sends(link, far)
        outcome = bridge.end()
    assert outcome.text.count(" until its network card") == 1
    assert outcome.directions


def gets(link: VhostUserLink, sender: RawSocket) -> None:
    """Asserts that a frame reaches the guest."""
    sender.send(numbered(7))
    same_frames(frames_of(link, 1), [numbered(7)])


def sends(link: VhostUserLink, far: RawSocket) -> None:
    """Asserts that a frame of the guest arrives."""
    link.guest.send(numbered(8))
    same_frames(take(far, 1), [numbered(8)])


# Frames that cannot be passed on


def test_frames_that_are_too_long_are_dropped(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    """For the interface, or for the buffers of a guest that must use one for
    each frame."""
    features = NEGOTIATED & ~Feature.MRG_RXBUF
    with guest_and(pair.b, guest, features=features, buffers=[500] * 20) as (
        bridge,
        link,
    ):
        for packet in (numbered(1), numbered(2, 1_600), numbered(3)):
            link.guest.send(packet)
        same_frames(take(far, 2), [numbered(1), numbered(3)])
        for packet in (numbered(4), numbered(5, 600), numbered(6)):
            sender.send(packet)
        same_frames(frames_of(link, 2), [numbered(4), numbered(6)])
        link.finish_sent()
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent, ab.reasons) == (3, 2, {"too long": 1})
    assert (ba.received, ba.sent, ba.reasons) == (3, 2, {"too long": 1})


def test_longest_frame_of_a_guest_is_passed_on(
    guest: Path, short_path: Path
) -> None:
    """Although it fills a row of a batch, it was not cut to its size."""
    other = short_path / "other"
    frames = [data(SUPER_FRAME), numbered(1)]
    with (
        guest_and(f"vhost-user:{other}", guest) as (_, one),
        guest_at(other) as second,
    ):
        one.guest.send_all(frames)
        same_frames(frames_of(second, 2), frames)
    with (
        fd_peer(socket.SOCK_SEQPACKET) as peer,
        guest_and(peer.port, guest, pass_fds=peer.pass_fds) as (_, one),
    ):
        one.guest.send_all(frames)
        same_frames([peer.sock.recv(1 << 17) for _ in frames], frames)


@pytest.mark.parametrize("sink", ["interface", "socket"])
def test_malformed_frames_of_a_guest_are_dropped(
    pair: Veth, far: RawSocket, guest: Path, sink: str
) -> None:
    """Shorter than an Ethernet header, or with an offload header that the
    guest must not use."""
    with ExitStack() as stack:
        peer = stack.enter_context(fd_peer(socket.SOCK_DGRAM))
        is_socket = sink == "socket"
        port = peer.port if is_socket else pair.b
        bridge, link = stack.enter_context(
            guest_and(port, guest, pass_fds=peer.pass_fds)
        )
        link.guest.send(numbered(1))
        link.guest.send(b"x" * 13)
        link.guest.send(numbered(2), OffloadHeader(gso_type=9))
        link.guest.send(numbered(3))
        got = peer.receive(2) if is_socket else take(far, 2)
        same_frames(got, [numbered(1), numbered(3)])
        link.finish_sent()
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent, ba.reasons) == (4, 2, {"malformed": 2})


def test_frame_that_the_kernel_refuses_does_not_stop_the_others(
    veth: Veth, guest: Path
) -> None:
    """tc-bpf(8) drops some of them: ENOBUFS each time."""
    drop_frames_of(veth.b, 99)
    with (
        RawSocket(veth.a, ignore_outgoing=True) as far,
        guest_and(veth.b, guest) as (bridge, link),
    ):
        for i in range(30):
            link.guest.send(numbered(i, 99 if i % 3 == 1 else 100))
        wanted = [numbered(i, 100) for i in range(30) if i % 3 != 1]
        same_frames(take(far, 20), wanted)
        link.finish_sent()
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent, ba.reasons) == (30, 20, {"refused": 10})


def test_blocked_socket_does_not_stall_the_guest(guest: Path) -> None:
    """Frames are retried for a while, then dropped. The peer gets new ones
    once it reads again."""
    with (
        fd_peer(socket.SOCK_DGRAM) as peer,
        guest_and(peer.port, guest, size=1024, pass_fds=peer.pass_fds) as (
            bridge,
            link,
        ),
    ):
        for i in range(1000):
            link.guest.send(numbered(i), layout=[76])
        link.finish_sent()
        peer.sock.send(numbered(2000))
        same_frames(frames_of(link, 1), [numbered(2000)])
        peer.sock.setblocking(False)
        got = []
        with suppress(BlockingIOError):
            while True:
                got.append(peer.sock.recv(2048))
        same_frames(got, map(numbered, range(len(got))))
        link.guest.send(numbered(2001))
        same_frames(peer.receive(1), [numbered(2001)])
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (1001, len(got) + 1)
    assert ba.reasons == {"queue full": 1000 - len(got)}


def test_full_queue_of_the_interface_does_not_stall_the_guest(
    veth: Veth, guest: Path
) -> None:
    """tc-tbf(8) with room for 3,000 bytes returns ENOBUFS. Frames are retried,
    then dropped. The other direction continues."""
    tc(
        *("qdisc", "replace", "dev", veth.b, "root"),
        *("tbf", "burst", "2000", "rate", "100bit", "limit", "3000"),
    )
    with (
        RawSocket(veth.a, protocol=0) as sender,
        guest_and(veth.b, guest) as (bridge, link),
    ):
        link.guest.send_all(numbered(i, 300) for i in range(100))
        for i in range(20):
            sender.send(numbered(i))
            same_frames(frames_of(link, 1), [numbered(i)])
        link.finish_sent()
        tc("qdisc", "delete", "dev", veth.b, "root")
        link.guest.send(numbered(200))
        link.finish_sent()
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (20, 20)
    assert (ba.received, set(ba.reasons)) == (101, {"queue full"})


def kick_for_nothing(link: VhostUserLink) -> None:
    for index in RINGS:
        link.kick(index)


def move_index(link: VhostUserLink) -> None:
    """Pretends to add an entry, and takes it back."""
    queue = link.guest.transmit
    for change in 1, 0:
        queue.set_available_index(queue.next_available + change)
        link.kick(TRANSMIT)


@pytest.mark.parametrize("attack", [kick_for_nothing, move_index])
def test_guest_cannot_keep_the_bridge_busy_for_nothing(
    pair: Veth,
    sender: RawSocket,
    guest: Path,
    attack: Callable[[VhostUserLink], None],
) -> None:
    with guest_and(pair.b, guest) as (bridge, link):
        before = bridge.sleeps
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            attack(link)
        # After 64 kicks for nothing, it does not look at a ring for 0.25 s.
        # Without that limit, it wakes up tens of thousands of times.
        assert bridge.sleeps - before < 2000
        bridge.stays_idle()
        sender.sendmmsg_all([numbered(1)])
        same_frames(frames_of(link, 1), [numbered(1)])
