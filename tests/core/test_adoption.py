"""RawSocket(fileno=...): adopting a descriptor that the caller made."""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import WAIT
from support.calls import raises
from support.frames import (
    LOCAL_EXPERIMENTAL,
    OTHER_EXPERIMENTAL,
    datagram_pair,
    frame,
    pending,
    receive,
)
from support.linux import (
    ETH_P_ALL,
    SO_ATTACH_FILTER,
    SO_TIMESTAMPING,
    SO_TIMESTAMPNS,
    SOF_TIMESTAMPING_RX_SOFTWARE,
    SOF_TIMESTAMPING_SOFTWARE,
    packet_socket,
)
from support.programs import accept, keep_ethertype

from rawmmsg import (
    PACKET_AUXDATA,
    PACKET_IGNORE_OUTGOING,
    PACKET_QDISC_BYPASS,
    PACKET_STATISTICS,
    SOL_PACKET,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

PACKET_HDRLEN = 11
SO_INCOMING_CPU = 49
SO_INCOMING_NAPI_ID = 56
SO_PEERPIDFD = 77

ENDS = ["packet-raw", "packet-dgram", "unix", "inet", "inet6"]
NOT_PACKET = ["unix", "inet", "inet6"]

MakeEnd = Callable[[str], socket.socket]


@pytest.fixture
def make_end(pair: Veth) -> Iterator[MakeEnd]:
    """Makes a datagram socket of the given kind. The socket that it is
    connected to stays open until the test ends."""
    with contextlib.ExitStack() as stack:

        def make(kind: str) -> socket.socket:
            if kind == "packet-raw":
                return packet_socket(pair.b)
            if kind == "packet-dgram":
                return packet_socket(pair.b, socket.SOCK_DGRAM)
            ours, peer = datagram_ends(kind)
            stack.enter_context(peer)
            return ours

        yield make


def datagram_ends(kind: str) -> tuple[socket.socket, socket.socket]:
    """Two datagram sockets connected to each other, UDP on loopback."""
    if kind == "unix":
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    family = socket.AF_INET if kind == "inet" else socket.AF_INET6
    address = "127.0.0.1" if kind == "inet" else "::1"
    ours = socket.socket(family, socket.SOCK_DGRAM)
    peer = socket.socket(family, socket.SOCK_DGRAM)
    ours.bind((address, 0))
    peer.bind((address, 0))
    ours.connect(peer.getsockname())
    peer.connect(ours.getsockname())
    return ours, peer


def state(sock: socket.socket) -> dict[tuple[str, int], object]:
    """The flags of the socket and all its options, except those whose answer
    depends on the buffer, as with some of IP and IPv6."""
    levels = {socket.SOL_SOCKET: range(1, 90)}
    if sock.family == socket.AF_PACKET:
        levels[SOL_PACKET] = range(1, 30)
    elif sock.family == socket.AF_INET:
        levels[socket.IPPROTO_IP] = range(1, 25)
        levels[socket.IPPROTO_UDP] = range(1, 110)
    elif sock.family == socket.AF_INET6:
        levels[socket.IPPROTO_IPV6] = range(1, 30)
    found: dict[tuple[str, int], object] = {}
    for level, options in levels.items():
        for option in options:
            if level == socket.SOL_SOCKET and option in (
                SO_PEERPIDFD,  # reading it opens a descriptor
                SO_INCOMING_CPU,
                SO_INCOMING_NAPI_ID,
            ):
                continue
            if level == SOL_PACKET and option in (
                PACKET_STATISTICS,  # reading resets it
                PACKET_HDRLEN,  # the answer depends on the buffer
            ):
                continue
            try:
                value: object = sock.getsockopt(level, option, 256)
            except OSError:
                value = None
            found[f"level {level}", option] = value
    for command in ("F_GETFL", "F_GETFD", "F_GETOWN", "F_GETSIG"):
        number = getattr(fcntl, command)
        found[command, 0] = fcntl.fcntl(sock.fileno(), number)
    found["getsockname", 0] = sock.getsockname()
    return found


# What is accepted


def test_adopted_raw_packet_socket_receives_and_sends(pair: Veth) -> None:
    std = packet_socket(pair.b)
    with RawSocket(fileno=std.detach()) as sock, RawSocket(pair.a) as other:
        assert sock.family is socket.AF_PACKET
        assert sock.type is socket.SOCK_RAW
        assert sock.proto == 3  # ETH_P_ALL, in host order
        assert sock.interface == pair.b
        assert sock.ifindex == socket.if_nametoindex(pair.b)
        assert sock.link_type == 1
        assert sock.mtu == 1500
        other.send(frame(b"in"))
        assert receive(sock, 1) == [frame(b"in")]
        sock.sendmmsg([frame(b"out")])
        assert receive(other, 1) == [frame(b"out")]


def test_adopted_packet_socket_of_all_interfaces(pair: Veth) -> None:
    std = packet_socket(None)
    with RawSocket(fileno=std.detach()) as sock:
        assert sock.interface is None
        assert sock.ifindex is None
        assert sock.link_type is None
        assert sock.mtu is None
        sock.attach_filter(keep_ethertype(LOCAL_EXPERIMENTAL))
        with RawSocket(pair.a, protocol=0) as sender:
            sender.send(frame(b"in"))
        # The outgoing frame and the incoming one.
        sock.settimeout(WAIT)
        seen: set[int] = set()
        batch = PacketBatch()
        while len(seen) < 2:
            sock.recvmmsg_into(batch)
            assert hasattr(batch, "ifindexes"), (
                "without an interface, addresses are collected by default"
            )
            seen |= set(batch.ifindexes[: len(batch)])
        assert seen == {
            socket.if_nametoindex(pair.a),
            socket.if_nametoindex(pair.b),
        }


def test_adopted_dgram_packet_socket_receives_without_the_link_header(
    pair: Veth,
) -> None:
    std = packet_socket(pair.b, socket.SOCK_DGRAM)
    with RawSocket(fileno=std.detach()) as sock:
        assert sock.type == socket.SOCK_DGRAM
        with RawSocket(pair.a, protocol=0) as sender:
            sender.send(frame(b"payload"))
        assert receive(sock, 1) == [frame(b"payload")[14:]]


def test_adopted_send_only_packet_socket_raises_on_receive(
    pair: Veth,
) -> None:
    std = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    std.bind((pair.a, 0))
    with RawSocket(fileno=std.detach()) as sock, RawSocket(pair.b) as other:
        with pytest.raises(OSError, match="only sends"):
            sock.recv(100)
        sock.send(frame(b"out"))
        assert receive(other, 1) == [frame(b"out")]


@pytest.mark.parametrize("kind", NOT_PACKET)
def test_adopted_datagram_socket_receives_and_sends(kind: str) -> None:
    ours, peer = datagram_ends(kind)
    family = ours.family
    proto = 0 if family == socket.AF_UNIX else socket.IPPROTO_UDP
    with RawSocket(fileno=ours.detach()) as sock, peer:
        peer.settimeout(WAIT)
        assert sock.family is family
        assert sock.type is socket.SOCK_DGRAM
        assert sock.proto == proto
        assert sock.interface is None
        messages = [b"%d" % number for number in range(8)]
        for message in messages:
            peer.send(message)
        assert receive(sock, 8) == messages
        assert sock.sendmmsg(messages) == 8
        assert [peer.recv(100) for _ in messages] == messages
        peer.send(b"one")
        assert sock.recv(2) == b"on"
        peer.send(b"two")
        buffer = bytearray(5)
        assert sock.recv_into(buffer) == 3
        assert buffer == b"two\0\0"
        assert sock.send(b"three") == 5
        assert peer.recv(100) == b"three"


def test_empty_datagrams_are_packets() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        for message in (b"", b"a", b""):
            sender.send(message)
        assert receive(sock, 3) == [b"", b"a", b""]


@pytest.mark.parametrize("kind", NOT_PACKET)
def test_other_sockets_lack_the_columns_of_packet_sockets(kind: str) -> None:
    ours, peer = datagram_ends(kind)
    with peer, RawSocket(fileno=ours.detach()) as sock:
        sock.settimeout(WAIT)
        peer.send(b"x")
        batch = PacketBatch()
        sock.recvmmsg_into(batch)
        assert not hasattr(batch, "wire_lengths")
        assert not hasattr(batch, "vlan_tcis")
        assert not hasattr(batch, "vlan_tpids")
        assert not hasattr(batch, "ifindexes")
        assert not hasattr(batch, "packet_types")
        assert not hasattr(batch, "timestamps_ns")


def test_statistics_of_other_sockets_have_no_drops() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        sender.send(b"x")
        receive(sock, 1)
        counts = sock.statistics()
        assert counts.packets_received == 1
        assert counts.packets_dropped is None


def test_getsockname_of_other_sockets_is_eopnotsupp() -> None:
    sender, sock = datagram_pair()
    with (
        sender,
        sock,
        pytest.raises(OSError, match="getsockname") as caught,
    ):
        sock.getsockname()
    assert caught.value.errno == errno.EOPNOTSUPP


def test_adopted_connected_udp_reports_a_refusal() -> None:
    """ICMP port unreachable is raised, as by a socket of the standard
    library."""
    ours, peer = datagram_ends("inet")
    peer.close()
    with RawSocket(fileno=ours.detach()) as sock:
        sock.settimeout(WAIT)
        sock.send(b"nobody is there")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


# What is refused


def test_closed_descriptor_is_ebadf() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as std:
        descriptor = std.fileno()
    with raises(errno.EBADF, "Bad file descriptor"):
        RawSocket(fileno=descriptor)


def test_descriptor_beyond_the_limit_is_ebadf() -> None:
    with raises(errno.EBADF, "Bad file descriptor"):
        RawSocket(fileno=2**31 - 1)


def test_file_is_enotsock(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        with raises(errno.ENOTSOCK):
            RawSocket(fileno=file.fileno())
        os.fstat(file.fileno())


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_RAW),
    ],
)
def test_other_kinds_of_sockets_are_refused(family: int, kind: int) -> None:
    protocol = socket.IPPROTO_UDP if kind == socket.SOCK_RAW else 0
    with socket.socket(family, kind, protocol) as std:
        with pytest.raises(ValueError, match="a datagram socket"):
            RawSocket(fileno=std.fileno())
        os.fstat(std.fileno())


def test_seqpacket_is_adopted() -> None:
    """Each message is one packet. After the last message, the end is
    reported."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    batch = PacketBatch(4)
    with RawSocket(fileno=theirs.detach()) as sock:
        sock.setblocking(False)
        with ours:
            sock.sendmmsg_all([b"one", b"three"])
            assert [ours.recv(100) for _ in range(2)] == [b"one", b"three"]
            with pytest.raises(BlockingIOError):
                sock.recvmmsg_into(batch)
            for packet in (b"1", b"22"):
                ours.send(packet)
        sock.recvmmsg_into(batch)
        assert batch.tolist()[:3] == [b"1", b"22", b""]
        assert sock.recv(100) == b""
        with pytest.raises(BrokenPipeError):
            sock.send(b"late")


def test_deleted_interface_is_enodev(veth: Veth) -> None:
    with packet_socket(veth.b) as std:
        veth.delete()
        with raises(errno.ENODEV):
            RawSocket(fileno=std.fileno())


@pytest.mark.parametrize("kind", NOT_PACKET)
@pytest.mark.parametrize(
    "option",
    ["promisc", "ignore_outgoing", "vlan", "qdisc_bypass"],
)
def test_options_of_packet_sockets_are_refused_on_others(
    make_end: MakeEnd, kind: str, option: str
) -> None:
    options: dict[str, Any] = {option: True}
    with make_end(kind) as end:
        before = state(end)
        with pytest.raises(ValueError, match=f"{option} is an option of AF_P"):
            RawSocket(fileno=end.fileno(), **options)
        assert state(end) == before


@pytest.mark.parametrize(
    "options",
    [
        {"interface": "lo"},
        {"protocol": ETH_P_ALL},
        {"protocol": 0},
        {"type": socket.SOCK_RAW},
        {"netns": "/proc/self/ns/net"},
        {"allow_down": True},
    ],
    ids=str,
)
def test_interface_type_and_protocol_cannot_be_given_with_fileno(
    pair: Veth, options: dict[str, Any]
) -> None:
    with packet_socket(pair.b) as std:
        with pytest.raises(ValueError, match="fileno= determines"):
            RawSocket(fileno=std.fileno(), **options)
        os.fstat(std.fileno())


def test_promisc_needs_an_interface_when_adopting() -> None:
    with packet_socket(None) as std:
        with pytest.raises(ValueError, match="promisc needs an interface"):
            RawSocket(fileno=std.fileno(), promisc=True)
        os.fstat(std.fileno())


# Who owns the descriptor


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"filter": b"\0" * 7}, ValueError),
        ({"filter": b"\0" * 8}, OSError),
        ({"filter": "is no expression )"}, ValueError),
        ({"filter": 0}, OSError),
    ],
    ids=["7 bytes", "bad program", "expression", "int"],
)
def test_caller_keeps_the_descriptor_when_the_constructor_raises(
    make_end: MakeEnd,
    kind: str,
    options: dict[str, Any],
    error: type[Exception],
) -> None:
    with make_end(kind) as end:
        before = state(end)
        with pytest.raises(error):
            RawSocket(fileno=end.fileno(), **options)
        assert state(end) == before
        # It still works, and can still be adopted.
        RawSocket(fileno=end.fileno()).detach()


def test_adopted_descriptor_is_closed_by_close(make_end: MakeEnd) -> None:
    descriptor = make_end("unix").detach()
    RawSocket(fileno=descriptor).close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_detach_gives_the_adopted_descriptor_back(make_end: MakeEnd) -> None:
    with make_end("unix") as end:
        sock = RawSocket(fileno=end.fileno())
        assert sock.fileno() == end.fileno()
        assert sock.detach() == end.fileno()
        os.fstat(end.fileno())


def test_close_wakes_a_receive_on_an_adopted_descriptor(
    make_end: MakeEnd,
) -> None:
    sock = RawSocket(fileno=make_end("unix").detach())
    errors: list[int | None] = []

    def wait() -> None:
        try:
            sock.recv(1)
        except OSError as error:
            errors.append(error.errno)

    thread = threading.Thread(target=wait)
    thread.start()
    sock.close()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert errors == [errno.EBADF]


# What is changed on the descriptor


def prepare(end: socket.socket, blocking: bool) -> None:
    """Sets options to values that differ from the defaults."""
    end.setblocking(blocking)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 30_000)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 3)
    end.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    end.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 7, 0)
    )
    program = ctypes.create_string_buffer(accept())
    end.setsockopt(
        socket.SOL_SOCKET,
        SO_ATTACH_FILTER,
        struct.pack("HP", 1, ctypes.addressof(program)),  # struct sock_fprog
    )


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("blocking", [True, False])
def test_adopting_changes_no_option_unless_asked(
    make_end: MakeEnd, kind: str, blocking: bool
) -> None:
    with make_end(kind) as end:
        prepare(end, blocking)
        before = state(end)
        sock = RawSocket(fileno=end.fileno())
        assert state(end) == before
        sock.settimeout(1)
        assert state(end) == before, "the timeout is a property of the object"
        sock.detach()
        assert state(end) == before


@pytest.mark.parametrize("kind", ENDS)
def test_packets_queued_before_adoption_are_received(
    make_end: MakeEnd, pair: Veth, kind: str
) -> None:
    if kind.startswith("packet"):
        end = make_end(kind)
        with RawSocket(pair.a, protocol=0) as sender:
            sender.send(frame(b"queued"))
        expected = frame(b"queued")[0 if kind == "packet-raw" else 14 :]
    else:
        end, peer = datagram_ends(kind)
        with peer:
            peer.send(b"queued")
        expected = b"queued"
    with RawSocket(fileno=end.detach()) as sock:
        assert receive(sock, 1) == [expected]


@pytest.mark.parametrize("blocking", [True, False])
def test_timeout_belongs_to_the_object(blocking: bool) -> None:
    """O_NONBLOCK of the descriptor has no effect: the object blocks, as every
    new one."""
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(blocking)
    with peer, RawSocket(fileno=ours.detach()) as sock:
        assert sock.gettimeout() is None
        thread = threading.Thread(target=peer.send, args=(b"late",))
        thread.start()
        assert sock.recv(100) == b"late"
        thread.join()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)


@pytest.mark.parametrize("kind", ENDS)
def test_buffers_are_changed_when_asked(make_end: MakeEnd, kind: str) -> None:
    end = make_end(kind)
    with RawSocket(fileno=end.detach(), rcvbuf=50_000, sndbuf=60_000) as sock:
        for option, size in (
            (socket.SO_RCVBUF, 50_000),
            (socket.SO_SNDBUF, 60_000),
        ):
            assert sock.getsockopt(socket.SOL_SOCKET, option) == 2 * size


@pytest.mark.parametrize("kind", ENDS)
def test_software_timestamps_are_collected_when_asked(
    make_end: MakeEnd, kind: str
) -> None:
    with RawSocket(
        fileno=make_end(kind).detach(), timestamps="software"
    ) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING) == (
            SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE
        )


def test_packet_options_are_set_when_asked(pair: Veth) -> None:
    std = packet_socket(pair.b)
    with RawSocket(
        fileno=std.detach(),
        ignore_outgoing=True,
        qdisc_bypass=True,
        vlan=True,
        addresses=True,
        filter=keep_ethertype(LOCAL_EXPERIMENTAL),
    ) as sock:
        for option in (
            PACKET_IGNORE_OUTGOING,
            PACKET_QDISC_BYPASS,
            PACKET_AUXDATA,
        ):
            assert sock.getsockopt(SOL_PACKET, option) == 1
        with RawSocket(pair.a, protocol=0) as sender:
            sender.sendmmsg_all(
                [frame(b"no", ethertype=OTHER_EXPERIMENTAL), frame(b"yes")]
            )
        sock.settimeout(WAIT)
        batch = PacketBatch()
        sock.recvmmsg_into(batch)
        assert batch.tolist() == [frame(b"yes")]


def test_filter_discards_packets_queued_before_adoption(pair: Veth) -> None:
    std = packet_socket(pair.b)
    with RawSocket(pair.a, protocol=0) as sender:
        sender.send(frame(b"queued"))
        std.settimeout(WAIT)
        std.recv(1, socket.MSG_PEEK)
        with RawSocket(
            fileno=std.detach(), filter=keep_ethertype(LOCAL_EXPERIMENTAL)
        ) as sock:
            sender.send(frame(b"after"))
            assert receive(sock, 1) == [frame(b"after")]
            assert pending(sock) == []


TAGGED = bytes(12) + bytes.fromhex("8100600588b5") + bytes(46)
STRIPPED = TAGGED[:12] + TAGGED[16:]


@pytest.mark.parametrize(
    ("auxdata", "vlan", "restored"),
    [
        (False, None, False),
        (True, None, True),
        (False, True, True),
        (True, False, False),
        (False, False, False),
    ],
)
def test_vlan_of_none_follows_the_descriptor(
    pair: Veth, auxdata: bool, vlan: bool | None, restored: bool
) -> None:
    """vlan=None leaves PACKET_AUXDATA as it was."""
    std = packet_socket(pair.b)
    std.setsockopt(SOL_PACKET, PACKET_AUXDATA, auxdata)
    with RawSocket(fileno=std.detach(), vlan=vlan) as sock:
        assert sock.getsockopt(SOL_PACKET, PACKET_AUXDATA) == (
            auxdata or vlan is True
        )
        with RawSocket(pair.a, protocol=0) as sender:
            sender.send(TAGGED)
        sock.settimeout(WAIT)
        batch = PacketBatch()
        sock.recvmmsg_into(batch)
        assert batch.tolist() == [TAGGED if restored else STRIPPED]
        assert hasattr(batch, "vlan_tcis") == restored


@pytest.mark.no_network
def test_descriptors_that_a_peer_sends_are_closed() -> None:
    """A peer can attach descriptors to a Unix datagram. They arrive whenever
    control data is received, as it is for timestamps."""
    peer, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with peer, RawSocket(fileno=end.detach(), timestamps="software") as sock:
        batch = PacketBatch(2)
        before = os.listdir("/proc/self/fd")
        # As many as fit, and more than fit.
        for count in (1, 3, 250):
            socket.send_fds(peer, [b"packet"], [peer.fileno()] * count)
            assert sock.recvmmsg_into(batch) == 1
            assert batch.tolist() == [b"packet"]
        assert os.listdir("/proc/self/fd") == before
