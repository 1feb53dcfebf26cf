"""Packets that an offload header cannot express (UDP fragmentation offload).
Reading such a packet loses it with EINVAL. If other packets were read before
it in the same call, the kernel keeps the error for the next call on the
socket. Whichever call gets the error, the receiver raises it, and a change of
filter discards such packets too."""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import pytest
from support import WAIT
from support.calls import Call, raises
from support.frames import frame, pending, receive
from support.linux import tun_device
from support.programs import accept, keep_ethertype

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

# linux/virtio_net.h
VIRTIO_NET_HDR_GSO_UDP: Final = 3

PLAIN: Final = bytes(10)
INEXPRESSIBLE: Final = struct.pack(
    "=BBHHHH", 0, VIRTIO_NET_HDR_GSO_UDP, 42, 1000, 0, 0
)

SENDS: Final[dict[str, Callable[[RawSocket, bytes], Any]]] = {
    "sendmmsg": lambda sock, packet: sock.sendmmsg([packet]),
    "sendmmsg_all": lambda sock, packet: sock.sendmmsg_all([packet]),
}


def udp_packet(payload: bytes) -> bytes:
    """An IPv4 UDP packet: the kernel checks what it is to fragment."""
    udp = struct.pack("!HHHH", 1, 2, 8 + len(payload), 0) + payload
    ip = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(udp),
        0,
        0,
        64,
        17,
        0,
        bytes([192, 0, 2, 1]),
        bytes([192, 0, 2, 2]),
    )
    return frame(ip + udp, ethertype=0x0800)


def number(count: int) -> list[bytes]:
    return [frame(b"%06d" % i + bytes(40)) for i in range(count)]


class Wire:
    """A tap device: frames written to it arrive on the interface."""

    def __init__(self, descriptor: int, interface: str) -> None:
        self.descriptor = descriptor
        self.interface = interface

    def feed(self, packet: bytes) -> None:
        os.write(self.descriptor, PLAIN + packet)

    def feed_inexpressible(self) -> None:
        os.write(self.descriptor, INEXPRESSIBLE + udp_packet(bytes(3000)))


@pytest.fixture
def wire() -> Iterator[Wire]:
    with tun_device("tap", vnet_hdr=True) as (descriptor, interface):
        yield Wire(descriptor, interface)


def receive_error(sock: RawSocket) -> int | None:
    sock.settimeout(0)
    with pytest.raises(OSError) as caught:
        sock.recvmmsg_into(PacketBatch())
    return caught.value.errno


@pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)
def test_receivers_error_is_not_raised_by_a_send(
    wire: Wire, send: Callable[[RawSocket, bytes], Any]
) -> None:
    first, second, sent = number(3)
    batch = PacketBatch()
    with RawSocket(
        wire.interface, vnet_hdr=True, ignore_outgoing=True
    ) as sock:
        wire.feed(first)
        wire.feed_inexpressible()
        wire.feed(second)
        sock.settimeout(WAIT)
        assert sock.recvmmsg_into(batch) == 1
        assert batch.tolist() == [first]
        send(sock, sent)
        assert os.read(wire.descriptor, 2048)[10:] == sent
        assert receive_error(sock) == errno.EINVAL, "the error was lost"
        assert receive(sock, 1) == [second]


def test_send_raises_its_own_error_and_keeps_the_receivers(wire: Wire) -> None:
    with RawSocket(
        wire.interface, vnet_hdr=True, ignore_outgoing=True
    ) as sock:
        wire.feed(number(1)[0])
        wire.feed_inexpressible()
        assert receive(sock, 1) == number(1)
        with raises(errno.EMSGSIZE, "packet 0: 2,014 bytes"):
            sock.sendmmsg([frame(bytes(2000))])
        assert receive_error(sock) == errno.EINVAL
        assert receive_error(sock) == errno.EAGAIN


def test_receiver_raises_its_own_error(wire: Wire) -> None:
    with RawSocket(
        wire.interface, vnet_hdr=True, ignore_outgoing=True
    ) as sock:
        for packet in number(2):
            wire.feed(packet)
            wire.feed_inexpressible()
        for packet in number(2):
            assert receive(sock, 1) == [packet]
            assert receive_error(sock) == errno.EINVAL
        assert receive_error(sock) == errno.EAGAIN


@contextmanager
def changed_filter(wire: Wire, size: Literal[10, 12]) -> Iterator[RawSocket]:
    with RawSocket(wire.interface, vnet_hdr=size) as sock:
        queue_packets(wire)
        sock.attach_filter(keep_ethertype(0x1234))
        yield sock


@contextmanager
def adopted_with_header(
    wire: Wire, size: Literal[10, 12]
) -> Iterator[RawSocket]:
    std = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    std.bind((wire.interface, 3))
    queue_packets(wire)
    with RawSocket(
        fileno=std.detach(), vnet_hdr=size, filter=keep_ethertype(0x1234)
    ) as sock:
        yield sock


@contextmanager
def adopted_that_has_one(
    wire: Wire, size: Literal[10, 12]
) -> Iterator[RawSocket]:
    made = RawSocket(wire.interface, vnet_hdr=size)
    queue_packets(wire)
    with RawSocket(
        fileno=made.detach(), filter=keep_ethertype(0x1234)
    ) as sock:
        yield sock


def queue_packets(wire: Wire) -> None:
    """Queues 100 packets, with more than 16 inexpressible ones in a row."""
    for packet in number(40):
        wire.feed(packet)
    for _ in range(20):
        wire.feed_inexpressible()
    for packet in number(40):
        wire.feed(packet)


@pytest.mark.parametrize("size", [10, 12])
@pytest.mark.parametrize(
    "change", [changed_filter, adopted_with_header, adopted_that_has_one]
)
def test_change_of_filter_discards_inexpressible_packets(
    wire: Wire, change: Any, size: Literal[10, 12]
) -> None:
    wanted = frame(bytes(46), ethertype=0x1234)
    with change(wire, size) as sock:
        for packet in number(3):
            wire.feed(packet)
        wire.feed(wanted)
        assert receive(sock, 1) == [wanted]
        assert pending(sock) == []


@pytest.mark.parametrize("size", [10, 12])
def test_change_of_filter_does_not_disturb_a_receiver(
    pair: Veth, sender: RawSocket, size: Literal[10, 12]
) -> None:
    """The receiver waits, gets what the filter accepts, and no error."""
    wanted = frame(bytes(46), ethertype=0x1234)
    with (
        RawSocket(pair.b, vnet_hdr=size) as sock,
        Call(receive, sock, 1) as call,
    ):
        call.until_blocked()
        for _ in range(20):
            sock.attach_filter(keep_ethertype(0x1234))
            sock.attach_filter(accept(0))
        sock.attach_filter(keep_ethertype(0x1234))
        sender.sendmmsg_all([*number(100), wanted])
        assert call.result() == [wanted]
