"""statistics(): every packet is counted once."""

import json
import socket
import struct
import time
from typing import Any

import pytest
from support import WAIT
from support.frames import frame, pending, receive, send
from support.linux import same_socket

from rawmmsg import PACKET_STATISTICS, SOL_PACKET, RawSocket, Statistics
from rawmmsg.testing import Veth


def settle(sock: RawSocket, total: int) -> list[bytes]:
    """Receives until each of `total` packets was received or counted as
    dropped."""
    deadline = time.monotonic() + WAIT
    packets: list[bytes] = []
    while True:
        packets += pending(sock)
        counts = sock.statistics()
        assert counts.packets_dropped is not None
        if counts.packets_received + counts.packets_dropped >= total:
            return packets
        assert time.monotonic() < deadline, f"packets are missing: {counts}"


# How it reads


def test_statistics_print_and_serialise_with_their_names() -> None:
    with RawSocket("lo") as sock:
        counts = sock.statistics()
    assert repr(counts).startswith("rawmmsg.Statistics(packets_received=0, ")
    named = counts._asdict()
    assert (
        json.loads(json.dumps(named))
        == named
        == {
            "packets_received": 0,
            "packets_dropped": 0,
            "batches_received": 0,
            "packets_sent": 0,
            "batches_sent": 0,
            "send_retries": 0,
        }
    )
    assert list(named) == list(Statistics.__match_args__)


def test_statistics_of_other_families_count_no_drops() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with other, RawSocket(fileno=one.detach()) as sock:
        assert sock.statistics()._asdict()["packets_dropped"] is None


# Counting


def test_statistics_accumulate(pair: Veth) -> None:
    """The kernel's own counters are reset when they are read."""
    with RawSocket(pair.a) as sender, RawSocket(pair.b) as sock:
        packets = [frame(b"%d" % number) for number in range(10)]
        for turn in (1, 2, 3):
            assert sender.sendmmsg(packets) == 10
            receive(sock, 10)
            got, sent = sock.statistics(), sender.statistics()
            assert got.packets_received == 10 * turn
            assert got.packets_dropped == 0
            assert turn <= got.batches_received <= 10 * turn
            assert got.packets_sent == got.batches_sent == 0
            assert sent.packets_sent == 10 * turn
            assert sent.batches_sent == turn
            assert sent.send_retries == 0


def test_single_packet_calls_count_too(pair: Veth) -> None:
    with RawSocket(pair.a) as sender, RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        sender.send(frame())
        sender.sendmmsg_all([frame(), frame()])
        sock.recv(100)
        sock.recv_into(bytearray(100))
        assert sender.statistics().packets_sent == 3
        assert sender.statistics().batches_sent == 2
        assert sock.statistics().packets_received == 2
        assert sock.statistics().batches_received == 2


def test_kernels_statistics_reset_on_read_and_include_drops(
    pair: Veth,
) -> None:
    """This is why statistics() accumulates and counts received packets
    itself."""
    with RawSocket(pair.b, rcvbuf=8192) as sock, same_socket(sock) as std:
        send(pair.a, *[frame(b"%d" % number) for number in range(500)])
        option = (SOL_PACKET, PACKET_STATISTICS, 8)
        deadline = time.monotonic() + WAIT
        packets = drops = 0
        while packets < 500:
            assert time.monotonic() < deadline
            more = struct.unpack("II", std.getsockopt(*option))
            packets, drops = packets + more[0], drops + more[1]
        assert packets == 500
        assert drops == 500 - len(pending(sock)) > 0
        assert struct.unpack("II", std.getsockopt(*option)) == (0, 0)


def test_received_and_dropped_packets_add_up_to_sent_ones(pair: Veth) -> None:
    # Fewer at a time than net.core.netdev_max_backlog, so that none is lost
    # before it reaches the socket.
    packets = [frame(b"%d" % number) for number in range(500)]
    with (
        RawSocket(pair.a, protocol=0) as sender,
        RawSocket(pair.b, rcvbuf=8192) as sock,
    ):
        received: list[bytes] = []
        for turn in range(1, 21):
            sender.sendmmsg_all(packets)
            received += settle(sock, 500 * turn)
        counts = sock.statistics()
        assert counts.packets_dropped, (
            "no packet was dropped, so this tests nothing"
        )
        assert counts.packets_received == len(received)
        assert len(received) + counts.packets_dropped == 10_000
        assert sender.statistics().packets_sent == 10_000


def test_statistics_are_a_named_tuple(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        counts = sock.statistics()
    assert tuple(counts) == (0, 0, 0, 0, 0, 0)
    assert counts[1] == counts.packets_dropped
    assert "packets_dropped=0" in repr(counts)


def test_getsockopt_refuses_packet_statistics(veth: Veth) -> None:
    """Reading the kernel's counters resets them, so statistics() would miss
    drops."""
    with (
        RawSocket(veth.a) as sock,
        pytest.raises(ValueError, match=r"statistics\(\)"),
    ):
        sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)


@pytest.mark.parametrize("vnet_hdr", [False, None, 0])
@pytest.mark.parametrize("adopted", [False, True])
def test_dgram_socket_accepts_vnet_hdr_false(
    pair: Veth, vnet_hdr: Any, adopted: bool
) -> None:
    """Although it cannot have offload headers."""
    kind = socket.SOCK_DGRAM
    options: dict[str, Any] = {"interface": pair.b, "type": kind}
    if adopted:
        std = socket.socket(socket.AF_PACKET, kind)
        options = {"fileno": std.detach()}
    with RawSocket(vnet_hdr=vnet_hdr, **options) as sock:
        assert sock.vnet_hdr == 0


def test_statistics_can_be_read_after_close(
    pair: Veth, sender: RawSocket
) -> None:
    """Including the last drops."""
    sock = RawSocket(pair.b, rcvbuf=4096)
    sender.sendmmsg_all([frame(bytes(46))] * 200)
    received = len(pending(sock))
    while True:
        more = len(pending(sock))
        received += more
        if not more and sock.statistics().packets_dropped:
            break
    sender.sendmmsg_all([frame(bytes(46))] * 200)
    sock.close()
    last = sock.statistics()
    assert last.packets_received == received
    assert last.packets_dropped is not None
    assert 0 < last.packets_dropped <= 400 - received
    assert sock.statistics() == last
