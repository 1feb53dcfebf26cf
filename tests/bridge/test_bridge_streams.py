"""Ports that are stream sockets: frames behind their lengths, and one peer
that may go and come back."""

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import pytest
from support import WAIT
from support.bridged_guests import frames_of, guest_and
from support.bridging import Running, bridging, every_kind, stopped, take
from support.calls import eventually, repeating
from support.datagrams import Datagram, data
from support.frames import frame, numbered, same_frames

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth

MSS: Final = 1400


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(one)) + one for one in frames)


class Peer:
    """The program at the other end of the connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(WAIT)
        self.sock = sock

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(framed(*frames))

    def receive(self, count: int) -> list[bytes]:
        frames = []
        for _ in range(count):
            (length,) = struct.unpack(">I", self._read(4))
            frames.append(self._read(length))
        return frames

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self.sock.recv(size - len(parts))
            assert part, "the bridge has closed the connection"
            parts += part
        return bytes(parts)

    def pending(self) -> int:
        """How many bytes it can read at once, when no more come."""
        found, before = self._unread(), -1
        while found != before:
            time.sleep(0.1)
            found, before = self._unread(), found
        return found

    def _unread(self) -> int:
        answer = fcntl.ioctl(self.sock, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def is_disconnected(self) -> bool:
        """Waits for the end of the stream, and returns True."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def free_port(family: socket.AddressFamily, host: str) -> int:
    """A TCP port number that is not in use."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class Place:
    """Where the bridge and the peer meet. `port`: without options."""

    family: socket.AddressFamily
    address: str | tuple[str, int]
    port: str

    def connect(self) -> Peer:
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.connect(self.address)
        return Peer(sock)

    @contextlib.contextmanager
    def listening(self) -> Iterator[socket.socket]:
        with socket.socket(self.family, socket.SOCK_STREAM) as listener:
            if self.family != socket.AF_UNIX:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self.address)
            listener.listen()
            listener.settimeout(WAIT)
            yield listener
        if isinstance(self.address, str):
            os.unlink(self.address)


def place_of(kind: str, directory: Path) -> Place:
    if kind == "unix":
        path = str(directory / "stream")
        return Place(socket.AF_UNIX, path, f"stream:unix:{path}")
    family, host, shown = {
        "ipv4": (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        "ipv6": (socket.AF_INET6, "::1", "[::1]"),
    }[kind]
    number = free_port(family, host)
    return Place(family, (host, number), f"stream:{shown}:{number}")


@pytest.fixture(params=["unix", "ipv4", "ipv6"])
def place(request: pytest.FixtureRequest, short_path: Path) -> Place:
    return place_of(request.param, short_path)


@pytest.fixture
def unix_place(short_path: Path) -> Place:
    return place_of("unix", short_path)


@contextlib.contextmanager
def joined(
    pair: Veth, place: Place, *options: str
) -> Iterator[tuple[Running, Peer]]:
    """A bridge that listens, and a peer that has connected."""
    with bridging(pair.b, f"{place.port},listen", *options) as bridge:
        with place.connect() as peer:
            bridge.says("a peer has connected")
            yield bridge, peer


def says_again(bridge: Running, words: str, times: int) -> None:
    """Waits until the bridge has said the words so many times."""
    eventually(
        lambda: bridge.text.count(words) == times,
        f"the bridge does not say {words!r} {times} times",
    )


# Frames


@pytest.mark.parametrize("who", ["bridge", "peer"])
def test_frames_pass_both_ways(
    pair: Veth, sender: RawSocket, far: RawSocket, place: Place, who: str
) -> None:
    packets = [numbered(i, 60 + 50 * i) for i in range(30)]
    with contextlib.ExitStack() as stack:
        if who == "bridge":
            joining = joined(pair, place)
            bridge, peer = stack.enter_context(joining)
        else:
            listener = stack.enter_context(place.listening())
            bridge = stack.enter_context(bridging(pair.b, place.port))
            peer = stack.enter_context(Peer(listener.accept()[0]))
            bridge.says("a peer has connected")
        for packet in packets:
            sender.send(packet)
            same_frames(peer.receive(1), [packet])
            peer.send(packet)
            same_frames(take(far, 1), [packet])
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (ba.received, ba.sent) == (30, 30)


def test_many_frames_share_a_system_call(
    pair: Veth, far: RawSocket, unix_place: Place
) -> None:
    """More than fit in a batch: none waits for the next system call."""
    packets = [numbered(i) for i in range(500)]
    with joined(pair, unix_place) as (bridge, peer):
        with stopped(bridge):
            peer.send(*packets)
        same_frames(take(far, 500), packets)
        _, ba = bridge.end().directions
    assert (ba.received, ba.per_call) == (500, 500)


def test_stream_may_be_cut_anywhere(
    pair: Veth, far: RawSocket, unix_place: Place
) -> None:
    """Also inside a length."""
    packets = [numbered(i, 60 + i) for i in range(5)]
    with joined(pair, unix_place) as (bridge, peer):
        for byte in framed(*packets):
            peer.sock.send(bytes([byte]))
        same_frames(take(far, 5), packets)
        assert bridge.end().directions[1].sent == 5


def test_super_frames_to_a_stream_are_cut(
    pair: Veth, unix_place: Place
) -> None:
    """Into segments with complete checksums."""
    frames = segments = 0
    with (
        RawSocket(pair.a, protocol=0, vnet_hdr=True) as left,
        joined(pair, unix_place) as (bridge, peer),
    ):
        for batch, wanted in every_kind(MSS):
            left.sendmmsg_all(batch)
            same_frames(peer.receive(len(wanted)), wanted)
            frames += len(batch)
            segments += len(wanted)
        ab, _ = bridge.end().directions
    assert (ab.received, ab.sent) == (frames, segments)
    assert ab.gained == segments - frames


def test_segments_from_a_stream_are_merged(
    pair: Veth, end: RawSocket, unix_place: Place
) -> None:
    large = Datagram(data(30_000))
    segments = large.segments(MSS)
    with joined(pair, unix_place) as (bridge, peer):
        with stopped(bridge):
            peer.send(*segments)
        end.settimeout(WAIT)
        batch = PacketBatch(1, SUPER_FRAME)
        end.recvmmsg_into(batch)
        assert batch.lengths[0] > 20_000
        _, ba = bridge.end().directions
    assert ba.received == ba.sent == len(segments)
    assert 0 < ba.merged < len(segments)


def test_filters_apply(
    pair: Veth, sender: RawSocket, far: RawSocket, unix_place: Place
) -> None:
    """Those of frames from the stream leave no trace in the statistics."""
    options = ("--filter-ba", "greater 100", "--filter-ab", "less 100")
    with joined(pair, unix_place, *options) as (bridge, peer):
        for size in (200, 64):
            sender.send(numbered(1, size))
        same_frames(peer.receive(1), [numbered(1)])
        for size in (64, 200):
            peer.send(numbered(2, size))
        same_frames(take(far, 1), [numbered(2, 200)])
        ab, ba = bridge.end().directions
    assert (ab.received, ba.received) == (1, 1)


@pytest.mark.parametrize("length", [0, 13, SUPER_FRAME + 1, 0xFFFFFFFF])
def test_length_of_no_frame_ends_the_connection(
    pair: Veth, far: RawSocket, unix_place: Place, length: int
) -> None:
    """After the frames before it have passed. The peer may connect again."""
    with joined(pair, unix_place) as (bridge, peer):
        peer.sock.sendall(framed(numbered(1)) + struct.pack(">I", length))
        same_frames(take(far, 1), [numbered(1)])
        assert peer.is_disconnected()
        bridge.says(
            f"rawmmsg: {unix_place.port},listen: the peer was disconnected:"
            f" {length} is not the length of a frame\n"
        )
        with unix_place.connect() as again:
            again.send(numbered(2))
            same_frames(take(far, 1), [numbered(2)])
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (2, 2)


def test_shortest_and_longest_frames_are_received(
    short_path: Path, unix_place: Place
) -> None:
    """From one stream port to another."""
    (short_path / "b").mkdir()
    other = place_of("unix", short_path / "b")
    frames = [frame(), frame(bytes(SUPER_FRAME - 14)), frame(b"x")]
    ports = (f"{unix_place.port},listen", f"{other.port},listen")
    with bridging(*ports) as bridge:
        with unix_place.connect() as one, other.connect() as two:
            for place in (unix_place, other):
                bridge.says(f"{place.port},listen: a peer has connected")
            one.send(*frames)
            same_frames(two.receive(3), frames)
            two.send(*frames)
            same_frames(one.receive(3), frames)
        ab, ba = bridge.end().directions
    assert (ab.sent, ba.sent) == (3, 3)


# A peer that is slow


def test_full_socket_drops_whole_frames(
    pair: Veth, sender: RawSocket, place: Place
) -> None:
    """Whatever the peer reads later is intact: a frame that was begun is
    finished."""
    packets = [numbered(i, 1400) for i in range(64)]
    last = numbered(1000)
    with joined(pair, place, "--stats", "0.02") as (bridge, peer):
        with repeating(lambda: sender.sendmmsg_all(packets), 0.001):
            bridge.drops_some()
        frames: list[bytes] = []
        with repeating(lambda: sender.send(last), 0.05):
            while last not in frames:
                frames += peer.receive(1)
        while select.select([peer.sock], [], [], 0.2)[0]:
            frames += peer.receive(1)
        ab, _ = bridge.end().directions
    assert {*packets, last}.issuperset(frames)
    assert ab.sent == len(frames)
    assert set(ab.reasons) == {"queue full"}


def test_frame_that_is_begun_is_finished_without_another(
    pair: Veth, sender: RawSocket, unix_place: Place
) -> None:
    """When the peer reads again, nothing else has to happen."""
    packets = [numbered(i, 1400) for i in range(64)]
    with joined(pair, unix_place, "--stats", "0.02") as (bridge, peer):
        with repeating(lambda: sender.sendmmsg_all(packets), 0.001):
            bridge.drops_some()
        unread = peer.pending()
        frames = peer.receive(unread // 1404 + (unread % 1404 > 0))
        assert set(packets).issuperset(frames)
        ab, _ = bridge.end().directions
    assert ab.sent == len(frames)


def test_blocked_peer_does_not_delay_the_other_direction(
    pair: Veth, sender: RawSocket, far: RawSocket, unix_place: Place
) -> None:
    packets = [numbered(i, 1400) for i in range(64)]
    with joined(pair, unix_place, "--stats", "0.02") as (bridge, peer):
        with repeating(lambda: sender.sendmmsg_all(packets), 0.001):
            bridge.drops_some()
        for i in range(100):
            peer.send(numbered(i))
        same_frames(take(far, 100), map(numbered, range(100)))
        bridge.end()


# Peers that come and go


def test_frames_for_a_missing_peer_are_dropped(
    pair: Veth, sender: RawSocket, place: Place
) -> None:
    """They are not delivered late."""
    ports = (pair.b, f"{place.port},listen", "--stats", "0.02")
    with bridging(*ports) as bridge:
        bridge.says("no peer has connected to")
        for i in range(3):
            sender.sendmmsg_all([numbered(i) for i in range(5)])
            bridge.drops(5 * (i + 1))
            with place.connect() as peer:
                says_again(bridge, "a peer has connected", i + 1)
                sender.send(numbered(7))
                same_frames(peer.receive(1), [numbered(7)])
            says_again(bridge, "the peer has disconnected", i + 1)
        ab, _ = bridge.end().directions
    assert (ab.sent, ab.reasons) == (3, {"link down": 15})


def test_bridge_connects_again(
    pair: Veth, sender: RawSocket, far: RawSocket, place: Place
) -> None:
    """To a peer that did not listen at first, and that is restarted."""
    with bridging(pair.b, place.port) as bridge:
        bridge.says("no peer listens at")
        for i in range(5):
            with place.listening() as listener:
                with Peer(listener.accept()[0]) as peer:
                    peer.send(numbered(i))
                    same_frames(take(far, 1), [numbered(i)])
                    sender.send(numbered(i + 100))
                    same_frames(peer.receive(1), [numbered(i + 100)])
        bridge.end()


def test_frames_before_the_end_of_a_peer_pass(
    pair: Veth, far: RawSocket, unix_place: Place
) -> None:
    """Also if frames to it cannot be sent any more. A part of a frame is left
    out."""
    packets = [numbered(i) for i in range(300)]
    with joined(pair, unix_place) as (bridge, peer):
        with stopped(bridge), RawSocket(pair.a, protocol=0) as sender:
            peer.sock.sendall(framed(*packets, numbered(300))[:-1])
            sender.send(numbered(0))
            peer.sock.close()
        same_frames(take(far, 300), packets)
        bridge.says("the peer has disconnected")
        ab, ba = bridge.end().directions
    assert (ba.received, ba.sent) == (300, 300)
    assert ab.received == 1


def test_second_peer_is_refused(
    pair: Veth, far: RawSocket, place: Place
) -> None:
    with joined(pair, place) as (bridge, peer):
        with place.connect() as second:
            assert second.is_disconnected()
        bridge.says(
            "a second connection was refused, because a peer is connected"
        )
        peer.send(numbered(1))
        same_frames(take(far, 1), [numbered(1)])


def test_restarted_peer_is_not_a_second_one(
    pair: Veth, far: RawSocket, place: Place
) -> None:
    with joined(pair, place) as (bridge, peer):
        for i in range(20):
            with stopped(bridge):
                peer.sock.close()
                peer = place.connect()
            peer.send(numbered(i))
            same_frames(take(far, 1), [numbered(i)])
        peer.sock.close()
        assert "refused" not in bridge.end().text


# A virtual machine at the other port


def test_frames_pass_between_a_stream_and_a_guest(
    short_path: Path, unix_place: Place
) -> None:
    path = short_path / "guest"
    packets = [numbered(i, 60 + i) for i in range(300)]
    with guest_and(f"{unix_place.port},listen", path) as (bridge, link):
        with unix_place.connect() as peer:
            bridge.says("a peer has connected")
            with stopped(bridge):
                peer.send(*packets)
            same_frames(frames_of(link, 300), packets)
            link.guest.send_all(packets[:100])
            same_frames(peer.receive(100), packets[:100])
            link.finish_sent()
        ab, ba = bridge.end().directions
    assert (ab.sent, ba.sent) == (300, 100)


# Paths, and ports that cannot be used


def test_path_is_made_and_removed(pair: Veth, unix_place: Place) -> None:
    """With the mode that was asked for. One that was left over is
    replaced."""
    path = Path(str(unix_place.address))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_over:
        left_over.bind(str(path))
    with bridging(pair.b, f"{unix_place.port},listen,mode=620") as bridge:
        assert stat.S_IMODE(path.stat().st_mode) == 0o620
        bridge.end()
    assert not path.exists()


def test_address_in_use_is_an_error(pair: Veth, place: Place) -> None:
    with place.listening():
        with Running(pair.b, f"{place.port},listen") as bridge:
            outcome = bridge.outcome()
        if isinstance(place.address, str):
            assert os.path.exists(place.address)
    assert outcome.code == 1
    reason = os.strerror(errno.EADDRINUSE)
    assert outcome.text == f"rawmmsg: {place.port},listen: {reason}\n"


@pytest.mark.parametrize("options", [("", ""), ("", ",listen")])
def test_two_streams_must_not_have_the_same_address(
    place: Place, options: tuple[str, str]
) -> None:
    """Then the bridge would be its own peer."""
    ports = [f"{place.port}{option}" for option in options]
    with Running(*ports) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 2
    assert outcome.text.endswith("are the same port\n")


@pytest.mark.parametrize(
    ("port", "code", "words"),
    [
        ("stream:a..b:5", 2, "'a..b': not a valid host name"),
        ("stream:no.such.invalid:5", 1, "stream:no.such.invalid:5: "),
        (f"stream:unix:/{'a' * 107}", 2, "the path is too long for a socket"),
        ("stream:192.0.2.1:5,listen", 1, os.strerror(errno.EADDRNOTAVAIL)),
    ],
)
def test_port_that_cannot_be_opened_is_explained(
    pair: Veth, port: str, code: int, words: str
) -> None:
    with Running(pair.b, port) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == code
    assert words in outcome.text
    assert outcome.text.count("\n") == 1
