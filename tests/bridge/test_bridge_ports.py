"""Ports that are datagram sockets."""

import errno
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support import WAIT
from support.bridging import (
    Running,
    bridging,
    every_kind,
    take,
    until_passing,
)
from support.calls import eventually, repeating
from support.datagrams import UDP, Datagram, Q, add, data
from support.frames import OTHER_EXPERIMENTAL, frame, numbered, same_frames
from support.peers import (
    PEERS,
    Peer,
    fd_peer,
    joined,
    open_peer,
    udp_peer,
    unix_peer,
)

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket, bpf
from rawmmsg.bridge.filters import for_udp
from rawmmsg.bridge.ports import Port, SocketPort, parse_port
from rawmmsg.testing import Veth

MSS = 1_400


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Peer]:
    with open_peer(request.param, short_path) as peer:
        yield peer


def test_frames_pass_both_ways(
    pair: Veth, sender: RawSocket, far: RawSocket, peer: Peer
) -> None:
    packets = [numbered(i, 60 + 50 * i) for i in range(30)]
    with joined(pair, peer) as (bridge, send):
        for packet in packets:
            sender.send(packet)
            same_frames(peer.receive(1), [packet])
            send(packet)
            same_frames(take(far, 1), [packet])
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (ba.received, ba.sent) == (30, 30)


def test_super_frames_to_a_datagram_port_are_cut(
    pair: Veth, peer: Peer
) -> None:
    """Into segments with complete checksums. Short frames get complete
    checksums too."""
    frames = segments = 0
    with (
        RawSocket(pair.a, protocol=0, vnet_hdr=True) as left,
        joined(pair, peer) as (bridge, _),
    ):
        for batch, wanted in every_kind(MSS):
            left.sendmmsg_all(batch)
            same_frames(peer.receive(len(wanted)), wanted)
            frames += len(batch)
            segments += len(wanted)
        ab, _ = bridge.end().directions
    assert (ab.received, ab.sent) == (frames, segments)
    assert ab.gained == segments - frames


def test_filters_apply_to_the_frame_in_the_datagram(
    pair: Veth, sender: RawSocket, far: RawSocket, peer: Peer
) -> None:
    """On a UDP socket, the kernel's filters see the UDP header first."""
    tagged = frame(b"\0\5\x88\xb5" + bytes(46), ethertype=0x8100)
    udp = Datagram(data(60), protocol=UDP).build()
    options = ("--filter-ba", "udp dst port 9 and less 110 or vlan 5")
    with joined(pair, peer, *options) as (bridge, send):
        sender.send(numbered(1))
        same_frames(peer.receive(1), [numbered(1)])
        for packet in (numbered(2), udp + bytes(9), tagged, udp):
            send(packet)
        same_frames(take(far, 2), [tagged, udp])
        assert bridge.end().directions[1].received == 2


@pytest.mark.no_network
def test_filter_behind_a_udp_header_accepts_the_same_frames() -> None:
    """Whatever the 8 bytes before the frame, and however long its jumps."""
    packets = [
        Datagram(data(size), protocol=protocol, version=version).build()
        for size in (0, 20, 52, 53, 54, 55, 1000)
        for protocol in (6, UDP)
        for version in (4, 6)
    ]
    packets += [numbered(1), frame(b""), b"short"]
    accepted = 0
    for expression in (
        "",
        "ip",
        "less 100",
        "greater 100 and (tcp or len = 116)",
        "udp port 9 and len > 100 or ip6 and len <= 116",
        "ip[2:2] > 100 or tcp[13] & 16 != 0",
        "ip6 proto 17 and greater 90",
        "len - 5 = 95 or len & 3 = 0",
    ):
        program = bpf.compile(expression, live=False)
        moved = program.shifted(8)
        for packet in packets:
            verdict = program.matches(packet)
            assert moved.matches(b"\xff" * 8 + packet) == verdict
            accepted += verdict
    assert accepted > 50


def test_filter_too_long_for_udp_is_an_error() -> None:
    """A UDP socket's filter needs an instruction more for each `len`, which
    may be one too many for a jump to skip."""
    ports = " or ".join(map(str, range(1, 250)))
    with pytest.raises(bpf.FilterError, match="cannot be used on a UDP port"):
        for_udp(f"udp port {ports} or len > 5 or len % 3 = 1 or len % 5 = 2")


def test_bridge_waits_for_a_missing_peer(
    pair: Veth, sender: RawSocket, far: RawSocket, short_path: Path
) -> None:
    """Until then, frames for the peer are dropped. The same holds when a new
    peer replaces it and sends first: its first frame passes, and so does the
    answer."""
    local, remote = str(short_path / "local"), str(short_path / "remote")
    options = ("--stats", "0.02")
    with bridging(pair.b, f"unix:{local},{remote}", *options) as bridge:
        for i in range(3):
            sender.sendmmsg_all([numbered(i) for i in range(5)])
            bridge.drops(5 * (i + 1))
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.bind(remote)
                sock.sendto(numbered(100), local)
                same_frames(take(far, 1), [numbered(100)])
                sender.send(numbered(7))
                sock.settimeout(WAIT)
                same_frames([sock.recv(2048)], [numbered(7)])
            os.unlink(remote)
        ab, ba = bridge.end().directions
    assert (ab.sent, ab.reasons) == (3, {"refused": 15})
    assert (ba.received, ba.dropped) == (3, 0)


GUEST = """
import socket, sys
local, remote, number = sys.argv[1:]
header = bytes(12) + bytes.fromhex("88b5")
first, answer = bytes.fromhex(number), bytes.fromhex(number)[::-1]
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.bind(remote)
sock.sendto(header + first, local)
while sock.recv(2048) != header + answer:
    pass
print("answered", flush=True)
sys.stdin.read()
"""
"""The least that a virtual machine does: it binds its path and sends."""


def test_restarted_guest_gets_its_frames(
    pair: Veth, sender: RawSocket, far: RawSocket, short_path: Path
) -> None:
    """50 times, under traffic to it: its first frame passes and the answer
    arrives."""
    local, remote = str(short_path / "local"), str(short_path / "remote")
    header = bytes(12) + bytes.fromhex("88b5")
    command = [sys.executable, "-I", "-S", "-c", GUEST, local, remote]
    with (
        bridging(pair.b, f"unix:{local},{remote}") as bridge,
        trickle(pair.a),
    ):
        for i in range(50):
            number = i.to_bytes(4) + bytes(range(60))
            with subprocess.Popen(
                [*command, number.hex()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as guest:
                try:
                    assert guest.stdout is not None
                    same_frames(take(far, 1), [header + number])
                    answer = partial(sender.send, header + number[::-1])
                    answer()
                    # Again, because the queue of a guest that the machine
                    # does not run may be full.
                    with repeating(answer, 0.05):
                        assert guest.stdout.readline() == b"answered\n"
                finally:
                    guest.kill()
            os.unlink(remote)
        ab, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (50, 50)
    assert ab.sent > 50
    assert set(ab.reasons) <= {"refused", "queue full"}


@contextmanager
def trickle(interface: str) -> Iterator[None]:
    """Sends a frame about every millisecond in a thread."""
    packet = frame(bytes(46), ethertype=OTHER_EXPERIMENTAL)
    with RawSocket(interface, protocol=0) as sock:
        with repeating(lambda: sock.send(packet), 0.001):
            yield


@pytest.mark.parametrize("spelling", ["dots", "link", "relative", "absolute"])
@pytest.mark.parametrize("connected", [False, True])
def test_path_of_the_peer_may_be_spelled_differently(
    pair: Veth,
    sender: RawSocket,
    far: RawSocket,
    short_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spelling: str,
    connected: bool,
) -> None:
    """As a symbolic link, or relative to another directory."""
    local, remote = str(short_path / "local"), str(short_path / "remote")
    (short_path / "link").symlink_to(short_path)
    given, bound = {
        "dots": (remote, f"{short_path}/./remote"),
        "link": (f"{short_path}/link/remote", remote),
        "relative": (remote, "remote"),
        "absolute": ("remote", remote),
    }[spelling]
    monkeypatch.chdir(short_path)
    with bridging(pair.b, f"unix:{local},{given}") as bridge:
        if spelling == "relative" and not connected:
            # This name does not exist in the bridge's directory.
            (short_path / "deeper").mkdir()
            monkeypatch.chdir(short_path / "deeper")
            bound = "../remote"
        for i in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.bind(bound)
                if connected:
                    sock.connect(local)
                    sock.send(numbered(i))
                else:
                    sock.sendto(numbered(i), local)
                same_frames(take(far, 1), [numbered(i)])
                sender.send(numbered(i))
                sock.settimeout(WAIT)
                same_frames([sock.recv(2048)], [numbered(i)])
            os.unlink(remote)
        assert bridge.end().directions[1].dropped == 0


def test_unix_port_accepts_frames_only_from_its_peer(
    pair: Veth, far: RawSocket, short_path: Path
) -> None:
    """Not from another path, and not from a socket without a path."""
    with unix_peer(short_path) as peer, joined(pair, peer) as (bridge, send):
        local = str(short_path / "local")
        for name in ("", str(short_path / "other"), "\0abstract"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
                if name:
                    stranger.bind(name)
                stranger.sendto(numbered(1), local)
                send(numbered(2))
                stranger.sendto(b"short", local)
            same_frames(take(far, 1), [numbered(2)])
        send(numbered(4))
        same_frames(take(far, 1), [numbered(4)])
        _, ba = bridge.end().directions
    assert (ba.sent, ba.reasons) == (4, {"from strangers": 6})


@pytest.mark.no_network
@pytest.mark.parametrize("connected", [False, True])
def test_bridge_waits_for_room_in_the_queue_of_a_peer(
    short_path: Path, connected: bool
) -> None:
    """With poll(2), although the sender is not connected. The same holds for
    the next peer."""
    port = parse_port(f"unix:{short_path}/local,{short_path}/remote")
    assert isinstance(port, SocketPort)
    packets = PacketBatch(1024)
    packets.extend([numbered(i) for i in range(1024)])
    port.open(None)
    port.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    try:
        for _ in range(2):
            with unix_peer(short_path) as peer:
                if connected:
                    peer.sock.connect(str(short_path / "local"))
                assert has_room(port)
                sent = 0
                with pytest.raises(BlockingIOError):
                    while True:
                        sent += port.sendmmsg(packets, sent)
                assert not has_room(port)
                peer.receive(sent)
                assert has_room(port)
                assert port.sendmmsg(packets, sent) > 0
            os.unlink(short_path / "remote")
            assert has_room(port), "the bridge waits for a peer that has ended"
    finally:
        port.close()


def has_room(port: Port) -> bool:
    return bool(select.select([], [port.room_descriptor()], [], 0)[1])


def reaches(sender: RawSocket, packet: bytes, receiver: socket.socket) -> bool:
    sender.send(packet)
    try:
        return receiver.recv(2048) == packet
    except BlockingIOError:
        return False


def test_peer_may_be_connected(
    pair: Veth, sender: RawSocket, far: RawSocket, short_path: Path
) -> None:
    """It then accepts frames only from the socket at LOCAL."""
    with unix_peer(short_path) as peer, joined(pair, peer):
        peer.sock.connect(str(short_path / "local"))
        peer.sock.send(numbered(1))
        same_frames(take(far, 1), [numbered(1)])
        sender.send(numbered(2))
        same_frames(peer.receive(1), [numbered(2)])


def test_bridge_continues_when_the_udp_peer_is_closed(
    pair: Veth, sender: RawSocket, far: RawSocket
) -> None:
    """The kernel reports ECONNREFUSED of an earlier datagram to the next send
    or receive."""
    with udp_peer(socket.AF_INET, "127.0.0.1") as peer:
        own, remote = peer.sock.getsockname(), peer.sock.getpeername()
        with joined(pair, peer) as (bridge, _):
            peer.sock.close()
            for i in range(200):
                sender.send(numbered(i))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind(own)
                again.connect(remote)
                again.send(numbered(500))
                same_frames(take(far, 1), [numbered(500)])
                again.setblocking(False)
                eventually(
                    lambda: reaches(sender, numbered(501), again),
                    "nothing comes to the new peer",
                )
            ab, ba = bridge.end().directions
    assert set(ab.reasons) <= {"refused"}
    assert (ba.received, ba.sent) == (1, 1)


def test_udp_port_accepts_frames_only_from_its_peer(
    pair: Veth, far: RawSocket
) -> None:
    with (
        udp_peer(socket.AF_INET, "127.0.0.1") as peer,
        joined(pair, peer) as (_, send),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        stranger.sendto(numbered(1), peer.sock.getpeername())
        send(numbered(2))
        same_frames(take(far, 1), [numbered(2)])


@pytest.mark.parametrize("expression", [None, "ether[14] >= 0"])
def test_udp_port_accepts_nothing_from_others_while_it_is_opened(
    monkeypatch: pytest.MonkeyPatch, expression: str | None
) -> None:
    """Between bind() and connect(), the kernel delivers datagrams from
    anyone."""
    with udp_peer(socket.AF_INET, "127.0.0.1") as peer:

        class Disturbed(socket.socket):
            def connect(self, address: object) -> None:
                with socket.socket(
                    socket.AF_INET, socket.SOCK_DGRAM
                ) as stranger:
                    stranger.sendto(numbered(1), self.getsockname())
                super().connect(address)  # type: ignore[arg-type]

        port = parse_port(peer.port)
        assert isinstance(port, SocketPort)
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Disturbed)
            port.open(expression)
        peer.sock.send(numbered(2))
        try:
            assert port.sock.recv(2048) == numbered(2)
        finally:
            port.close()


def test_datagram_that_is_not_a_frame_is_dropped(
    pair: Veth, far: RawSocket, peer: Peer
) -> None:
    """Shorter than a header, or longer than the MTU."""
    # On a SOCK_SEQPACKET socket, an empty message looks like the end.
    is_datagram = peer.sock.type == socket.SOCK_DGRAM
    shortest = b"" if is_datagram else b"x"
    with joined(pair, peer) as (bridge, send):
        send(shortest)
        for packet in (b"x" * 13, numbered(1), b"x" * 1600, numbered(2)):
            send(packet)
        same_frames(take(far, 2), [numbered(1), numbered(2)])
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (5, 2)
    assert ba.reasons == {"malformed": 2, "too long": 1}


def test_datagram_longer_than_any_frame_is_dropped(
    pair: Veth, far: RawSocket, short_path: Path
) -> None:
    with unix_peer(short_path) as peer, joined(pair, peer) as (bridge, send):
        for packet in (numbered(1), b"x" * (SUPER_FRAME + 1), numbered(2)):
            send(packet)
        same_frames(take(far, 2), [numbered(1), numbered(2)])
        assert bridge.end().directions[1].reasons == {"too long": 1}


def test_two_bridges_join_two_interfaces(
    pair: Veth, far: RawSocket, veth: Veth, short_path: Path
) -> None:
    """Back to back over paths, with super-frames at both ends."""
    one, other = short_path / "one", short_path / "other"
    large = Datagram(data(30_000), tags=(Q,))
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, large, MSS)
    with (
        bridging(pair.b, f"unix:{one},{other}", "--no-merge") as first,
        bridging(veth.b, f"unix:{other},{one}", "--no-merge") as second,
        RawSocket(veth.a, ignore_outgoing=True, vnet_hdr=True) as end,
        RawSocket(pair.a, protocol=0, vnet_hdr=True) as start,
    ):
        # The first cannot connect before the second has started.
        until_passing(start, end)
        start.sendmmsg_all(batch)
        wanted = large.segments(MSS)
        same_frames(take(end, len(wanted)), wanted)
        end.sendmmsg_all(batch)
        same_frames(take(far, len(wanted)), wanted)
        for bridge in (first, second):
            assert bridge.end().directions
    assert not one.exists()
    assert not other.exists()


def test_packet_socket_can_be_a_port(
    pair: Veth, sender: RawSocket, veth: Veth
) -> None:
    """With offloads, although it was opened without them."""
    large = Datagram(data(30_000), version=6)
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, large, MSS)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as plain,
        RawSocket(pair.a, protocol=0, vnet_hdr=True) as start,
        RawSocket(veth.a, vnet_hdr=True, ignore_outgoing=True) as end,
    ):
        plain.bind((pair.b, 3))
        number = plain.fileno()
        options = ("--filter-ab", "ip6")
        with bridging(f"fd:{number}", veth.b, *options, pass_fds=(number,)):
            sender.send(numbered(1))
            start.sendmmsg_all(batch)
            same_frames(take(end, 1), batch.tolist())


def test_seqpacket_that_is_not_connected_is_explained(pair: Veth) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        number = sock.fileno()
        port = f"fd:{number}"
        with Running(pair.b, port, pass_fds=(number,)) as bridge:
            outcome = bridge.outcome()
    assert outcome.code == 1
    assert f"{port}: {os.strerror(errno.ENOTCONN)}" in outcome.text


def test_stream_socket_cannot_be_a_port(pair: Veth) -> None:
    with fd_peer(socket.SOCK_STREAM) as peer:
        with Running(pair.b, peer.port, pass_fds=peer.pass_fds) as bridge:
            outcome = bridge.outcome()
    assert outcome.code == 2
    assert "not a datagram or SOCK_SEQPACKET socket" in outcome.text
