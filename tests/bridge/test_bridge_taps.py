"""A tap that a virtual machine monitor (QEMU, Firecracker) has opened:
super-frames pass in one piece if the guest takes them."""

import fcntl
import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import pytest
from support import WAIT
from support.bridging import Network, bridging, take
from support.datagrams import (
    CHECKSUM_OFFSETS,
    TCP,
    UDP,
    Datagram,
    data,
    super_frame,
)
from support.frames import same_frames
from support.linux import tun_device

from rawmmsg import GSO_NONE, SUPER_FRAME, VNET_NEEDS_CSUM, RawSocket

# <linux/if_tun.h>. Firecracker and QEMU use these.
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_CSUM, _TSO4, _TSO6 = 1, 2, 4
_HEADER: Final = 12  # struct virtio_net_hdr_v1

_SIZE: Final = 1400
_SEGMENTS: Final = 4


@dataclass(frozen=True)
class Monitor:
    """What a monitor does with its tap. The frames begin with an offload
    header."""

    descriptor: int
    interface: str

    def read(self, count: int) -> list[bytes]:
        frames: list[bytes] = []
        while len(frames) < count:
            assert select.select([self.descriptor], [], [], WAIT)[0], frames
            frames.append(os.read(self.descriptor, SUPER_FRAME + _HEADER))
        return frames


@contextmanager
def monitor(offloads: int) -> Iterator[Monitor]:
    """Opens a tap as a monitor does, for a guest with these offloads."""
    with tun_device("tap", vnet_hdr=True) as (descriptor, interface):
        size = struct.pack("i", _HEADER)
        fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, size)
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, offloads)
        yield Monitor(descriptor, interface)


def large(version: int, protocol: int = TCP) -> Datagram:
    payload = data(_SEGMENTS * _SIZE)
    return Datagram(version=version, protocol=protocol, payload=payload)


def send(interface: str, datagram: Datagram) -> None:
    with RawSocket(interface, protocol=0, vnet_hdr=True) as sock:
        assert sock.sendmmsg(super_frame(datagram, _SIZE)) == 1


@pytest.mark.usefixtures("tap")
@pytest.mark.parametrize("version", [4, 6])
def test_guest_that_takes_super_frames_gets_them_in_one_piece(
    network: Network, version: int
) -> None:
    datagram = large(version)
    with (
        monitor(_CSUM | _TSO4 | _TSO6) as machine,
        bridging(machine.interface, network.right.b) as bridge,
    ):
        send(network.right.a, datagram)
        (received,) = machine.read(1)
        to_machine = bridge.end().directions[1]
    (sent,) = super_frame(datagram, _SIZE).tolist()
    assert received[_HEADER:] == sent
    _, gso_type, _, gso_size = struct.unpack_from("<BBHH", received)
    assert gso_type != GSO_NONE
    assert gso_size == _SIZE
    assert (to_machine.received, to_machine.gained) == (1, 0)


@pytest.mark.usefixtures("tap")
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_kernel_cuts_super_frames_for_another_guest(
    network: Network, protocol: int
) -> None:
    """The bridge sends them in one piece even so. Neither monitor asks for
    UDP super-frames."""
    offloads = 0 if protocol == TCP else _CSUM | _TSO4 | _TSO6
    datagram = large(4, protocol)
    with (
        monitor(offloads) as machine,
        bridging(machine.interface, network.right.b) as bridge,
    ):
        send(network.right.a, datagram)
        received = [one[_HEADER:] for one in machine.read(_SEGMENTS)]
        to_machine = bridge.end().directions[1]
    if protocol == TCP:
        same_frames(received, datagram.segments(_SIZE))
    lengths = [len(one) for one in datagram.segments(_SIZE)]
    assert [len(one) for one in received] == lengths
    assert (to_machine.received, to_machine.gained) == (1, 0)


@pytest.mark.usefixtures("tap")
@pytest.mark.parametrize("version", [4, 6])
def test_super_frame_of_guest_arrives_in_one_piece(
    network: Network, version: int
) -> None:
    datagram = large(version)
    batch = super_frame(datagram, _SIZE)
    header = struct.pack(
        "<BBHHHHH",
        *(VNET_NEEDS_CSUM, datagram.gso_type, datagram.header_size, _SIZE),
        *(datagram.transport_offset, CHECKSUM_OFFSETS[TCP], 0),
    )
    with (
        monitor(0) as machine,
        RawSocket(network.right.a, ignore_outgoing=True, vnet_hdr=True) as far,
        bridging(machine.interface, network.right.b) as bridge,
    ):
        os.write(machine.descriptor, header + batch.tolist()[0])
        same_frames(take(far, 1), batch.tolist())
        from_machine = bridge.end().directions[0]
    assert (from_machine.sent, from_machine.gained) == (1, 0)
