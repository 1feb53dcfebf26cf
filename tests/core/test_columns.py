"""The metadata that a receive collects for each packet."""

import errno
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support import WAIT
from support.calls import raises
from support.datagrams import checksum
from support.frames import (
    datagram_pair,
    frame,
    pending,
    receive,
    until_stamped,
)
from support.linux import (
    ETHTOOL_SGRO,
    ETHTOOL_STSO,
    SO_TIMESTAMPING,
    SO_TIMESTAMPNS,
    SOF_TIMESTAMPING_RX_SOFTWARE,
    SOF_TIMESTAMPING_SOFTWARE,
    ethtool,
    ip,
)

from rawmmsg import (
    CHECKSUM_NOT_READY,
    CHECKSUM_VALID,
    CONTROL_TRUNCATED,
    TRUNCATED,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

SO_RXQ_OVFL = 40

ADDRESS_A = "192.0.2.1"
ADDRESS_B = "192.0.2.2"
TAGGED = frame(bytes.fromhex("006488b5") + bytes(46), ethertype=0x8100)


# Lengths


@pytest.mark.parametrize("vlan", [True, False])
@pytest.mark.parametrize("size", [14, 63, 64, 65, 1514])
def test_cut_packets_are_flagged(
    pair: Veth, sender: RawSocket, size: int, vlan: bool
) -> None:
    packet = frame(bytes(size - 14))
    batch = PacketBatch(1, 64)
    with RawSocket(pair.b, vlan=vlan) as sock:
        sock.settimeout(WAIT)
        sender.send(packet)
        sock.recvmmsg_into(batch)
    assert batch.lengths[0] == min(size, 64)
    assert batch.tolist() == [packet[:64]]
    assert bool(batch.flags[0] & TRUNCATED) == (size > 64)
    if vlan:
        assert batch.wire_lengths[0] == size
    else:
        assert not hasattr(batch, "wire_lengths")


def test_cut_datagrams_are_flagged() -> None:
    datagrams, sock = datagram_pair()
    batch = PacketBatch(1, 4)
    with datagrams, sock:
        for message in (b"0123", b"01234", b"012"):
            datagrams.send(message)
            sock.recvmmsg_into(batch)
            assert batch.tolist() == [message[:4]]
            assert bool(batch.flags[0] & TRUNCATED) == (len(message) > 4)


def test_metadata_of_one_receive_does_not_stay_for_the_next(
    pair: Veth, sender: RawSocket
) -> None:
    """The kernel changes msg_namelen, msg_controllen and msg_flags, so they
    must be reset before each packet."""
    batch = PacketBatch(1, 66)
    short, long = frame(bytes(40)), frame(bytes(100))
    with RawSocket(pair.b, addresses=True, timestamps="software") as sock:
        until_stamped(sender, sock, short)
        sock.settimeout(WAIT)
        for packet in (TAGGED, short, long, short, TAGGED, long, TAGGED) * 2:
            sender.send(packet)
            sock.recvmmsg_into(batch)
            assert batch.tolist() == [packet[:66]]
            assert bool(batch.flags[0] & TRUNCATED) == (packet is long)
            assert not batch.flags[0] & CONTROL_TRUNCATED
            assert batch.wire_lengths[0] == len(packet)
            assert bool(batch.vlan_tpids[0]) == (packet is TAGGED)
            assert batch.ifindexes[0] == sock.ifindex
            assert batch.timestamps_ns[0] > 0


# Checksums


@contextmanager
def addresses(pair: Veth) -> Iterator[None]:
    """Gives the first end an address and a permanent neighbour at the second,
    so that the kernel's own stack sends without asking."""
    (link,) = [
        line.split()[1]
        for line in ip("link", "show", pair.b).splitlines()
        if "link/ether" in line
    ]
    ip("address", "add", f"{ADDRESS_A}/24", "dev", pair.a)
    ip("neighbour", "add", ADDRESS_B, "lladdr", link, "dev", pair.a)
    yield


def test_checksum_left_to_hardware_is_flagged(veth: Veth) -> None:
    """The kernel's own stack sends a datagram over a veth pair, where nobody
    completes the checksum."""
    batch = PacketBatch()
    with (
        addresses(veth),
        RawSocket(veth.b) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        sock.settimeout(WAIT)
        udp.sendto(b"datagram", (ADDRESS_B, 9))
        assert sock.recvmmsg_into(batch) == 1
        assert batch.tolist()[0].endswith(b"datagram")
        assert batch.flags[0] == CHECKSUM_NOT_READY


def test_checksum_flags_need_vlan(veth: Veth) -> None:
    batch = PacketBatch()
    with (
        addresses(veth),
        RawSocket(veth.b, vlan=False) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        sock.settimeout(WAIT)
        udp.sendto(b"datagram", (ADDRESS_B, 9))
        assert sock.recvmmsg_into(batch) == 1
        assert batch.flags[0] == 0


def tcp_segment(good: bool) -> bytes:
    """A frame with TCP over IPv4."""
    source, target = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
    fields = (1024, 1025, 1, 1, 5 << 4, 0x10, 1000)
    pseudo = source + target + struct.pack(">HH", socket.IPPROTO_TCP, 20)
    segment = struct.pack(">HHIIBBHHH", *fields, 0, 0)
    correct = checksum(pseudo + segment)
    segment = struct.pack(
        ">HHIIBBHHH", *fields, correct if good else correct ^ 1, 0
    )
    header = struct.pack(
        ">BBHHHBBH", 0x45, 0, 40, 1, 0, 64, socket.IPPROTO_TCP, 0
    )
    correct = checksum(header + source + target)
    header = header[:10] + correct.to_bytes(2, "big") + source + target
    return frame(header + segment, ethertype=0x0800)


@pytest.mark.parametrize("good", [True, False])
def test_verified_checksum_is_flagged(veth: Veth, good: bool) -> None:
    """GRO verifies TCP checksums, also on a veth pair if enabled."""
    ethtool(veth.a, ETHTOOL_STSO, 0)
    ethtool(veth.b, ETHTOOL_SGRO, 1)
    batch = PacketBatch()
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        sock.settimeout(WAIT)
        sender.send(tcp_segment(good))
        assert sock.recvmmsg_into(batch) == 1
        assert batch.tolist() == [tcp_segment(good)]
        assert batch.flags[0] == (CHECKSUM_VALID if good else 0)


def test_frames_sent_by_raw_sockets_have_no_checksum_flag(
    pair: Veth, sender: RawSocket
) -> None:
    batch = PacketBatch()
    with RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        sender.send(tcp_segment(True))
        sock.recvmmsg_into(batch)
        assert batch.flags[0] == 0


# Timestamps


@pytest.mark.parametrize("vlan", [True, False])
def test_software_timestamps_lie_between_send_and_receive(
    pair: Veth, sender: RawSocket, vlan: bool
) -> None:
    packets = [frame(b"%d" % number) for number in range(64)]
    batch = PacketBatch()
    stamps: list[int] = []
    with RawSocket(pair.b, timestamps="software", vlan=vlan) as sock:
        until_stamped(sender, sock, frame())
        sock.settimeout(WAIT)
        before = time.time_ns()
        sender.sendmmsg_all(packets)
        while len(stamps) < len(packets):
            count = sock.recvmmsg_into(batch)
            stamps += batch.timestamps_ns[:count]
        after = time.time_ns()
    assert before <= stamps[0], "the timestamp is earlier than the send"
    assert stamps[-1] <= after, "the timestamp is later than the receive"
    assert stamps == sorted(stamps)


def test_software_timestamp_is_the_arrival_or_0(
    pair: Veth, sender: RawSocket
) -> None:
    """The kernel starts timestamping some time after the constructor asked for
    it. A packet that arrived earlier has timestamp 0, not the time at which it
    was read."""
    batch = PacketBatch()
    for _ in range(20):
        with RawSocket(pair.b, timestamps="software") as sock:
            sender.send(frame())
            assert select.select([sock], [], [], WAIT)[0]
            arrived_before = time.time_ns()
            sock.recvmmsg_into(batch)
        assert batch.timestamps_ns[0] < arrived_before


def test_timestamps_are_not_collected_by_default(
    pair: Veth, sender: RawSocket
) -> None:
    batch = PacketBatch()
    with RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        sender.send(frame())
        sock.recvmmsg_into(batch)
    assert not hasattr(batch, "timestamps_ns")


@pytest.mark.parametrize("wrong", ["hard", "", 1, True])
def test_unknown_kinds_of_timestamps_are_refused(
    pair: Veth, wrong: object
) -> None:
    with pytest.raises(ValueError, match="timestamps must be None,"):
        RawSocket(pair.b, timestamps=wrong)  # type: ignore[arg-type]


def test_hardware_timestamps_need_a_hardware_clock(pair: Veth) -> None:
    with pytest.raises(OSError, match="no hardware time stamps") as caught:
        RawSocket(pair.b, timestamps="hardware")
    assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(ValueError, match="interface"):
        RawSocket(timestamps="hardware")


# Control data


def test_control_data_of_other_options_fits(
    pair: Veth, sender: RawSocket
) -> None:
    """Once a packet was dropped, SO_RXQ_OVFL adds a counter to each packet.
    There is room for it, also after a packet with less control data."""
    batch = PacketBatch(1)
    with RawSocket(pair.b, rcvbuf=8192, timestamps="software") as sock:
        until_stamped(sender, sock, frame())
        sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        sock.settimeout(WAIT)
        sender.send(TAGGED)
        sock.recvmmsg_into(batch)
        sender.sendmmsg_all([TAGGED] * 256)
        deadline = time.monotonic() + WAIT
        while not sock.statistics().packets_dropped:
            assert time.monotonic() < deadline
        pending(sock)
        sender.send(TAGGED)
        sock.settimeout(WAIT)
        sock.recvmmsg_into(batch)
        assert batch.tolist() == [TAGGED]
        assert not batch.flags[0] & CONTROL_TRUNCATED
        assert batch.vlan_tcis[0] == 0x64
        assert batch.timestamps_ns[0] > 0


def test_control_data_that_does_not_fit_is_flagged(
    pair: Veth, sender: RawSocket
) -> None:
    """Options set by the caller need more space than there is. The VLAN tag,
    which the kernel writes last, is lost."""
    batch = PacketBatch()
    with RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(
            socket.SOL_SOCKET,
            SO_TIMESTAMPING,
            SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE,
        )
        sender.send(TAGGED)
        sock.recvmmsg_into(batch)
        assert batch.flags[0] & CONTROL_TRUNCATED
        assert batch.tolist() == [TAGGED[:12] + TAGGED[16:]]
        assert batch.vlan_tpids[0] == 0
        # With one option less, the same batch gets everything.
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, 0)
        sender.send(TAGGED)
        sock.recvmmsg_into(batch)
        assert batch.flags[0] & CONTROL_TRUNCATED == 0
        assert batch.tolist() == [TAGGED]


# recvmmsg(2)


def test_receive_does_not_wait_for_a_full_batch(
    pair: Veth, sender: RawSocket
) -> None:
    """recvmmsg(2) does, without MSG_WAITFORONE."""
    batch = PacketBatch(64)
    with RawSocket(pair.b) as sock:
        sender.send(frame())
        assert sock.recvmmsg_into(batch) == 1


def test_timeout_ends_a_receive_without_packets(pair: Veth) -> None:
    """recvmmsg(2) checks its own timeout only after a packet."""
    with RawSocket(pair.b) as sock:
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recvmmsg_into(PacketBatch())


def test_signal_between_packets_is_not_an_error(
    pair: Veth, sender: RawSocket
) -> None:
    """If a signal arrives after the first packet of a blocking recvmmsg(2),
    the next call fails with ERESTARTSYS (512)."""
    caught: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
    batch = PacketBatch(64)
    deadline = time.monotonic() + WAIT
    try:
        with RawSocket(pair.b) as sock:
            sock.settimeout(WAIT)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            sent = received = 0
            while len(caught) < 50 or received < sent:
                assert time.monotonic() < deadline
                if sent == received:
                    sender.sendmmsg_all([frame(b"1"), frame(b"2")])
                    sent += 2
                received += sock.recvmmsg_into(batch)
            assert received == sent
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_link_error_is_raised_before_queued_packets(
    veth: Veth,
) -> None:
    """The kernel reports ENETDOWN once, before the queued packets; none of
    them is lost."""
    packets = [frame(b"%d" % number) for number in range(8)]
    with (
        RawSocket(veth.b) as witness,
        RawSocket(veth.b) as sock,
        RawSocket(veth.a) as sender,
    ):
        sender.sendmmsg_all(packets)
        receive(witness, 8)
        veth.down("b")
        sock.settimeout(WAIT)
        with raises(errno.ENETDOWN):
            sock.recvmmsg_into(PacketBatch())
        assert receive(sock, 8) == packets


def test_batch_of_more_than_1024_is_filled_in_one_call() -> None:
    """recvmmsg(2) has no limit on the number of messages, unlike
    sendmmsg(2)."""
    count = 1500
    qlen = "/proc/sys/net/unix/max_dgram_qlen"
    with open(qlen) as file:
        before = file.read()
    with open(qlen, "w") as file:
        file.write("2000")
    std = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    std.bind("")  # the kernel chooses an abstract address
    address = std.getsockname()
    messages = [b"%d" % number for number in range(count)]
    # Queued datagrams count against the sender's buffer, so each sends only
    # what fits.
    senders = []
    try:
        with RawSocket(fileno=std.detach()) as sock:
            for start in range(0, count, 100):
                one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                senders.append(one)
                one.setblocking(False)
                one.connect(address)
                for message in messages[start : start + 100]:
                    one.send(message)
            batch = PacketBatch(2000, 64)
            assert sock.recvmmsg_into(batch) == count
            assert batch.tolist() == messages
    finally:
        for one in senders:
            one.close()
        with open(qlen, "w") as file:
            file.write(before)
