"""The forwarders of bench/ pass every frame as it is, and what measures them
finds a frame that is lost or damaged."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from support.child import tool
from support.datagrams import AD, UDP, Datagram, Q, add, columns, data
from support.frames import number_of, numbered, pending, receive

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth, veth_pair

COUNT = 50

FORWARDERS: dict[str, Callable[[Any], Any]] = {
    "C": lambda forwarders: forwarders.in_c(vnet_hdr=True, auxdata=True),
    "C, plain frames": lambda forwarders: forwarders.in_c(
        vnet_hdr=False, auxdata=True
    ),
    "libpcap": lambda forwarders: forwarders.with_libpcap(),
    "bare loop": lambda forwarders: forwarders.bare(),
    "rawmmsg bridge": lambda forwarders: forwarders.rawmmsg_bridge(),
    "kernel's bridge": lambda forwarders: forwarders.kernel_bridge(),
}
WITH_OFFLOADS = ["C", "bare loop", "rawmmsg bridge", "kernel's bridge"]


@pytest.fixture
def joined(bench: Any) -> Iterator[Callable[[str], tuple[Veth, Veth]]]:
    """Has a forwarder join the ends `b` of two veth pairs, and asserts at the
    end what it asserts of its counts."""
    forwarders = bench("sides.forwarders")
    with contextlib.ExitStack() as stack:

        def join(name: str) -> tuple[Veth, Veth]:
            one, other = (stack.enter_context(veth_pair()) for _ in range(2))
            forwarder = FORWARDERS[name](forwarders)
            stack.enter_context(forwarder(one.b, other.b))
            return one, other

        yield join


def exchange(
    one: str, other: str, frames: list[bytes], **options: Any
) -> None:
    """Sends the frames in both directions, and asserts that nothing else
    arrives."""
    for source, sink in ((one, other), (other, one)):
        with (
            RawSocket(sink, ignore_outgoing=True, **options) as receiver,
            RawSocket(source, protocol=0) as sender,
        ):
            sender.sendmmsg_all(frames)
            received = receive(receiver, len(frames))
            assert received == frames
            assert pending(receiver) == []


@pytest.mark.parametrize("name", FORWARDERS)
def test_frames_pass_unchanged(joined: Any, name: str) -> None:
    one, other = joined(name)
    source, sink = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
    frames = [numbered(i, 64 + i, src=source, dst=sink) for i in range(COUNT)]
    exchange(one.a, other.a, frames)
    assert [number_of(frame) for frame in frames] == list(range(COUNT))


@pytest.mark.parametrize("name", FORWARDERS)
@pytest.mark.parametrize("tags", [(Q,), (AD, Q)], ids=["tag", "two tags"])
def test_tags_pass(joined: Any, name: str, tags: tuple[int, ...]) -> None:
    one, other = joined(name)
    frame = Datagram(data(200), protocol=UDP, tags=tags).build()
    exchange(one.a, other.a, [frame] * 3)


@pytest.mark.parametrize("name", WITH_OFFLOADS)
@pytest.mark.parametrize("tags", [(), (Q,)], ids=["plain", "tag"])
def test_super_frames_pass_with_their_headers(
    joined: Any, name: str, tags: tuple[int, ...]
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


def test_a_forwarder_that_cannot_start_says_why(bench: Any) -> None:
    program = bench("tools.native").start(
        ["sh", "-c", "echo no such port >&2"]
    )
    with pytest.raises(RuntimeError, match="no such port"):
        bench("network.hosts").wait_until_listening(["lo"], program)


@pytest.mark.no_network
@pytest.mark.parametrize("port", ["a", "b"])
@pytest.mark.parametrize(
    ("received", "sent", "dropped"), [(5, 4, 0), (5, 5, 1), (0, 0, 0)]
)
def test_frames_that_are_not_accounted_for_are_found(
    bench: Any, port: str, received: int, sent: int, dropped: int
) -> None:
    """And a direction in which nothing went."""
    counts = {"received": 5, "sent": 4, "dropped": 1}
    wrong = {"received": received, "sent": sent, "dropped": dropped}
    by_port = {"a": counts, "b": counts} | {port: wrong}
    with pytest.raises(bench("framework").GroundTruthError, match=port):
        bench("sides.forwarders").check_counts(
            {
                f"{name} {what}": number
                for name, numbers in by_port.items()
                for what, number in numbers.items()
            }
        )


# Bulk


def test_a_damaged_segment_is_found(bench: Any) -> None:
    """By the host that receives it, and so by the measurement."""
    forwarding, iperf = (
        bench("measurements.forwarding"),
        bench("network.iperf"),
    )
    # To be sent with an offload header, without which it is damaged.
    kind = replace(bench("network.super_frames").OFFLOAD, size=200)
    segment = kind.frame(slice_number=1, index=0)

    def transfer(_: Any, host: Any) -> Any:
        (link,) = json.loads(host.run("ip", "-json", "link", "show", "eth0"))
        address = bytes.fromhex(link["address"].replace(":", ""))
        with RawSocket(host.port, protocol=0) as sock:
            sock.send(address + segment[6:])
        return iperf.Transfer(gigabits=1.0, retransmits=0)

    with bench("network.hosts").two_hosts() as hosts:
        turn = forwarding.Round(
            hosts, lambda a, b: contextlib.nullcontext(), transfer, True
        )
        with pytest.raises(
            bench("framework").GroundTruthError, match="1 segments"
        ):
            turn()
        assert [host.checksum_errors() for host in hosts] == [0, 1]


def test_hosts_that_nothing_joins_do_not_reach_each_other(bench: Any) -> None:
    tool("iperf3")
    with (
        bench("network.hosts").two_hosts() as (a, b),
        pytest.raises(bench("framework").GroundTruthError, match="iperf3"),
    ):
        bench("network.iperf").transfer(
            a, b, amount=("-n", "1K"), two_way=False
        )


# Small frames


def lose(batch: PacketBatch) -> PacketBatch:
    batch.set_count(len(batch) - 1)
    return batch


def change(batch: PacketBatch) -> PacketBatch:
    batch[1][40] ^= 1
    return batch


def double(batch: PacketBatch) -> list[bytes]:
    return batch.tolist() * 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lose, "2 frames sent, 1 arrived"),
        (change, "not those sent"),
        (double, "2 frames sent, 4 arrived"),
    ],
)
def test_a_forwarder_that_alters_the_stream_is_found(
    bench: Any,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[PacketBatch], Any],
    words: str,
) -> None:
    module = bench("network.arena")
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    with contextlib.ExitStack() as stack:
        arena = module.Arena(stack, two_way=False, count=2, size=64)
        source = stack.enter_context(RawSocket(arena.ports[0]))
        sink = stack.enter_context(RawSocket(arena.ports[1], protocol=0))

        def forward() -> None:
            batch = PacketBatch()
            while len(batch) < arena.frames:
                source.recvmmsg_into(batch)
            sink.sendmmsg_all(fault(batch))

        with pytest.raises(bench("framework").GroundTruthError, match=words):
            arena.run(forward, 1)


# Super-frames


class Altered:
    """A loop that loses nothing, but for what `alter` does to a frame and its
    header."""

    def __init__(self, header: Any, alter: Callable[[Any], Any]) -> None:
        self.frames: list[bytes] = []
        self.header = header
        self.alter = alter

    def load(self, frames: list[bytes]) -> None:
        self.frames = frames

    def run(self, rounds: int) -> int:
        return len(self.frames)

    def received(self, index: int) -> Any:
        return self.alter((self.frames[index], self.header))


class Uncounted:
    """In the place of the kernel's counts."""

    def reset(self) -> None: ...

    def check(self, count: int) -> None: ...


@pytest.mark.no_network
def test_a_super_frame_that_is_changed_is_found(bench: Any) -> None:
    kind = bench("network.super_frames").SUPER
    slicer = partial(
        bench("measurements.superframes").Slicer,
        kind=kind,
        batch=2,
        counter=Uncounted(),
    )
    slicer(Altered(kind.header, lambda both: both)).run()
    faults: list[Callable[[Any], Any]] = [
        lambda both: (both[0][:-1] + b"?", both[1]),
        lambda both: (both[0][:-1], both[1]),
        lambda both: (both[0], both[1]._replace(gso_size=1)),
        lambda both: (both[0], None),
    ]
    for fault in faults:
        with pytest.raises(
            bench("framework").GroundTruthError, match="frame 0"
        ):
            slicer(Altered(kind.header, fault)).run()


def test_a_receive_buffer_that_is_too_small_is_named(bench: Any) -> None:
    kind, loops = (
        bench("network.super_frames").SUPER,
        bench("sides.super_loops"),
    )
    with contextlib.ExitStack() as stack:
        links = bench("measurements.superframes").Links(stack)
        with pytest.raises(
            bench("framework").Unavailable, match=r"net\.core\.rmem_max="
        ):
            links.slicer(loops.CLoop, 100_000, kind)
