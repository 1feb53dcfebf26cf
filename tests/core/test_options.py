"""Options of the constructor and their effects."""

import json
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from support import WAIT
from support.child import run_python
from support.frames import LOCAL_EXPERIMENTAL, frame, pending, receive, send
from support.linux import hardware_address, ip
from support.programs import keep_ethertype

from rawmmsg import (
    PACKET_BROADCAST,
    PACKET_HOST,
    PACKET_IGNORE_OUTGOING,
    PACKET_MULTICAST,
    PACKET_OTHERHOST,
    PACKET_OUTGOING,
    PACKET_QDISC_BYPASS,
    SOL_PACKET,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
STAMPING = {
    "SO_TIMESTAMP": 29,
    "SO_TIMESTAMPNS": 35,
    "SO_TIMESTAMPING": 37,
    "SO_TIMESTAMP_NEW": 63,
    "SO_TIMESTAMPNS_NEW": 64,
    "SO_TIMESTAMPING_NEW": 65,
}


def may(sock: socket.socket, option: int, value: int) -> bool:
    """Whether the kernel lets this user set the option, which needs
    CAP_NET_ADMIN in the initial user namespace."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, value)
    except PermissionError:
        return False
    return True


# Effects of each option


def promiscuity(interface: str) -> int:
    (link,) = json.loads(ip("-d", "-json", "link", "show", interface))
    return int(link["promiscuity"])


def test_promisc_lasts_as_long_as_the_socket(veth: Veth) -> None:
    with RawSocket(veth.b, promisc=True):
        assert promiscuity(veth.b) == 1
    assert promiscuity(veth.b) == 0


def test_promisc_is_off_by_default(veth: Veth) -> None:
    with RawSocket(veth.b):
        assert promiscuity(veth.b) == 0


def test_promisc_needs_an_interface() -> None:
    with pytest.raises(ValueError, match="promisc needs an interface"):
        RawSocket(promisc=True)


def test_each_frame_on_loopback_appears_once_by_default() -> None:
    packets = [frame(b"%d" % number) for number in range(8)]
    with RawSocket("lo", protocol=LOCAL_EXPERIMENTAL) as sock:
        assert sock.getsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING) == 1
    with RawSocket("lo", filter=keep_ethertype(LOCAL_EXPERIMENTAL)) as sock:
        send("lo", *packets)
        assert receive(sock, 8) == packets
        assert pending(sock) == []


def test_ignore_outgoing_off_shows_loopback_twice() -> None:
    packets = [frame(b"%d" % number) for number in range(8)]
    with RawSocket(
        "lo", filter=keep_ethertype(LOCAL_EXPERIMENTAL), ignore_outgoing=False
    ) as sock:
        send("lo", *packets)
        assert sorted(receive(sock, 16)) == sorted(packets * 2)


def test_outgoing_frames_of_others_appear_by_default(pair: Veth) -> None:
    with RawSocket(pair.a) as tap:
        assert tap.getsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING) == 0
        send(pair.a, frame(b"sent"))
        assert receive(tap, 1) == [frame(b"sent")]


def test_ignore_outgoing_hides_the_frames_of_others(pair: Veth) -> None:
    with RawSocket(pair.a, ignore_outgoing=True) as tap:
        send(pair.a, frame(b"sent"))
        send(pair.b, frame(b"received"))
        assert receive(tap, 1) == [frame(b"received")]


def test_own_frames_do_not_come_back(pair: Veth) -> None:
    with RawSocket(pair.a) as sock:
        sock.send(frame(b"own"))
        send(pair.b, frame(b"other's"))
        assert receive(sock, 1) == [frame(b"other's")]


def test_ifindexes_tell_the_interface_of_each_packet(
    veth: Veth, veth_factory: Callable[[], Veth]
) -> None:
    other = veth_factory()
    only_wanted = keep_ethertype(LOCAL_EXPERIMENTAL)
    with RawSocket(filter=only_wanted, ignore_outgoing=True) as sock:
        sock.settimeout(WAIT)
        batch = PacketBatch(1)
        for pair in (veth, other):
            send(pair.a, frame(pair.b.encode()))
            sock.recvmmsg_into(batch)
            assert batch.ifindexes[0] == socket.if_nametoindex(pair.b)
            assert batch.tolist() == [frame(pair.b.encode())]


def test_packet_types_tell_the_kind_of_destination(pair: Veth) -> None:
    expected = {
        PACKET_HOST: hardware_address(pair.b),
        PACKET_BROADCAST: b"\xff" * 6,
        PACKET_MULTICAST: bytes.fromhex("01005e000001"),
        PACKET_OTHERHOST: bytes.fromhex("020000001234"),
    }
    with RawSocket(pair.b, addresses=True) as sock:
        sock.settimeout(WAIT)
        batch = PacketBatch(1)
        for kind, address in expected.items():
            send(pair.a, frame(b"", dst=address))
            sock.recvmmsg_into(batch)
            assert batch.packet_types[0] == kind
            assert batch.ifindexes[0] == sock.ifindex
        send(pair.b, frame(b""))
        sock.recvmmsg_into(batch)
        assert batch.packet_types[0] == PACKET_OUTGOING


@pytest.mark.parametrize(
    ("interface", "addresses", "collected"),
    [
        (True, None, False),
        (True, True, True),
        (True, False, False),
        (False, None, True),
        (False, True, True),
        (False, False, False),
    ],
)
def test_addresses_are_collected_for_all_interfaces_or_when_asked(
    pair: Veth, interface: bool, addresses: bool | None, collected: bool
) -> None:
    with RawSocket(pair.b if interface else None, addresses=addresses) as sock:
        sock.settimeout(WAIT)
        batch = PacketBatch(1)
        send(pair.a, frame())
        sock.recvmmsg_into(batch)
        assert hasattr(batch, "ifindexes") == collected
        assert hasattr(batch, "packet_types") == collected


BUFFERS = [
    ("rcvbuf", socket.SO_RCVBUF, SO_RCVBUFFORCE),
    ("sndbuf", socket.SO_SNDBUF, SO_SNDBUFFORCE),
]


@pytest.mark.parametrize(("name", "option", "force"), BUFFERS)
def test_buffer_exceeds_the_limit_if_privilege_allows(
    pair: Veth, unbound: socket.socket, name: str, option: int, force: int
) -> None:
    unbound.setsockopt(socket.SOL_SOCKET, option, 1 << 30)
    limit = unbound.getsockopt(socket.SOL_SOCKET, option) // 2
    asked = limit + 4096
    options: dict[str, Any] = {name: asked}
    privileged = may(unbound, force, asked)
    with (
        nullcontext() if privileged else pytest.warns(RuntimeWarning),
        RawSocket(pair.b, **options) as sock,
    ):
        got = sock.getsockopt(socket.SOL_SOCKET, option)
    # The kernel doubles the size that it is given (socket(7)).
    assert got == 2 * (asked if privileged else limit)


@pytest.mark.parametrize(("name", "option", "force"), BUFFERS)
def test_buffer_is_capped_with_a_warning_without_privilege(
    name: str, option: int, force: int
) -> None:
    """In a user namespace the FORCE options are refused (EPERM)."""
    answer = run_python(
        f"""
        import os, socket, warnings
        from rawmmsg import RawSocket

        unbound = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with unbound:
            try:
                unbound.setsockopt(socket.SOL_SOCKET, {force}, 4096)
            except PermissionError:
                print("refused")
            unbound.setsockopt(socket.SOL_SOCKET, {option}, 1 << 30)
            limit = unbound.getsockopt(socket.SOL_SOCKET, {option})
        asked = limit // 2 + 4096
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            RawSocket().close()
            RawSocket({name}=limit // 2).close()
            assert caught == []
            with RawSocket({name}=asked) as sock:
                got = sock.getsockopt(socket.SOL_SOCKET, {option})
            print(got == limit)
            (warning,) = caught
            assert warning.category is RuntimeWarning
            letter = "{name}"[0].replace("s", "w")
            assert str(warning.message) == (
                f"{name}={{asked}}: the kernel gave {{limit // 2}} bytes, its"
                " limit. Raise the limit (sysctl -w"
                f" net.core.{{letter}}mem_max={{asked}}), or run with"
                " CAP_NET_ADMIN"
            )
            warnings.simplefilter("error")
            before = os.listdir("/proc/self/fd")
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            size = one.getsockopt(socket.SOL_SOCKET, {option})
            for arguments in ({{}}, {{"fileno": one.fileno()}}):
                try:
                    RawSocket({name}=asked, **arguments)
                except RuntimeWarning:
                    print("raised")
            assert one.getsockopt(socket.SOL_SOCKET, {option}) == size
            one.close()
            other.close()
            assert os.listdir("/proc/self/fd") == before
        """,
        *("unshare", "--user", "--map-root-user", "--net"),
    )
    assert answer.split() == ["refused", "True", "raised", "raised"]


def test_receive_buffer_is_8_mib_by_default(
    pair: Veth, unbound: socket.socket
) -> None:
    size = 8 << 20
    option = (socket.SOL_SOCKET, socket.SO_RCVBUF)
    if not may(unbound, SO_RCVBUFFORCE, size):
        unbound.setsockopt(*option, size)
    with RawSocket(pair.b) as sock:
        assert sock.getsockopt(*option) == unbound.getsockopt(*option)


def test_default_receive_buffer_holds_few_packets(pair: Veth) -> None:
    """This is why the constructor asks for more. The kernel counts the memory
    of a packet, of which a small frame is a small part."""
    with RawSocket(pair.b, rcvbuf=212_992 // 2) as sock:
        send(pair.a, *[frame(b"%d" % number) for number in range(512)])
        deadline = time.monotonic() + WAIT
        while not sock.statistics().packets_dropped:
            assert time.monotonic() < deadline, "512 small frames fit"
        assert pending(sock)


def test_qdisc_bypass_hides_frames_from_taps(pair: Veth) -> None:
    with (
        RawSocket(pair.a, ignore_outgoing=False) as tap,
        RawSocket(pair.a, protocol=0, qdisc_bypass=True) as sender,
        RawSocket(pair.b) as sock,
    ):
        assert sender.getsockopt(SOL_PACKET, PACKET_QDISC_BYPASS) == 1
        sender.send(frame(b"hidden"))
        send(pair.a, frame(b"shown"))
        assert receive(sock, 2) == [frame(b"hidden"), frame(b"shown")]
        assert receive(tap, 1) == [frame(b"shown")]


def test_qdisc_bypass_is_off_by_default(pair: Veth) -> None:
    with RawSocket(pair.a) as sock:
        assert sock.getsockopt(SOL_PACKET, PACKET_QDISC_BYPASS) == 0


def test_no_stamping_option_is_on_by_default(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        for name, option in STAMPING.items():
            value = sock.getsockopt(socket.SOL_SOCKET, option)
            assert value == 0, f"{name} is on"


def test_dgram_receives_without_the_link_header(pair: Veth) -> None:
    with RawSocket(pair.b, type=socket.SOCK_DGRAM) as sock:
        assert sock.type == socket.SOCK_DGRAM
        packet = frame(b"payload")
        send(pair.a, packet)
        assert receive(sock, 1) == [packet[14:]]


def test_filter_of_dgram_starts_at_layer_3(pair: Veth) -> None:
    """This is why expressions are refused: they are compiled for Ethernet."""
    with RawSocket(
        pair.b,
        type=socket.SOCK_DGRAM,
        filter=keep_ethertype(0x4142),
    ) as sock:
        packet = frame(b"0123456789..AB")
        send(pair.a, frame(b"rejected"), packet)
        assert receive(sock, 1) == [packet[14:]]


def test_adopted_datagram_socket_cannot_have_offload_headers() -> None:
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as std,
        pytest.raises(ValueError, match="SOCK_RAW"),
    ):
        RawSocket(fileno=std.fileno(), vnet_hdr=True)
