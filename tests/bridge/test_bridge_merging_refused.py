"""Super-frames that the bridge has made and the kernel refuses: all frames in
them are counted, and none is lost if it can be sent by itself."""

import errno
import fcntl
import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest
from support.bridge_merging import (
    MARKER,
    TCP,
    OneWay,
    chained,
    cut,
    cut_frames,
    flow,
    until_marker,
)
from support.bridging import Running, before_6_2, stopped
from support.calls import eventually
from support.datagrams import HEADER_COLUMNS, KINDS, columns
from support.frames import numbered, pending, same_frames
from support.linux import drop_frames_of, ip, tc, tun_device
from support.old_kernel import without_super_frames
from support.peers import fd_peer

from rawmmsg import GSO_UDP_L4, SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.drops import Mark
from rawmmsg.bridge.sending import PAUSES
from rawmmsg.testing import Veth


def test_link_that_is_down_drops_all_frames_of_a_super_frame(
    veth: Veth, stack: ExitStack
) -> None:
    one = OneWay(stack, veth.b)
    one.send(flow(TCP, 5))
    ip("link", "set", veth.b, "down")
    one.send(flow(TCP, 5) + flow(KINDS["udp6"], 3) + [MARKER])
    assert one.dropped == {"link_down": 9}
    assert one.direction.sent == 5


def test_interface_that_disappears_drops_all_frames_of_a_super_frame(
    veth: Veth, stack: ExitStack
) -> None:
    one = OneWay(stack, veth.b)
    one.send(flow(TCP, 5))
    veth.delete()
    with pytest.raises(OSError, match=veth.b) as caught:
        one.send(flow(TCP, 5) + flow(KINDS["udp6"], 3) + [MARKER])
    assert caught.value.errno == errno.ENODEV
    assert one.dropped == {"link_down": 9}


def test_refused_super_frame_does_not_affect_others(
    veth: Veth, stack: ExitStack
) -> None:
    """A filter (tc) drops every super-frame of one length, at any position.
    All frames in it are counted."""
    one = OneWay(stack, veth.b)
    far = stack.enter_context(
        RawSocket(veth.a, ignore_outgoing=True, vnet_hdr=True)
    )
    bad = flow(TCP, 4, 700)
    drop_frames_of(veth.b, TCP.header_size + 4 * 700)
    good = [flow(replace(TCP, port=port), 3) for port in (1, 2, 3)]
    wanted = chained(good)
    for i in range(50):
        batch = [*good]
        batch.insert(i % 4, bad)
        one.send(chained(batch))
        same_frames(cut_frames(far, len(wanted)), wanted)
    assert one.dropped == {"refused": 200}
    assert one.direction.sent == 50 * len(wanted)


# A full queue

TUNSETOFFLOAD = 0x400454D0  # <linux/if_tun.h>
TUN_F_TCP = 0x0F  # checksums, and TCP over IPv4 and IPv6
HEADER = 10

ROOM = 19


@pytest.fixture
def small_tap() -> Iterator[tuple[int, str]]:
    """A tap interface that takes super-frames, and that reports when its queue
    of 19 frames is full: its descriptor and name."""
    with tun_device("tap", vnet_hdr=True) as (number, name):
        fcntl.ioctl(number, TUNSETOFFLOAD, TUN_F_TCP)
        tc("qdisc", "replace", "dev", name, "root", "noqueue")
        ip("link", "set", name, "txqueuelen", str(ROOM))
        yield number, name


def read_frames(number: int, count: int) -> list[bytes]:
    """Reads so many frames from a tap; returns what they are cut into."""
    batch = PacketBatch(count, SUPER_FRAME)
    for i in range(count):
        read = os.read(number, 70_000)
        batch.append(read[HEADER:])
        header = struct.unpack_from("=BBHHHH", read)
        for column, value in zip(HEADER_COLUMNS, header, strict=True):
            columns(batch)[column][i] = value
    return cut(batch)


FLOWS = [flow(replace(TCP, port=port), 3) for port in (1, 2, 3)]
ALL_FLOWS = chained(FLOWS)


@pytest.mark.usefixtures("tap")
def test_super_frame_is_tried_again_while_the_queue_is_full(
    small_tap: tuple[int, str], stack: ExitStack
) -> None:
    number, name = small_tap
    one = OneWay(stack, name)
    for i in range(ROOM):
        one.send(flow(replace(TCP, port=i), 2))
    for packet in ALL_FLOWS:
        one.guest.send(packet)
    assert one.direction.forward()
    assert not one.direction.accepts, "it waits"
    assert one.direction.sent == 2 * ROOM
    assert len(read_frames(number, ROOM)) == 2 * ROOM
    one.finish()
    same_frames(read_frames(number, 3), ALL_FLOWS)
    assert one.dropped == {}
    assert (one.direction.sent, one.direction.joined) == (47, 25)


@pytest.mark.usefixtures("tap")
def test_full_queue_drops_all_frames_of_a_super_frame(
    small_tap: tuple[int, str], stack: ExitStack
) -> None:
    """The queue has room for 6 batches of 3 super-frames, and 1 more."""
    number, name = small_tap
    one = OneWay(stack, name)
    for _ in range(10):
        one.send(ALL_FLOWS)
    assert one.direction.received == 90
    assert one.direction.sent == 57
    assert one.dropped == {"queue_full": 33}
    same_frames(read_frames(number, ROOM), (ALL_FLOWS * 7)[:57])
    one.send(ALL_FLOWS)
    same_frames(read_frames(number, 3), ALL_FLOWS)


@pytest.mark.usefixtures("tap")
def test_bridge_that_ends_drops_all_frames_of_a_super_frame(
    small_tap: tuple[int, str], stack: ExitStack
) -> None:
    _, name = small_tap
    one = OneWay(stack, name)
    for i in range(ROOM - 1):
        one.send([numbered(i)])
    for packet in ALL_FLOWS:
        one.guest.send(packet)
    assert one.direction.forward()
    one.direction.finish()
    assert one.direction.sent == ROOM - 1 + 3
    assert one.dropped == {"queue_full": 6}


# Linux before 6.2, which does not know UDP super-frames


def test_udp_is_not_merged_if_the_kernel_refuses_it(
    pair: Veth, end: RawSocket, stack: ExitStack
) -> None:
    """The frames of the first super-frame are sent all the same, and the user
    is informed once. TCP is merged as before."""
    one = OneWay(stack, pair.b)
    udp = [
        flow(replace(KINDS[kind], port=port), 4)
        for kind in ("udp4", "udp6")
        for port in (1, 2)
    ]
    packets = [*FLOWS[0], *chained(udp), *FLOWS[1], MARKER]
    for i in range(3):
        _, refused = without_super_frames(
            GSO_UDP_L4, partial(one.send, packets)
        )
        assert (refused > 0) == (i == 0)
        got = until_marker(end)
        # At first, the TCP frames behind the refused one are sent plain, too.
        assert len(got) == (1 + 16 + 3 if i == 0 else 1 + 16 + 1)
        same_frames(cut(got), packets[:-1])
    assert one.said == [
        f"{pair.b}: the kernel does not take UDP super-frames (Linux before"
        " 6.2); UDP is not merged any more"
    ]
    assert one.dropped == {}
    assert one.direction.received == one.direction.sent == 3 * len(packets)
    assert one.direction.joined == 2 + 4 + 4


def test_udp_is_not_merged_if_the_kernel_refuses_it_behind_a_full_queue(
    pair: Veth, end: RawSocket, stack: ExitStack
) -> None:
    """The frames before it, which were passed over, are sent first."""
    refusals = [errno.ENOBUFS] * (PAUSES + 1)

    def send(sock: RawSocket, batch: PacketBatch, at: int) -> int:
        types = getattr(batch, "gso_types", [0] * len(batch))
        if refusals and types[at] != GSO_UDP_L4:
            raise OSError(refusals.pop(), os.strerror(errno.ENOBUFS))
        return before_6_2(sock, batch, at)

    one = OneWay(stack, pair.b, batch=5)
    one.change_sending(send)
    packets = [*flow(TCP, 5), *flow(KINDS["udp4"], 5)]
    for packet in packets:
        one.guest.send(packet)
    one.send([MARKER])
    assert not refusals
    got = until_marker(end)
    assert len(got) == 1 + 5
    same_frames(cut(got), packets)
    assert len(one.said) == 1
    assert one.dropped == {}


def test_frame_that_fails_behind_a_refused_super_frame_still_fails(
    pair: Veth, end: RawSocket, stack: ExitStack
) -> None:
    one = OneWay(stack, pair.b)
    udp, tcp = flow(KINDS["udp4"], 4), flow(TCP, 2)
    short = tcp[0][:13]
    packets = [*udp[:2], short, *udp[2:], short, *tcp, MARKER]
    without_super_frames(GSO_UDP_L4, partial(one.send, packets))
    same_frames(until_marker(end).tolist(), udp + tcp)
    assert one.dropped == {"malformed": 2}
    assert one.direction.sent == 7


@pytest.mark.parametrize("seed", range(30))
def test_frames_are_counted_whatever_the_kernel_refuses(
    pair: Veth, end: RawSocket, stack: ExitStack, seed: int
) -> None:
    """A kernel that takes a random number of frames, that refuses some of them
    once or for ever, and does not know UDP super-frames. Each frame arrives
    once, in the order of its flow, or is counted as dropped."""
    draw = random.Random(seed)

    def send(sock: RawSocket, batch: PacketBatch, at: int) -> int:
        types = getattr(batch, "gso_types", [0] * len(batch))
        if types[at] >= min(Mark):
            return sock.sendmmsg(batch, at)  # raises ValueError
        if draw.random() < 0.4:
            number = draw.choice([errno.ENOBUFS] * 8 + [errno.EMSGSIZE])
            raise OSError(number, os.strerror(number))
        if (types[at] == GSO_UDP_L4 and seed % 2) or draw.random() < 0.02:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        stop = at + draw.randint(1, len(batch) - at)
        while stop > at + 1 and types[stop - 1] == GSO_UDP_L4 and seed % 2:
            stop -= 1
        return sock.sendmmsg(batch, at, stop)

    one = OneWay(stack, pair.b)
    one.change_sending(send)
    flows = [
        flow(replace(kind, port=port), 60, 50)
        for port in (1, 2)
        for kind in KINDS.values()
    ]
    flows.append([numbered(i) for i in range(20)])
    left = [iter(packets) for packets in flows]
    order = [i for i, packets in enumerate(flows) for _ in packets]
    draw.shuffle(order)
    at = 0
    while at < len(order):
        size = draw.randint(1, 200)
        packets = [next(left[i]) for i in order[at : at + size]]
        packets.insert(draw.randint(0, len(packets)), b"too short")
        one.send(packets)
        at += size
    assert one.direction.sent + one.direction.dropped.total == (
        one.direction.received
    )
    got = cut_frames(end, one.direction.sent)
    assert pending(end) == []
    assert len(got) == one.direction.sent
    for packets in flows:
        rest = iter(packets)
        assert all(
            packet in rest for packet in got if packet in set(packets)
        ), "a frame came twice, or before an earlier one"


OLD_KERNEL = """
import sys

from rawmmsg.bridge.ports import SocketPort
from rawmmsg.cli import main
from support.bridging import before_6_2

take = SocketPort.take

def take_and_change(port, sock):
    take(port, sock)
    port.sendmmsg = lambda batch, at: before_6_2(sock, batch, at)

SocketPort.take = take_and_change
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_command_says_once_that_the_kernel_refuses_udp(
    pair: Veth, end: RawSocket, quiet: bool
) -> None:
    """Unless it prints only errors."""
    packets = flow(KINDS["udp4"], 5)
    with fd_peer(socket.SOCK_SEQPACKET) as peer:
        arguments = [peer.port, pair.b, "--merge", "tcp,udp"]
        with Running(
            *(*arguments, *["--quiet"] * quiet),
            pass_fds=peer.pass_fds,
            program=("-c", OLD_KERNEL),
        ) as bridge:
            until_promiscuous(pair.b)
            for _ in range(3):
                with stopped(bridge):
                    for packet in (*packets, MARKER):
                        peer.sock.send(packet)
                same_frames(until_marker(end).tolist(), packets)
            outcome = bridge.end()
    words = f"rawmmsg: {pair.b}: the kernel does not take UDP super-frames"
    assert outcome.text.count(words) == (not quiet)
    if not quiet:
        ab, _ = outcome.directions
        assert (ab.sent, ab.merged) == (18, 0)


def until_promiscuous(interface: str) -> None:
    """Waits until the bridge has opened the interface."""
    eventually(
        lambda: "promiscuity 1" in ip("-d", "link", "show", interface),
        "the bridge does not start",
    )
