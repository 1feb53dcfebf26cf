"""Real TCP and UDP through a bridge: all data arrives, and no checksum is ever
wrong, whether a host, the kernel or the bridge computes it."""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support import WAIT
from support.bridging import (
    Running,
    bridging,
    every_kind,
    take,
    until_passing,
)
from support.calls import Call, eventually
from support.datagrams import (
    SCTP,
    TAGS,
    Datagram,
    data,
    leave_checksums_to_software,
    send_open,
)
from support.frames import same_frames
from support.hosts import Host, host

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

TCP_BYTES = 2_000_000
UDP_ROUNDS = 5
UDP_SEGMENT = 103  # linux/udp.h

FAMILIES = (socket.AF_INET, socket.AF_INET6)


@contextmanager
def directly(a: str, b: str, _: Path) -> Iterator[list[Running]]:
    """One bridge, which passes super-frames unchanged."""
    with bridging(a, b) as bridge:
        yield [bridge]


@contextmanager
def over_datagrams(
    a: str, b: str, path: Path, *options: str
) -> Iterator[list[Running]]:
    """Two bridges, which cut super-frames and complete checksums."""
    with (
        bridging(a, f"unix:{path}/a,{path}/b", *options) as one,
        bridging(b, f"unix:{path}/b,{path}/a", *options) as other,
    ):
        yield [one, other]


def merging_everything(
    a: str, b: str, path: Path
) -> AbstractContextManager[list[Running]]:
    """Two bridges, which also merge what arrives from the other one."""
    return over_datagrams(a, b, path, "--merge", "tcp,udp")


Join = Callable[[str, str], AbstractContextManager[list[Running]]]


@pytest.fixture(params=[directly, over_datagrams, merging_everything])
def join(request: pytest.FixtureRequest, short_path: Path) -> Join:
    return lambda a, b: request.param(a, b, short_path)


@pytest.mark.parametrize("offloads", [True, False], ids=["gso", "no gso"])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_no_checksum_is_wrong(
    veth_factory: Callable[..., Veth],
    join: Join,
    mtu: int,
    offloads: bool,
) -> None:
    left, right = veth_factory(mtu=mtu), veth_factory(mtu=mtu)
    with ExitStack() as stack:
        hosts = (
            stack.enter_context(host(left, 1)),
            stack.enter_context(host(right, 2)),
        )
        if not offloads:
            for one in hosts:
                one.leave_nothing_to_hardware()
        bridges = stack.enter_context(join(left.b, right.b))
        for family in FAMILIES:
            until_reachable(*hosts, family)
            for start, end in (hosts, hosts[::-1]):
                send_stream(start, end, family)
                send_datagrams(start, end, family, mtu - 100)
        for one in hosts:
            errors = one.checksum_errors()
            assert len(errors) >= 4, (
                "the kernel has no counters of checksum errors"
            )
            assert set(errors.values()) == {0}, errors
        for bridge in bridges:
            directions = bridge.end().directions
            assert all(one.received > 0 for one in directions)
            if offloads:
                largest = max(one.bytes / one.received for one in directions)
                assert largest > mtu or len(bridges) == 2


def until_reachable(
    start: Host, end: Host, family: socket.AddressFamily
) -> None:
    """Waits until both hosts know each other's hardware address."""

    def arrives() -> bool:
        sender.sendto(b"hello", (end.address(family), 9))
        try:
            return receiver.recv(100) == b"hello"
        except TimeoutError:
            return False

    with (
        start.call(socket.socket, family, socket.SOCK_DGRAM) as sender,
        end.call(socket.socket, family, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((end.address(family), 9))
        receiver.settimeout(0.1)
        eventually(arrives, "the hosts do not reach each other")


def send_stream(start: Host, end: Host, family: socket.AddressFamily) -> None:
    """Sends data over TCP."""
    sent = data(TCP_BYTES)
    with end.call(socket.socket, family) as listener:
        listener.bind((end.address(family), 0))
        listener.listen()
        with start.call(socket.socket, family) as sender:
            sender.settimeout(WAIT)
            sender.connect(listener.getsockname())
            accepted, _ = listener.accept()
            with accepted, Call(sender.sendall, sent):
                accepted.settimeout(WAIT)
                received = bytearray()
                while len(received) < len(sent):
                    part = accepted.recv(1 << 20)
                    assert part, "the connection ended early"
                    received += part
    assert received == sent


def send_datagrams(
    start: Host, end: Host, family: socket.AddressFamily, size: int
) -> None:
    """Sends data over UDP as super-frames (udp(7), UDP_SEGMENT)."""
    count = 60_000 // size
    with (
        start.call(socket.socket, family, socket.SOCK_DGRAM) as sender,
        end.call(socket.socket, family, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((end.address(family), 0))
        receiver.settimeout(WAIT)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        for i in range(UDP_ROUNDS):
            sent = struct.pack("!I", i) + data(size * count - 4)
            sender.sendto(sent, receiver.getsockname())
            received = [receiver.recv(70_000) for _ in range(count)]
            assert b"".join(received) == sent


# VLAN tags. The kernel may have no 802.1Q devices, so the frames are made here


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_tagged_super_frame_is_cut_by_the_kernel_correctly(
    veth_factory: Callable[..., Veth], mtu: int
) -> None:
    """It uses the offload headers that the bridge sends."""
    left, right = veth_factory(mtu=mtu), veth_factory(mtu=mtu)
    leave_checksums_to_software(right.b)
    with (
        RawSocket(left.a, protocol=0, vnet_hdr=True) as sender,
        RawSocket(right.a, ignore_outgoing=True) as receiver,
        bridging(left.b, right.b) as bridge,
    ):
        for batch, wanted in every_kind(mtu - 100):
            sender.sendmmsg_all(batch)
            same_frames(take(receiver, len(wanted)), wanted)
        ab, _ = bridge.end().directions
    assert ab.sent == 2 * len(list(every_kind(mtu - 100))), (
        "each frame is received in one piece"
    )


def test_tagged_super_frame_is_cut_by_two_bridges_correctly(
    veth_factory: Callable[..., Veth], short_path: Path
) -> None:
    """They cut it on the way from one to the other."""
    left, right = veth_factory(mtu=9000), veth_factory(mtu=9000)
    with (
        RawSocket(left.a, protocol=0, vnet_hdr=True) as sender,
        RawSocket(right.a, ignore_outgoing=True) as receiver,
        over_datagrams(left.b, right.b, short_path, "--no-merge"),
    ):
        until_passing(sender, receiver)
        for batch, wanted in every_kind(8_900):
            sender.sendmmsg_all(batch)
            same_frames(take(receiver, len(wanted)), wanted)


@pytest.mark.parametrize("version", [4, 6])
def test_sctp_checksum_is_completed_by_the_bridge(
    veth_factory: Callable[..., Veth], join: Join, version: int
) -> None:
    """Neither an offload header nor a datagram can say that its CRC32c is
    missing."""
    left, right = veth_factory(), veth_factory()
    leave_checksums_to_software(right.b)
    one = Datagram(protocol=SCTP, version=version)
    made = [
        replace(one, tags=tags, payload=data(size))
        for tags in TAGS.values()
        for size in (4, 5, 333, 1400)
    ]
    with (
        RawSocket(left.a, protocol=0) as sender,
        RawSocket(right.a, ignore_outgoing=True) as receiver,
        join(left.b, right.b),
    ):
        until_passing(sender, receiver)
        send_open(left.a, made)
        same_frames(take(receiver, len(made)), [one.build() for one in made])
