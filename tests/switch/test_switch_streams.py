"""Stream sockets as ports of a switch."""

import contextlib
import socket
from pathlib import Path

import pytest
from support import WAIT
from support.calls import eventually
from support.datagrams import Datagram, add, data
from support.frames import numbered, pending
from support.guest_links import connect
from support.linux import ip
from support.switching import DEFAULT, Lab, lab

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.switching.members import PortRules

A, B = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 3))


def on_stream(packet: bytes) -> bytes:
    return len(packet).to_bytes(4, "big") + packet


class Peer:
    """The other end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(WAIT)

    def send(self, *packets: bytes) -> None:
        self.sock.sendall(b"".join(map(on_stream, packets)))

    def read(self, count: int) -> list[bytes]:
        return [self._frame() for _ in range(count)]

    def _frame(self) -> bytes:
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self.sock.recv(size - len(found))
            assert part, "the connection ends in a frame"
            found += part
        return found

    def is_closed(self) -> bool:
        return self.sock.recv(1) == b""


def listening(path: Path) -> dict[str, tuple[str, PortRules]]:
    return {"s": (f"stream:unix:{path},listen", DEFAULT)}


def test_frames_pass_both_ways(short_path: Path) -> None:
    path = short_path / "s"
    packets = [numbered(i, 60 + i, dst=A, src=B) for i in range(1000)]
    answers = [numbered(i, dst=B, src=A) for i in range(1000)]
    with lab(DEFAULT, others=listening(path)) as net, connect(path) as sock:
        peer = Peer(sock)
        peer.send(numbered(1, src=A))
        net.arrives(0, numbered(1, src=A))
        for i in range(0, 1000, 50):
            net.send(0, *packets[i : i + 50])
            assert peer.read(50) == packets[i : i + 50]
        peer.send(*answers)
        net.arrives(0, *answers)
        net.settle()
        assert net.last["s"].calls < 200


def test_frames_that_arrive_in_parts(short_path: Path) -> None:
    path = short_path / "s"
    packet = numbered(1, src=A)
    with lab(DEFAULT, others=listening(path)) as net, connect(path) as sock:
        for byte in on_stream(packet):
            sock.send(bytes([byte]))
        net.arrives(0, packet)


def test_a_peer_that_does_not_read_gets_whole_frames(
    short_path: Path,
) -> None:
    path = short_path / "s"
    packets = [numbered(i, 1000, src=B) for i in range(3000)]
    with (
        lab(DEFAULT, DEFAULT, others=listening(path)) as net,
        connect(path) as sock,
    ):
        peer = Peer(sock)
        peer.send(numbered(1, src=A))
        for port in (0, 1):
            net.arrives(port, numbered(1, src=A))
        for i in range(0, 3000, 100):
            net.send(0, *packets[i : i + 100])
            net.arrives(1, *packets[i : i + 100])
        eventually(lambda: not net.counts()["s"].waiting, "frames wait")
        sent = net.last["s"].sent
        assert net.last["s"].copies_dropped["queue_full"] > 100
        seen = peer.read(sent)
        assert set(seen) <= set(packets)
        assert seen == sorted(seen, key=packets.index)
        net.send(0, packets[0])
        assert peer.read(1) == [packets[0]]


def test_super_frames_are_cut_for_a_stream(short_path: Path) -> None:
    path = short_path / "s"
    large = Datagram(payload=data(5000))
    with lab(DEFAULT, others=listening(path)) as net, connect(path) as sock:
        peer = Peer(sock)
        peer.send(numbered(1, src=A))
        net.arrives(0, numbered(1, src=A))
        batch = PacketBatch(1, SUPER_FRAME)
        add(batch, large, 1400)
        with RawSocket(net.links[0].a, vnet_hdr=True, protocol=0) as sender:
            sender.sendmmsg_all(batch)
        assert peer.read(4) == large.segments(1400)


def test_the_longest_frame_passes_between_streams(short_path: Path) -> None:
    one, two = short_path / "one", short_path / "two"
    others = {
        "one": (f"stream:unix:{one},listen", DEFAULT),
        "two": (f"stream:unix:{two},listen", DEFAULT),
    }
    packet = numbered(1, 65_000, src=A).ljust(SUPER_FRAME, b".")
    with lab(others=others), connect(one) as a, connect(two) as b:
        left, right = Peer(a), Peer(b)
        # Both are connected when a frame has passed each way.
        eventually(lambda: passes(left, right), "nothing passes")
        left.send(packet)
        assert right.read(1) == [packet]


def passes(source: Peer, sink: Peer) -> bool:
    source.send(numbered(1, src=A))
    sink.sock.settimeout(0.2)
    try:
        return sink.read(1) == [numbered(1, src=A)]
    except TimeoutError:
        return False
    finally:
        sink.sock.settimeout(WAIT)


@pytest.mark.parametrize("length", [0, 13, SUPER_FRAME + 1, 1 << 31])
def test_a_length_that_no_frame_has_ends_the_connection(
    short_path: Path, length: int
) -> None:
    path = short_path / "s"
    with lab(DEFAULT, others=listening(path)) as net:
        with connect(path) as sock:
            peer = Peer(sock)
            peer.send(numbered(1, src=A))
            sock.send(length.to_bytes(4, "big") + bytes(100))
            assert peer.is_closed()
        net.arrives(0, numbered(1, src=A))
        with connect(path) as sock:
            peer = Peer(sock)
            eventually(lambda: arrives(net, peer), "no peer is accepted")
    assert any(f"{length} is not the length" in one for one in net.messages)


def arrives(net: Lab, peer: Peer) -> bool:
    peer.send(numbered(2, src=A))
    return numbered(2, src=A) in pending(net.ends[0])


def test_a_second_peer_is_refused(short_path: Path) -> None:
    path = short_path / "s"
    with lab(DEFAULT, others=listening(path)) as net, connect(path) as sock:
        peer = Peer(sock)
        peer.send(numbered(1, src=A))
        net.arrives(0, numbered(1, src=A))
        with connect(path) as second:
            assert Peer(second).is_closed()
        peer.send(numbered(2, src=A))
        net.arrives(0, numbered(2, src=A))
    assert any(
        "a second connection was refused" in one for one in net.messages
    )


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_it_connects_again_and_again(short_path: Path, family: str) -> None:
    with contextlib.ExitStack() as opened:
        if family == "unix":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(short_path / "s"))
            text = f"stream:unix:{short_path / 's'}"
        else:
            ip("link", "set", "dev", "lo", "up")
            listener = socket.socket(socket.AF_INET)
            listener.bind(("127.0.0.1", 0))
            text = f"stream:127.0.0.1:{listener.getsockname()[1]}"
        opened.enter_context(listener)
        listener.listen()
        listener.settimeout(WAIT)
        net = opened.enter_context(lab(DEFAULT, others={"s": (text, DEFAULT)}))
        for number in range(3):
            with listener.accept()[0] as sock:
                peer = Peer(sock)
                peer.send(numbered(number, src=A))
                net.arrives(0, numbered(number, src=A))
                net.send(0, numbered(number, src=B))
                assert peer.read(1) == [numbered(number, src=B)]
    lost = [one for one in net.messages if "the peer has disconnected" in one]
    assert len(lost) >= 2
