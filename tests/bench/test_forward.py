"""The forwarders of bench/ pass every frame as it is, and what measures them
finds a frame that is lost or damaged."""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import WAIT
from support.child import tool
from support.datagrams import AD, UDP, Datagram, Q, add, columns, data
from support.frames import (
    number_of,
    numbered,
    pending,
    receive,
    same_frames,
)
from support.linux import ip

from bench.forward import guest, hosts, measure, sides, small, switches
from bench.forward.hosts import Host, Transfer, two_hosts
from bench.forward.sides import Join
from bench.lab import native
from bench.lab.contender import GroundTruthError, UnavailableError
from bench.lab.link import AUXDATA
from bench.lab.native import VNET_HDR
from bench.superframes.frames import OFFLOAD
from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth, veth_pair

COUNT = 50

ALL = AUXDATA | VNET_HDR
FORWARDERS: dict[str, Join] = {
    "C": sides.in_a_thread(sides.in_c(ALL, 8)),
    "C, plain frames": sides.in_a_thread(sides.in_c(AUXDATA, 8)),
    "libpcap": sides.in_a_thread(sides.with_libpcap),
    "bare loop": sides.in_a_thread(sides.in_python(ALL, 8)),
    "rawmmsg bridge": sides.rawmmsg_bridge,
    "rawmmsg switch": switches.rawmmsg_switch,
    "kernel's bridge": sides.kernel_bridge,
}
WITH_OFFLOADS = [
    *("C", "bare loop", "rawmmsg bridge", "rawmmsg switch", "kernel's bridge"),
]
# The native VLAN of `rawmmsg switch` is 1, that of the tags here.
TRANSPARENT = [name for name in FORWARDERS if name != "rawmmsg switch"]
PEERS: dict[str, Join] = {
    "Open vSwitch": switches.open_vswitch,
    "vde_switch": switches.vde_bridged,
}

FRAMES = [
    numbered(
        *(i, 64 + i),
        src=bytes.fromhex("02000000000a"),
        dst=bytes.fromhex("02000000000b"),
    )
    for i in range(COUNT)
]

Joined = Callable[[str], tuple[Veth, Veth]]


@pytest.fixture
def joined() -> Iterator[Joined]:
    """Lets a forwarder join the ends `b` of two veth pairs. At the end it
    checks its counts."""
    with contextlib.ExitStack() as stack:

        def join(name: str) -> tuple[Veth, Veth]:
            one, other = (stack.enter_context(veth_pair()) for _ in range(2))
            made = (FORWARDERS | PEERS)[name]
            stack.enter_context(made(one.b, other.b))
            return one, other

        yield join


def exchange(one: str, other: str, frames: list[bytes]) -> None:
    """Sends the frames in both directions, and asserts that nothing else
    arrives."""
    for source, sink in ((one, other), (other, one)):
        with (
            RawSocket(sink, ignore_outgoing=True) as receiver,
            RawSocket(source, protocol=0) as sender,
        ):
            sender.sendmmsg_all(frames)
            received = receive(receiver, len(frames))
            assert received == frames
            assert pending(receiver) == []


@pytest.mark.parametrize("name", FORWARDERS)
def test_frames_pass_unchanged(joined: Joined, name: str) -> None:
    one, other = joined(name)
    exchange(one.a, other.a, FRAMES)
    assert [number_of(frame) for frame in FRAMES] == list(range(COUNT))


@pytest.mark.parametrize("name", PEERS)
def test_switch_of_another_project_passes_frames(
    joined: Joined, name: str
) -> None:
    """Or says what to install, or to do."""
    try:
        one, other = joined(name)
    except UnavailableError as error:
        assert error.missing.what
        assert error.missing.install
        return
    # It may lose frames before it is ready.
    for source, sink in ((one.a, other.a), (other.a, one.a)):
        wait_for_frames(source, sink)
    exchange(one.a, other.a, FRAMES)


def wait_for_frames(source: str, sink: str) -> None:
    """Sends frames until one arrives, and until no more arrive."""
    with (
        RawSocket(sink, ignore_outgoing=True) as receiver,
        RawSocket(source, protocol=0) as sender,
    ):
        receiver.settimeout(0.05)
        frame = numbered(0, 64, src=bytes.fromhex("02000000000c"))
        deadline = time.monotonic() + WAIT
        has_arrived = False
        while not has_arrived:
            assert time.monotonic() < deadline, "nothing is forwarded"
            sender.send(frame)
            with contextlib.suppress(TimeoutError):
                while True:
                    receiver.recv(2048)
                    has_arrived = True


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("tags", [(Q,), (AD, Q)], ids=["tag", "two tags"])
def test_tags_pass(joined: Joined, name: str, tags: tuple[int, ...]) -> None:
    one, other = joined(name)
    frame = Datagram(data(200), protocol=UDP, tags=tags).build()
    exchange(one.a, other.a, [frame] * 3)


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        *((name, ()) for name in WITH_OFFLOADS),
        *((name, (Q,)) for name in WITH_OFFLOADS if name in TRANSPARENT),
    ],
)
def test_super_frames_pass_with_their_headers(
    joined: Joined, name: str, tags: tuple[int, ...]
) -> None:
    one, other = joined(name)
    batch, received = PacketBatch(1, SUPER_FRAME), PacketBatch(1, SUPER_FRAME)
    add(batch, Datagram(data(60_000), tags=tags), 1400)
    with (
        RawSocket(other.a, vnet_hdr=True, ignore_outgoing=True) as receiver,
        RawSocket(one.a, protocol=0, vnet_hdr=True) as sender,
        RawSocket(one.a, vnet_hdr=True, ignore_outgoing=True) as back,
    ):
        for source, sink in ((sender, receiver), (receiver, back)):
            source.sendmmsg_all(batch)
            sink.settimeout(30)
            sink.recvmmsg_into(received)
            assert received.tolist() == batch.tolist()
            for header, sent in columns(batch).items():
                found = columns(received)[header][0]
                # A hint, which the kernel makes anew.
                assert found == sent[0] or header == "header_lengths", header


def test_forwarder_that_cannot_start_says_why() -> None:
    program = native.start(["sh", "-c", "echo no such port >&2"])
    with pytest.raises(RuntimeError, match="no such port"):
        hosts.wait_until_listening(["lo"], program)


@pytest.mark.no_network
@pytest.mark.parametrize("port", ["a", "b"])
@pytest.mark.parametrize("wrong", [[5, 4, 0], [5, 5, 1], [0, 0, 0]])
def test_frames_that_are_not_accounted_for_are_found(
    port: str, wrong: list[int]
) -> None:
    """And a direction in which no frame went."""
    right = [5, 4, 1]
    sides.check_counts([*right, *right])
    counts = [*wrong, *right] if port == "a" else [*right, *wrong]
    with pytest.raises(GroundTruthError, match=f"port {port}"):
        sides.check_counts(counts)


@pytest.mark.no_network
def test_one_way_needs_no_frames_back() -> None:
    """But those that went must be accounted for."""
    sides.check_counts([0, 0, 0, 5, 4, 1], both_ways=False)
    with pytest.raises(GroundTruthError, match="port b"):
        sides.check_counts([0, 0, 0, 5, 3, 1], both_ways=False)


# Bulk


def test_damaged_segment_is_found() -> None:
    """By the host that receives it, and so by the measurement."""
    # Without its offload header, this segment is damaged.
    segment = replace(OFFLOAD, size=200).frame(slice_number=1, index=0)

    def transfer(_: Host, host: Host) -> Transfer:
        (link,) = json.loads(host.run("ip", "-json", "link", "show", "eth0"))
        address = bytes.fromhex(link["address"].replace(":", ""))
        with RawSocket(host.port, protocol=0) as sock:
            sock.send(address + segment[6:])
        return Transfer(gigabits=1.0, retransmits=0)

    with two_hosts() as made:
        place = measure.Place(made, transfer)
        nothing = measure.joined(lambda a, b: contextlib.nullcontext())
        with pytest.raises(GroundTruthError, match="1 segments"):
            nothing(place).run(1)
        assert [host.checksum_errors() for host in made] == [0, 1]


def test_hosts_that_nothing_joins_do_not_reach_each_other() -> None:
    tool("iperf3")
    with (
        two_hosts() as (a, b),
        pytest.raises(GroundTruthError, match="iperf3"),
    ):
        hosts.transfer(a, b, ("-n", "1K"))


@pytest.mark.usefixtures("tap")
def test_guest_waits_while_its_socket_is_full(short_path: Path) -> None:
    """No frame that it sends is lost, and none that is sent to it."""
    local, remote = str(short_path / "local"), str(short_path / "remote")
    frames = [numbered(i, 1_000) for i in range(100)]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer,
        guest.tap() as (descriptor, name),
        RawSocket(name, ignore_outgoing=True, allow_down=True) as sock,
    ):
        ip("link", "set", name, "addrgenmode", "none")
        ip("link", "set", name, "up")
        peer.bind(remote)
        peer.settimeout(WAIT)
        with guest.running(descriptor, local, remote):
            sock.sendmmsg_all(frames)
            same_frames((peer.recv(2048) for _ in frames), frames)
            for frame in frames:
                peer.sendto(frame, local)
            same_frames(receive(sock, len(frames)), frames)


# Small frames


def lose(batch: PacketBatch) -> PacketBatch:
    batch.set_count(len(batch) - 1)
    return batch


def change(batch: PacketBatch) -> PacketBatch:
    batch[1][40] ^= 1
    return batch


def duplicate(batch: PacketBatch) -> list[bytes]:
    return batch.tolist() * 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lose, "2 frames sent, 1 arrived"),
        (change, "differ from those sent"),
        (duplicate, "2 frames sent, 4 arrived"),
    ],
)
def test_forwarder_that_alters_the_stream_is_found(
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[PacketBatch], PacketBatch | list[bytes]],
    words: str,
) -> None:
    monkeypatch.setattr(small, "PATIENCE", 0.5)
    with contextlib.ExitStack() as stack:
        arena = small.Arena(small.Place(stack, False, count=2, size=64))
        source = stack.enter_context(RawSocket(arena.ports[0]))
        sink = stack.enter_context(RawSocket(arena.ports[1], protocol=0))

        def forward() -> None:
            batch = PacketBatch()
            while len(batch) < arena.frames:
                source.recvmmsg_into(batch)
            sink.sendmmsg_all(fault(batch))

        with pytest.raises(GroundTruthError, match=words):
            arena.run(forward, 1)
