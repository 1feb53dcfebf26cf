"""Frames from a socket leave by an interface as super-frames, and every frame
is counted as if there were none."""

import errno
import fcntl
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
from support import WAIT
from support.bridging import (
    Network,
    Running,
    before_6_2,
    bridging,
    stopped,
    take,
)
from support.calls import eventually
from support.datagrams import (
    HEADER_COLUMNS,
    KINDS,
    TAGS,
    Datagram,
    columns,
    data,
    leave_checksums_to_software,
    super_frame,
)
from support.frames import numbered, pending, same_frames
from support.linux import drop_frames_of, ip, tc, tun_device
from support.old_kernel import without_super_frames
from support.peers import Peer, fd_peer, joined, udp_peer, unix_peer

from rawmmsg import (
    GSO_UDP_L4,
    PACKET_QDISC_BYPASS,
    SOL_PACKET,
    SUPER_FRAME,
    PacketBatch,
    RawSocket,
)
from rawmmsg.bridge.batches import make_stacks
from rawmmsg.bridge.direction import Direction
from rawmmsg.bridge.drops import Mark
from rawmmsg.bridge.merging import Merging
from rawmmsg.bridge.ports import Port, parse_port
from rawmmsg.bridge.sending import PAUSES
from rawmmsg.testing import Veth

SIZE = 1_400
COUNT = 10
"""As many as the queue of a Unix datagram socket holds by default."""

TCP = KINDS["tcp4"]


def flow(
    kind: Datagram = TCP, count: int = COUNT, size: int = SIZE
) -> list[bytes]:
    """Consecutive frames of one flow."""
    return replace(kind, payload=data(count * size)).segments(size)


def chained(parts: Iterable[list[bytes]]) -> list[bytes]:
    return list(chain.from_iterable(parts))


def cut(batch: PacketBatch) -> list[bytes]:
    """The frames that segmentation makes of a batch."""
    segments = PacketBatch(64, SUPER_FRAME)
    frames: list[bytes] = []
    at = 0, 0
    while at != (len(batch), 0):
        at = batch.segment_into(segments, *at)
        frames += segments.tolist()
    return frames


def cut_frames(sock: RawSocket, count: int) -> list[bytes]:
    """Waits for so many frames, which may arrive merged."""
    got: list[bytes] = []
    while len(got) < count:
        got += cut(arrived(sock))
    return got


def arrived(sock: RawSocket) -> PacketBatch:
    """What has arrived at a socket with vnet_hdr; waits for the first."""
    batch = PacketBatch(64, SUPER_FRAME)
    sock.settimeout(WAIT)
    sock.recvmmsg_into(batch)
    return batch


@pytest.fixture
def end(pair: Veth) -> Iterator[RawSocket]:
    """A socket that sees super-frames that arrive at `pair.a`."""
    with RawSocket(pair.a, ignore_outgoing=True, vnet_hdr=True) as sock:
        yield sock


# The command


@pytest.fixture(params=["unix", "udp4", "udp6", "fd", "seqpacket"])
def peer(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Peer]:
    with ExitStack() as stack:
        made = {
            "unix": lambda: unix_peer(short_path),
            "udp4": lambda: udp_peer(socket.AF_INET, "127.0.0.1"),
            "udp6": lambda: udp_peer(socket.AF_INET6, "::1"),
            "fd": lambda: fd_peer(socket.SOCK_DGRAM),
            "seqpacket": lambda: fd_peer(socket.SOCK_SEQPACKET),
        }[request.param]()
        yield stack.enter_context(made)


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


MARKER = numbered(1)
"""Comes behind all frames before it, because it closes all flows."""


def until_marker(sock: RawSocket) -> PacketBatch:
    """What arrives before the marker, as one batch."""
    got, batch = (PacketBatch(64, SUPER_FRAME) for _ in range(2))
    sock.settimeout(WAIT)
    while not len(got) or bytes(got[-1]) != MARKER:
        sock.recvmmsg_into(batch)
        for i, packet in enumerate(batch):
            got.append(packet)
            for name, column in columns(batch).items():
                columns(got)[name][len(got) - 1] = column[i]
    got.set_count(len(got) - 1)
    return got


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


class OneWay:
    """From a socket to an interface, one batch at each call."""

    def __init__(
        self,
        stack: ExitStack,
        interface: str,
        *,
        udp: bool = True,
        batch: int | None = None,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.guest = stack.enter_context(ours)
        self.said: list[str] = []
        self.source = self._opened(stack, f"fd:{theirs.detach()}")
        self.sink = self._opened(stack, interface)
        self._merging = Merging(udp, self.said.append)
        stacks, _ = make_stacks(self.source, self.sink, batch)
        self._make = partial(Direction, self.source, self.sink, stacks)
        self.direction = self._make(self._merging)

    def _opened(self, stack: ExitStack, name: str) -> Port:
        port = parse_port(name)
        port.open(None)
        stack.callback(port.close)
        return port

    def change_sending(
        self, change: Callable[[RawSocket, PacketBatch, int], int]
    ) -> None:
        """Lets the sink send with this function."""
        self.sink.sendmmsg = partial(change, self.sink.sock)
        self.direction = self._make(self._merging)

    def send(self, packets: Sequence[bytes]) -> None:
        """Forwards frames, in batches of 64, and waits until they are sent or
        dropped."""
        for packet in packets:
            self.guest.send(packet)
        while select.select([self.source.sock], [], [], 0)[0]:
            self.direction.forward()
            self.finish()

    def finish(self) -> None:
        while not self.direction.accepts:
            self.direction.resume()

    @property
    def dropped(self) -> dict[str, int]:
        dropped = self.direction.dropped
        counts = {name: getattr(dropped, name) for name in dropped.__slots__}
        return {name: count for name, count in counts.items() if count}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


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


# Super-frames that the kernel refuses


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

from rawmmsg.bridge.ports import Port
from rawmmsg.cli import main
from support.bridging import before_6_2

take = Port.take

def take_and_change(port, sock):
    take(port, sock)
    port.sendmmsg = lambda batch, at: before_6_2(sock, batch, at)

Port.take = take_and_change
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
