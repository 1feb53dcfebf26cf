"""Calls and attributes that sockets of the standard library have too: they do
the same."""

import errno
import socket
import struct

import pytest
from support import WAIT
from support.calls import raises
from support.frames import LOCAL_EXPERIMENTAL, frame, receive, send
from support.linux import ETH_P_ALL, hardware_address, ip, same_socket

from rawmmsg import PACKET_AUXDATA, PACKET_VNET_HDR, SOL_PACKET, RawSocket
from rawmmsg.testing import Veth

ARPHRD_ETHER = 1
ARPHRD_LOOPBACK = 772


# Options, addresses and attributes


def test_getsockopt_equals_the_stdlibs(pair: Veth) -> None:
    with RawSocket(pair.b, rcvbuf=100_000) as sock, same_socket(sock) as std:
        for level, option in [
            (socket.SOL_SOCKET, socket.SO_RCVBUF),
            (socket.SOL_SOCKET, socket.SO_TYPE),
            (socket.SOL_SOCKET, socket.SO_DOMAIN),
            (SOL_PACKET, PACKET_AUXDATA),
        ]:
            number = sock.getsockopt(level, option)
            assert number == std.getsockopt(level, option)
            for size in (1, 2, 4, 100):
                data = sock.getsockopt(level, option, size)
                assert data == std.getsockopt(level, option, size)
                assert type(data) is bytes


@pytest.mark.parametrize("size", [-1, 1025])
def test_getsockopt_refuses_a_size_as_the_stdlib_does(
    pair: Veth, size: int
) -> None:
    """The standard library raises an OSError without errno here."""
    with (
        RawSocket(pair.b) as sock,
        pytest.raises((OSError, ValueError)),
    ):
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE, size)


def test_getsockopt_of_an_unknown_option_raises_as_the_stdlib(
    pair: Veth,
) -> None:
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        for get in (sock.getsockopt, std.getsockopt):
            with pytest.raises(OSError, match="not available") as caught:
                get(SOL_PACKET, 999)
            assert caught.value.errno == errno.ENOPROTOOPT


def test_setsockopt_does_the_same_as_the_stdlibs(pair: Veth) -> None:
    level, option = socket.SOL_SOCKET, socket.SO_PRIORITY
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        sock.setsockopt(level, option, 3)
        assert std.getsockopt(level, option) == 3
        for value in (struct.pack("i", 4), bytearray(struct.pack("i", 5))):
            sock.setsockopt(level, option, value)
            assert std.getsockopt(level, option, 4) == value
        for set_ in (sock.setsockopt, std.setsockopt):
            with raises(errno.EINVAL):
                set_(level, option, b"\0")
            with pytest.raises(TypeError):
                set_(level, option, "text")  # type: ignore[call-overload]
            with pytest.raises(TypeError):
                set_(level, option, None)  # type: ignore[call-overload]


def test_setsockopt_refuses_a_number_beyond_an_int(pair: Veth) -> None:
    with RawSocket(pair.b) as sock, pytest.raises(OverflowError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 1 << 40)


def test_setsockopt_of_none_passes_only_a_length(
    pair: Veth,
) -> None:
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        for set_ in (sock.setsockopt, std.setsockopt):
            with raises(errno.EFAULT):
                set_(socket.SOL_SOCKET, socket.SO_PRIORITY, None, 4)


def test_setsockopt_refuses_the_offload_header(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        with pytest.raises(ValueError, match="PACKET_VNET_HDR"):
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        assert sock.getsockopt(SOL_PACKET, PACKET_VNET_HDR) == 0


@pytest.mark.parametrize("protocol", [ETH_P_ALL, LOCAL_EXPERIMENTAL, 0])
def test_getsockname_equals_the_stdlibs(pair: Veth, protocol: int) -> None:
    with RawSocket(pair.b, protocol=protocol) as sock:
        with same_socket(sock) as std:
            assert sock.getsockname() == std.getsockname()
        name, its_protocol, _, link_type, address = sock.getsockname()
        assert name == pair.b
        assert its_protocol == protocol
        assert link_type == ARPHRD_ETHER
        assert address == hardware_address(pair.b)


def test_getsockname_of_all_interfaces_equals_the_stdlibs() -> None:
    with RawSocket() as sock, same_socket(sock) as std:
        assert sock.getsockname() == std.getsockname()


def test_getsockname_of_a_deleted_interface_equals_the_stdlibs(
    veth: Veth,
) -> None:
    with RawSocket(veth.b) as sock, same_socket(sock) as std:
        veth.delete()
        assert sock.getsockname() == std.getsockname()


def test_interface_ifindex_link_type_and_mtu_of_an_interface(
    pair: Veth,
) -> None:
    with RawSocket(pair.b) as sock:
        assert sock.interface == pair.b
        assert sock.ifindex == socket.if_nametoindex(pair.b)
        assert sock.link_type == ARPHRD_ETHER
        assert sock.mtu == 1500
        assert sock.family == socket.AF_PACKET
        assert sock.type == socket.SOCK_RAW


def test_link_type_of_loopback() -> None:
    with RawSocket("lo") as sock:
        assert sock.link_type == ARPHRD_LOOPBACK


def test_mtu_is_the_current_one(veth: Veth) -> None:
    with RawSocket(veth.b) as sock:
        ip("link", "set", veth.b, "mtu", "1400")
        assert sock.mtu == 1400


def test_all_interfaces_have_no_interface_ifindex_link_type_or_mtu() -> None:
    with RawSocket() as sock:
        assert sock.interface is None
        assert sock.ifindex is None
        assert sock.link_type is None
        assert sock.mtu is None


def test_state_cannot_be_assigned(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        for name in ("interface", "ifindex", "link_type", "mtu", "closed"):
            with pytest.raises(AttributeError):
                setattr(sock, name, 1)


# One packet


def test_recv_cuts_as_the_stdlib_does(pair: Veth) -> None:
    packet = frame(bytes(range(100)))
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        sock.settimeout(WAIT)
        std.settimeout(WAIT)
        for size in (0, 1, 13, 14, 60, len(packet), 5000):
            send(pair.a, packet, packet)
            assert sock.recv(size) == std.recv(size) == packet[:size]


def test_recv_returns_a_copy(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        send(pair.a, frame(b"one"), frame(b"two"))
        first, second = sock.recv(2048), sock.recv(2048)
        assert type(first) is bytes
        assert (first, second) == (frame(b"one"), frame(b"two"))


def test_recv_refuses_a_negative_size_as_the_stdlib(pair: Veth) -> None:
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        for receiver in (sock, std):
            with pytest.raises(ValueError, match="negative"):
                receiver.recv(-1)


@pytest.mark.parametrize(
    ("size", "nbytes", "written"),
    [(100, 0, 100), (100, 20, 20), (2000, 0, 114), (20, 20, 20)],
)
def test_recv_into_writes_as_the_stdlib_does(
    pair: Veth, size: int, nbytes: int, written: int
) -> None:
    packet = (frame(bytes(range(100))) + bytes(100))[:114]
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        sock.settimeout(WAIT)
        std.settimeout(WAIT)
        send(pair.a, packet, packet)
        ours, theirs = bytearray(size), bytearray(size)
        assert sock.recv_into(ours, nbytes) == written
        assert std.recv_into(theirs, nbytes) == written
        assert ours == theirs == packet[:written].ljust(size, b"\0")


def test_recv_into_refuses_as_the_stdlib_does(pair: Veth) -> None:
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        for receiver in (sock, std):
            with pytest.raises(ValueError, match="negative"):
                receiver.recv_into(bytearray(9), -1)
            with pytest.raises(ValueError, match="buffer"):
                receiver.recv_into(bytearray(9), 10)
            with pytest.raises((TypeError, BufferError)):
                receiver.recv_into(bytes(9))


def test_send_returns_the_length(pair: Veth) -> None:
    with RawSocket(pair.a) as sender, RawSocket(pair.b) as sock:
        for packet in (frame(b"x" * 50), bytearray(frame(b"y" * 1000))):
            assert sender.send(packet) == len(packet)
            assert receive(sock, 1) == [packet]


def test_send_raises_as_the_stdlib_does(pair: Veth) -> None:
    with RawSocket(pair.a) as sender, same_socket(sender) as std:
        for sock in (sender, std):
            for size, number in ((13, errno.EINVAL), (1515, errno.EMSGSIZE)):
                with pytest.raises(OSError) as caught:
                    sock.send(bytes(size))
                assert caught.value.errno == number


def test_getsockopt_with_a_short_buffer_returns_what_fits() -> None:
    """NETLINK_LIST_MEMBERSHIPS returns the number of bytes that there would
    be."""
    sol_netlink, list_memberships = 270, 9
    std = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
    std.bind((0, 1))
    with RawSocket(fileno=std.detach()) as sock:
        assert len(sock.getsockopt(sol_netlink, list_memberships, 1)) <= 1
