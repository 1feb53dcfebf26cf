"""The bridge between two interfaces: every frame passes unchanged, in both
directions."""

import fcntl
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from support import WAIT
from support.bridging import (
    COMMAND,
    Network,
    Running,
    bridging,
    every_kind,
    take,
    until_passing,
)
from support.calls import eventually
from support.child import environment
from support.datagrams import TAGS, UDP, Datagram, add, columns, data
from support.frames import (
    LOCAL_EXPERIMENTAL,
    frame,
    numbered,
    pending,
    same_frames,
)
from support.linux import ip

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth


@dataclass(frozen=True)
class Ends:
    """Sockets at both far ends, which see what arrives there."""

    left: RawSocket
    right: RawSocket


@pytest.fixture
def ends(network: Network) -> Iterator[Ends]:
    with (
        RawSocket(network.left.a, ignore_outgoing=True) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
    ):
        yield Ends(left, right)


@pytest.mark.parametrize("batch", ["1", "3", "8", "1024"])
def test_frames_pass_both_ways_in_order(
    network: Network, ends: Ends, batch: str
) -> None:
    ab = [numbered(i, 60 + i) for i in range(500)]
    ba = [numbered(i, 1514 - i) for i in range(500)]
    with bridging(*network.ports, "--batch", batch) as bridge:
        for i in range(0, 500, 50):
            ends.left.sendmmsg_all(ab[i : i + 50])
            ends.right.sendmmsg_all(ba[i : i + 50])
        same_frames(take(ends.right, 500), ab)
        same_frames(take(ends.left, 500), ba)
        outcome = bridge.end()
    assert outcome.code == 0
    for one, sent in zip(outcome.directions, (ab, ba), strict=True):
        assert (one.received, one.sent, one.dropped) == (500, 500, 0)
        assert one.bytes == sum(map(len, sent))


def test_frames_for_other_addresses_pass(network: Network, ends: Ends) -> None:
    """The interfaces are promiscuous only while the bridge runs."""
    packet = frame(bytes(46), dst=bytes.fromhex("020000000099"))
    with bridging(*network.ports) as bridge:
        for name in network.ports:
            assert "promiscuity 1" in ip("-d", "link", "show", name)
        ends.left.send(packet)
        same_frames(take(ends.right, 1), [packet])
        bridge.end()
    for name in network.ports:
        assert "promiscuity 0" in ip("-d", "link", "show", name)


def test_settings_of_the_interfaces_are_unchanged(network: Network) -> None:
    def settings() -> list[str]:
        shown = [ip("-d", "link", "show", name) for name in network.ports]
        return [re.sub("promiscuity .*? ", "", one) for one in shown]

    before = settings()
    with bridging(*network.ports):
        assert settings() == before


def test_frames_sent_by_the_bridge_do_not_come_back(
    network: Network, ends: Ends
) -> None:
    with bridging(*network.ports) as bridge:
        packets = [numbered(i) for i in range(100)]
        ends.left.sendmmsg_all(packets)
        same_frames(take(ends.right, 100), packets)
        ends.right.send(numbered(100))
        take(ends.left, 1)
        assert pending(ends.left) == pending(ends.right) == []
        ab, ba = bridge.end().directions
    assert (ab.received, ba.received) == (100, 1)


def test_frames_sent_by_this_machine_are_not_bridged(
    network: Network, ends: Ends
) -> None:
    """They are outgoing frames of the interface."""
    with bridging(*network.ports) as bridge:
        with RawSocket(network.left.b, protocol=0) as own:
            own.send(numbered(1))
        take(ends.left, 1)
        ends.left.send(numbered(2))
        same_frames(take(ends.right, 1), [numbered(2)])
        assert bridge.end().directions[0].received == 1


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_vlan_tags_pass(
    network: Network, ends: Ends, tags: tuple[int, ...]
) -> None:
    packets = [
        Datagram(data(100 + i), tags=tags, protocol=UDP).build()
        for i in range(20)
    ]
    with bridging(*network.ports):
        ends.left.sendmmsg_all(packets)
        same_frames(take(ends.right, 20), packets)


def test_super_frames_pass_unchanged(network: Network) -> None:
    """In one piece, with their offload headers."""
    batch = PacketBatch(2, SUPER_FRAME)
    with (
        RawSocket(network.left.a, protocol=0, vnet_hdr=True) as left,
        RawSocket(
            network.right.a, vnet_hdr=True, ignore_outgoing=True
        ) as right,
        bridging(*network.ports),
    ):
        right.settimeout(WAIT)
        for sent, _ in every_kind(1_400):
            left.sendmmsg_all(sent)
            packets: list[bytes] = []
            headers: list[tuple[int, ...]] = []
            while len(packets) < 2:
                right.recvmmsg_into(batch)
                packets += batch.tolist()
                headers += header_rows(batch)
            same_frames(packets, sent.tolist())
            assert headers == header_rows(sent)


def header_rows(batch: PacketBatch) -> list[tuple[int, ...]]:
    """The offload headers without header_lengths, a hint that the kernel
    computes itself."""
    hints = {"header_lengths"}
    shown = [
        column.tolist()
        for name, column in columns(batch).items()
        if name not in hints
    ]
    return list(zip(*shown, strict=True))[: len(batch)]


# Filters


def test_each_direction_has_its_own_filter(
    network: Network, ends: Ends
) -> None:
    options = ("--filter-ab", "ether[14] = 1", "--filter-ba", "vlan 5")
    tagged = frame(bytes.fromhex("0005 88b5") + bytes(46), ethertype=0x8100)
    with bridging(*network.ports, *options) as bridge:
        for i in range(4):
            ends.left.send(frame(bytes([i]) * 46))
        ends.right.sendmmsg_all([frame(bytes(46)), tagged])
        same_frames(take(ends.right, 1), [frame(b"\1" * 46)])
        same_frames(take(ends.left, 1), [tagged])
        assert [one.received for one in bridge.end().directions] == [1, 1]


@pytest.mark.parametrize("option", ["--filter-ab", "--filter-ba"])
def test_error_in_a_filter_is_shown_with_a_caret(
    network: Network, option: str
) -> None:
    with Running(*network.ports, option, "tcp prot 80") as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 2
    expression, caret = outcome.text.splitlines()[-2:]
    assert expression.strip() == "tcp prot 80"
    assert caret.index("^") == expression.index("prot")


# Output and end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_with_a_summary(
    network: Network, ends: Ends, number: int
) -> None:
    with bridging(*network.ports) as bridge:
        ends.left.sendmmsg_all([numbered(i, 100) for i in range(7)])
        take(ends.right, 7)
        outcome = bridge.end(number)
    assert outcome.code == 0
    ab, ba = outcome.directions
    a, b = network.ports
    assert (ab.name, ba.name) == (f"{a} > {b}", f"{b} > {a}")
    assert (ab.received, ab.bytes, ab.sent) == (7, 700, 7)
    assert (ba.received, ba.sent) == (0, 0)


def test_signal_ends_it_under_load(network: Network) -> None:
    with (
        RawSocket(network.left.a, protocol=0) as left,
        bridging(*network.ports) as bridge,
    ):
        packets = [numbered(i) for i in range(256)]
        bridge.process.send_signal(signal.SIGTERM)
        while bridge.process.poll() is None:
            left.sendmmsg_all(packets)
        assert bridge.outcome().code == 0
        assert bridge.outcome().directions


def test_duration_ends_it(network: Network) -> None:
    with bridging(*network.ports, "--duration", "0.1") as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 0
    assert outcome.directions


def test_quiet_bridge_prints_nothing(network: Network) -> None:
    with Running(*network.ports, "-q", "--duration", "0.1") as bridge:
        outcome = bridge.outcome()
    assert (outcome.code, outcome.text) == (0, "")


STATISTICS = re.compile(
    r"^ *([\d,]+) +([\d,.]+) +([\d,]+) +([\d.]+)"
    r" \| *([\d,]+) +([\d,.]+) +([\d,]+) +([\d.]+)$",
    re.MULTILINE,
)


def test_statistics_show_the_traffic(network: Network, ends: Ends) -> None:
    with bridging(*network.ports, "--stats", "0.05") as bridge:
        ends.left.sendmmsg_all([numbered(i, 1000) for i in range(64)])
        take(ends.right, 64)

        def rows() -> list[tuple[str, ...]]:
            return STATISTICS.findall(bridge.text)

        eventually(
            lambda: any(row[0] != "0" for row in rows()),
            "the statistics never show a frame",
        )
        busy = next(row for row in rows() if row[0] != "0")
    frames, megabits, dropped, per_call = busy[:4]
    per_frame = float(megabits.replace(",", "")) / int(frames.replace(",", ""))
    assert per_frame == pytest.approx(0.008, rel=0.05), (
        "each frame has 1,000 bytes"
    )
    assert dropped == "0"
    assert 1 <= float(per_call) <= 64
    assert busy[4:] == ("0", "0.00", "0", "0.0")


def test_statistics_are_printed_only_on_a_terminal(network: Network) -> None:
    """Otherwise the bridge prints its first line and the summary."""
    with bridging(*network.ports, "--duration", "1.2") as bridge:
        assert not STATISTICS.findall(bridge.outcome().text)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [
            *(*COMMAND, *network.ports),
            *("--duration", "1.2"),
        ],
        env=environment(),
        stderr=theirs,
    ) as process:
        os.close(theirs)
        text = b""
        while b"dropped by kernel" not in text:
            text += os.read(ours, 4096)
        assert process.wait(WAIT) == 0
        os.close(ours)
    assert STATISTICS.findall(text.decode().replace("\r", ""))


def test_frames_pass_while_nobody_reads_the_statistics(
    network: Network, ends: Ends
) -> None:
    """As on a terminal that was stopped with Ctrl-S."""
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    with open(ours) as reader:
        process = subprocess.Popen(
            [*COMMAND, *network.ports, "--stats", "0.001"],
            env=environment(),
            stderr=theirs,
        )
        os.close(theirs)
        until_passing(ends.left, ends.right)
        for i in range(200):
            ends.left.send(numbered(i))
            same_frames(take(ends.right, 1), [numbered(i)])
            time.sleep(0.001)
        process.terminate()
        assert reader.read().count("frames dropped by kernel") == 2
        assert process.wait(WAIT) == 0


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", ""])
def test_bridge_runs_if_statistics_cannot_be_written(
    network: Network, ends: Ends, where: str
) -> None:
    """A closed standard error, a full disk, a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [
            *("sh", "-c", f'exec "$@" {where}', "sh"),
            *(*COMMAND, *network.ports, "--stats", "0.001"),
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=writer,
    ) as process:
        os.close(writer)
        until_passing(ends.left, ends.right)
        for i in range(50):
            ends.left.send(numbered(i))
            same_frames(take(ends.right, 1), [numbered(i)])
            time.sleep(0.001)
        process.terminate()
        assert process.communicate(timeout=WAIT)[0] == b""
    assert process.returncode == 0


# Frames that one side cannot send


def test_frame_longer_than_the_other_mtu_is_dropped(
    veth_factory: Callable[..., Veth],
) -> None:
    network = Network(veth_factory(mtu=9000), veth_factory())
    packets = [numbered(i, 100 if i % 3 else 5000) for i in range(30)]
    with (
        RawSocket(network.left.a, protocol=0) as left,
        RawSocket(network.right.a) as right,
        bridging(*network.ports) as bridge,
    ):
        left.sendmmsg_all(packets)
        same_frames(
            take(right, 20), [one for one in packets if len(one) == 100]
        )
        ab, _ = bridge.end().directions
    assert (ab.received, ab.sent, ab.reasons) == (30, 20, {"too long": 10})


def test_unusual_frames_pass(network: Network, ends: Ends) -> None:
    """Any EtherType, any address, and the shortest frames."""
    packets = [
        bytes(12) + b"\xff\xff",
        b"\xff" * 14,
        frame(b"", ethertype=LOCAL_EXPERIMENTAL),
        frame(b"\0", ethertype=10),
    ]
    with bridging(*network.ports) as bridge:
        ends.left.sendmmsg_all(packets)
        same_frames(take(ends.right, len(packets)), packets)
        assert bridge.end().directions[0].dropped == 0


def test_frame_longer_than_a_row_is_dropped(
    network: Network, ends: Ends
) -> None:
    """An administrator can raise the kernel's limit."""
    ip("link", "set", network.left.a, "gso_max_size", "200000")
    sent = PacketBatch(3, 200_000)
    small = Datagram(data(100), version=6)
    add(sent, small)
    add(sent, Datagram(data(150_000), version=6), 1_400)
    add(sent, small)
    with (
        RawSocket(network.left.a, protocol=0, vnet_hdr=True) as left,
        bridging(*network.ports) as bridge,
    ):
        left.sendmmsg_all(sent)
        take(ends.right, 2)
        ab, _ = bridge.end().directions
    assert (ab.received, ab.sent, ab.reasons) == (3, 2, {"too long": 1})
