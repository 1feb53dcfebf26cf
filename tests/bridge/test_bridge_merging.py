"""Frames from a socket leave by an interface as super-frames, and every frame
is counted as if there were none."""

import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from support.bridge_merging import (
    COUNT,
    MARKER,
    SIZE,
    TCP,
    OneWay,
    arrived,
    chained,
    cut,
    cut_frames,
    flow,
    until_marker,
)
from support.bridging import Network, Running, bridging, stopped, take
from support.calls import eventually
from support.datagrams import (
    KINDS,
    TAGS,
    columns,
    data,
    leave_checksums_to_software,
    super_frame,
)
from support.frames import numbered, pending, same_frames
from support.linux import ip
from support.peers import (
    PEERS,
    Peer,
    fd_peer,
    joined,
    open_peer,
    unix_peer,
)

from rawmmsg import PACKET_QDISC_BYPASS, SOL_PACKET, SUPER_FRAME, RawSocket
from rawmmsg.testing import Veth

# The command


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Peer]:
    with open_peer(request.param, short_path) as peer:
        yield peer


def test_tcp_from_a_socket_is_merged(
    pair: Veth, end: RawSocket, peer: Peer
) -> None:
    """Each batch arrives as one super-frame, which is cut into the frames that
    were sent."""
    kinds = [
        replace(KINDS[name], tags=tags)
        for name in ("tcp4", "tcp6")
        for tags in TAGS.values()
    ]
    with joined(pair, peer) as (bridge, send):
        for kind in kinds:
            with stopped(bridge):
                for packet in flow(kind):
                    send(packet)
            batch = arrived(end)
            assert len(batch) == 1
            assert batch.gso_sizes[0] == SIZE
            same_frames(cut(batch), flow(kind))
        _, ba = bridge.end().directions
    frames = len(kinds) * COUNT
    assert (ba.received, ba.sent, ba.merged) == (frames, frames, len(kinds))


@pytest.mark.parametrize(
    ("options", "merged"),
    [
        ((), {"tcp4", "tcp6"}),
        (("--merge", "tcp"), {"tcp4", "tcp6"}),
        (("--merge", "tcp,udp"), {"tcp4", "tcp6", "udp4", "udp6"}),
        (("--merge", "udp,tcp"), {"tcp4", "tcp6", "udp4", "udp6"}),
        (("--no-merge",), set()),
    ],
)
def test_option_says_what_is_merged(
    pair: Veth, end: RawSocket, options: tuple[str, ...], merged: set[str]
) -> None:
    """TCP alone by default: UDP datagrams arrive one by one."""
    packets = {name: flow(kind, 5) for name, kind in KINDS.items()}
    with (
        fd_peer(socket.SOCK_SEQPACKET) as peer,
        joined(pair, peer, *options) as (bridge, send),
    ):
        with stopped(bridge):
            for packet in chained(packets.values()):
                send(packet)
            send(MARKER)
        got = until_marker(end)
        _, ba = bridge.end().directions
    large = [i for i in range(len(got)) if len(got[i]) > 2 * SIZE]
    assert len(large) == len(merged)
    assert len(got) == len(merged) + 5 * (len(KINDS) - len(merged))
    same_frames(cut(got), chained(packets.values()))
    assert (ba.received, ba.sent) == (21, 21)
    assert ba.merged == (len(got) + 1 if merged else 0)


def test_frames_of_two_interfaces_are_not_merged(network: Network) -> None:
    """They pass as they are, with their offload headers."""
    packets = flow(TCP, 10)
    with (
        RawSocket(network.left.a, protocol=0, vnet_hdr=True) as left,
        RawSocket(
            network.right.a, vnet_hdr=True, ignore_outgoing=True
        ) as right,
        bridging(*network.ports, "--merge", "tcp,udp") as bridge,
    ):
        with stopped(bridge):
            left.sendmmsg_all([*packets, MARKER])
        got = until_marker(right)
        same_frames(got.tolist(), packets)
        for column in columns(got).values():
            assert set(column[:10]) == {0}
        ab, _ = bridge.end().directions
    assert (ab.sent, ab.merged) == (11, 0)


def test_super_frame_crosses_two_bridges(
    pair: Veth, end: RawSocket, veth: Veth, short_path: Path
) -> None:
    """The first cuts it, the second merges it again."""
    one, other = short_path / "one", short_path / "other"
    sent = super_frame(replace(TCP, payload=data(COUNT * SIZE)), SIZE)

    def arrives_in_one_piece() -> bool:
        with stopped(second):
            start.sendmmsg_all(sent)
            time.sleep(0.05)  # until the first has cut it
        got = arrived(end)
        if len(got) > 1 or len(got[0]) < len(sent[0]):
            cut_frames(end, COUNT - len(cut(got)))
            return False
        same_frames(got.tolist(), sent.tolist())
        for name, column in columns(got).items():
            # A hint, which the kernel computes itself.
            if name != "header_lengths":
                assert column[0] == columns(sent)[name][0], name
        return True

    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as start,
        bridging(pair.b, f"unix:{other},{one}") as second,
        bridging(veth.b, f"unix:{one},{other}"),
    ):
        eventually(arrives_in_one_piece, "it always arrives in pieces")


def test_frames_that_fail_are_not_merged(
    pair: Veth, end: RawSocket, short_path: Path
) -> None:
    """A stranger's frame, even if it continues the flow; one that is too
    short, and one that is too long."""
    packets = flow(TCP, 6)
    with (
        unix_peer(short_path) as peer,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger,
        joined(pair, peer) as (bridge, send),
    ):
        with stopped(bridge):
            for packet in packets[:2]:
                send(packet)
            stranger.sendto(packets[2], str(short_path / "local"))
            send(packets[2][:13])
            send(packets[2])
            send(packets[3])
            send(bytes(SUPER_FRAME + 1))
            send(packets[4])
            send(packets[5])
            send(MARKER)
        same_frames(cut(until_marker(end)), packets)
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (10, 7)
    assert ba.reasons == {"from strangers": 1, "malformed": 1, "too long": 1}


@pytest.mark.parametrize("words", ["sctp", "udp", "tcp,tcp", ""])
def test_protocol_that_cannot_be_merged_is_an_error(
    pair: Veth, words: str
) -> None:
    with Running(pair.a, pair.b, "--merge", words) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 2
    assert f"--merge: {words!r} is not a valid choice: use tcp" in outcome.text


# One direction of a bridge, step by step


def test_frame_too_long_for_the_link_is_not_merged(
    veth: Veth, stack: ExitStack
) -> None:
    """The kernel refuses it, as without merging. A change of the MTU is
    noticed when the port is tended."""
    one = OneWay(stack, veth.b)
    far = stack.enter_context(RawSocket(veth.a, ignore_outgoing=True))
    long, short = flow(TCP, 4, 1_400), flow(TCP, 4, 900)
    for mtu, fits in ((1_300, False), (1_500, True), (1_300, False)):
        ip("link", "set", veth.b, "mtu", str(mtu))
        one.sink.tend()
        before, sent = one.dropped.get("too_long", 0), one.direction.sent
        one.send(long)
        assert one.direction.sent - sent == (4 if fits else 0)
        dropped = one.dropped.get("too_long", 0) - before
        assert dropped == (0 if fits else 4)
        assert len(pending(far)) == fits
        # It may have stopped trying, because nothing was merged.
        one.send(short)
        one.send(short)
        assert len(pending(far)) < 8


@pytest.mark.parametrize("tag", TAGS)
def test_longest_frames_are_merged(
    veth: Veth, stack: ExitStack, tag: str
) -> None:
    """With an 802.1Q tag they are 4 bytes longer."""
    kind = replace(TCP, tags=TAGS[tag])
    room = {"plain": 0, "tag": 4}.get(tag, 0)
    size = 1_514 + room - kind.header_size
    one = OneWay(stack, veth.b)
    far = stack.enter_context(
        RawSocket(veth.a, ignore_outgoing=True, vnet_hdr=True)
    )
    one.send(flow(kind, 5, size))
    batch = arrived(far)
    assert len(batch) == 1
    same_frames(cut(batch), flow(kind, 5, size))
    one.send(flow(kind, 5, size + 1))
    assert one.dropped == {"too_long": 5}
    assert (one.direction.sent, one.direction.joined) == (5, 4)


def test_order_is_kept_within_each_flow(
    pair: Veth, end: RawSocket, stack: ExitStack
) -> None:
    """Also of more flows than are merged at a time, and between frames of no
    flow."""
    one = OneWay(stack, pair.b)
    draw = random.Random(1)
    flows = [
        flow(replace(kind, port=port), 12, 100)
        for port in (1, 2, 3)
        for kind in KINDS.values()
    ]
    flows.append([numbered(i) for i in range(12)])
    order = [i for i in range(len(flows)) for _ in range(12)]
    draw.shuffle(order)
    left = [iter(packets) for packets in flows]
    packets = [next(left[i]) for i in order]
    got: list[bytes] = []
    for at in range(0, len(packets), 60):
        one.send(packets[at : at + 60])
        got += cut_frames(end, len(packets[at : at + 60]))
    for packets in flows:
        wanted = set(packets)
        same_frames([p for p in got if p in wanted], packets)
    assert one.direction.sent == len(got)
    assert one.direction.joined > 0


def test_merging_is_tried_again_after_traffic_that_cannot_be_merged(
    pair: Veth, end: RawSocket, stack: ExitStack
) -> None:
    """At the latest after 16 batches."""
    one = OneWay(stack, pair.b)
    for i in range(200):
        one.send([numbered(i), numbered(i)])
    assert one.direction.joined == 0
    for _ in range(16):
        one.send(flow(TCP, 3))
    assert one.direction.joined >= 2
    joined = one.direction.joined
    one.send(flow(TCP, 3))
    assert one.direction.joined == joined + 2
    assert one.direction.sent == 400 + 17 * 3
    assert pending(end)


@pytest.mark.parametrize("bypass", [0, 1])
def test_socket_that_bypasses_the_queue_gets_plain_frames(
    veth: Veth, stack: ExitStack, bypass: int
) -> None:
    """The kernel would drop super-frames that the device cannot cut."""
    leave_checksums_to_software(veth.b)
    far = stack.enter_context(RawSocket(veth.a, ignore_outgoing=True))
    with RawSocket(veth.b, vnet_hdr=True) as sock:
        sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, bypass)
        one = OneWay(stack, f"fd:{os.dup(sock.fileno())}")
    one.send(flow(TCP, 5))
    same_frames(take(far, 5), flow(TCP, 5))
    assert one.dropped == {}
    assert one.direction.joined == (0 if bypass else 4)
