"""The numbers of packet sockets and of offload headers, with their names.

The package has the single names too: ``rawmmsg.GSO_TCPV4`` is
``GsoType.TCPV4``. The bits of the columns `flags` and `vnet_flags` are plain
integers there, because ``batch.flags[i] & TRUNCATED`` is at least 20 times
slower with a member of an IntFlag. PacketFlag and VnetFlag are for reading and
printing: ``PacketFlag(batch.flags[i])``.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

# Only for type checkers: typing takes as long to import as the package.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "CHECKSUM_BAD",
    "CHECKSUM_GOOD",
    "CHECKSUM_NONE",
    "CHECKSUM_NOT_READY",
    "CHECKSUM_PENDING",
    "CHECKSUM_VALID",
    "CONTROL_TRUNCATED",
    "FANOUT_CBPF",
    "FANOUT_CPU",
    "FANOUT_EBPF",
    "FANOUT_FLAG_DEFRAG",
    "FANOUT_FLAG_ROLLOVER",
    "FANOUT_HASH",
    "FANOUT_LB",
    "FANOUT_QUEUE",
    "FANOUT_RANDOM",
    "FANOUT_ROLLOVER",
    "FOREIGN",
    "GSO_ECN",
    "GSO_NONE",
    "GSO_TCPV4",
    "GSO_TCPV6",
    "GSO_UDP_L4",
    "PACKET_ADD_MEMBERSHIP",
    "PACKET_AUXDATA",
    "PACKET_BROADCAST",
    "PACKET_DROP_MEMBERSHIP",
    "PACKET_FANOUT",
    "PACKET_FANOUT_DATA",
    "PACKET_HOST",
    "PACKET_IGNORE_OUTGOING",
    "PACKET_LOOPBACK",
    "PACKET_MULTICAST",
    "PACKET_ORIGDEV",
    "PACKET_OTHERHOST",
    "PACKET_OUTGOING",
    "PACKET_QDISC_BYPASS",
    "PACKET_ROLLOVER_STATS",
    "PACKET_STATISTICS",
    "PACKET_TIMESTAMP",
    "PACKET_VNET_HDR",
    "PACKET_VNET_HDR_SZ",
    "SOL_PACKET",
    "SUPER_FRAME",
    "TRUNCATED",
    "VLAN_RESTORED",
    "VNET_DATA_VALID",
    "VNET_NEEDS_CSUM",
    "ChecksumStatus",
    "FanoutMode",
    "GsoType",
    "PacketFlag",
    "PacketType",
    "VnetFlag",
]

# ---- Enumerations ----------------------------------------------------------


class GsoType(IntEnum):
    """A number of the column `gso_types`, without the bit GSO_ECN: what kind
    of super-frame a frame is (VIRTIO_NET_HDR_GSO_, linux/virtio_net.h)."""

    NONE = 0
    TCPV4 = 1
    TCPV6 = 4
    UDP_L4 = 5


class PacketType(IntEnum):
    """A number of the column `packet_types`: to whom a packet was addressed,
    as the kernel saw it (packet(7), sll_pkttype)."""

    HOST = 0
    BROADCAST = 1
    MULTICAST = 2
    OTHERHOST = 3
    OUTGOING = 4
    LOOPBACK = 5


class FanoutMode(IntEnum):
    """How a fanout group chooses the socket that receives a packet
    (packet(7), PACKET_FANOUT)."""

    HASH = 0
    LB = 1
    CPU = 2
    ROLLOVER = 3
    RANDOM = 4
    QUEUE = 5
    CBPF = 6
    EBPF = 7


class ChecksumStatus(IntEnum):
    """What PacketBatch.verify_checksums() says about a frame."""

    NONE = 0
    GOOD = 1
    BAD = 2
    PENDING = 3


class PacketFlag(IntFlag):
    """The bits of the column `flags`."""

    TRUNCATED = 1
    CHECKSUM_NOT_READY = 2
    CHECKSUM_VALID = 4
    VLAN_RESTORED = 8
    CONTROL_TRUNCATED = 16
    FOREIGN = 32


class VnetFlag(IntFlag):
    """The bits of the column `vnet_flags` (VIRTIO_NET_HDR_F_,
    linux/virtio_net.h)."""

    NEEDS_CSUM = 1
    DATA_VALID = 2


# ---- Columns ---------------------------------------------------------------

SUPER_FRAME: Final = 69632
"""The frame size, in bytes, that holds any GSO or GRO frame with its tags."""

TRUNCATED: Final = PacketFlag.TRUNCATED.value
"""flags: the frame holds fewer bytes than the packet had on the wire."""
CHECKSUM_NOT_READY: Final = PacketFlag.CHECKSUM_NOT_READY.value
"""flags: the checksum is left to the hardware (TP_STATUS_CSUMNOTREADY)."""
CHECKSUM_VALID: Final = PacketFlag.CHECKSUM_VALID.value
"""flags: the kernel or the hardware has verified the checksum."""
VLAN_RESTORED: Final = PacketFlag.VLAN_RESTORED.value
"""flags: the kernel had stripped the VLAN tag; rawmmsg has put it back into
the frame."""
CONTROL_TRUNCATED: Final = PacketFlag.CONTROL_TRUNCATED.value
"""flags: the kernel had more control data than fits (MSG_CTRUNC), which
options set by hand can cause: this packet may lack its tag or time stamp."""
FOREIGN: Final = PacketFlag.FOREIGN.value
"""flags: the datagram has another sender than the socket's `peer`."""

VNET_NEEDS_CSUM: Final = VnetFlag.NEEDS_CSUM.value
"""vnet_flags: the checksum is missing (VIRTIO_NET_HDR_F_NEEDS_CSUM)."""
VNET_DATA_VALID: Final = VnetFlag.DATA_VALID.value
"""vnet_flags: the checksum was verified (VIRTIO_NET_HDR_F_DATA_VALID)."""

GSO_NONE: Final = GsoType.NONE
"""gso_types: a frame as it goes on the wire."""
GSO_TCPV4: Final = GsoType.TCPV4
"""gso_types: a super-frame of TCP over IPv4."""
GSO_TCPV6: Final = GsoType.TCPV6
"""gso_types: a super-frame of TCP over IPv6."""
GSO_UDP_L4: Final = GsoType.UDP_L4
"""gso_types: a super-frame of UDP datagrams."""
GSO_ECN: Final = 0x80
"""gso_types, a bit that is added to GSO_TCPV4 or GSO_TCPV6: the TCP header
has CWR set, which belongs to the first segment only."""

CHECKSUM_NONE: Final = ChecksumStatus.NONE
"""verify_checksums(): there is nothing to verify: not IP, another protocol, a
fragment, UDP without a checksum, a super-frame, or it cannot be read."""
CHECKSUM_GOOD: Final = ChecksumStatus.GOOD
"""verify_checksums(): all checksums are right."""
CHECKSUM_BAD: Final = ChecksumStatus.BAD
"""verify_checksums(): the checksum of the IPv4 header is wrong, or that of
TCP, UDP, ICMP, ICMPv6 or SCTP."""
CHECKSUM_PENDING: Final = ChecksumStatus.PENDING
"""verify_checksums(): a checksum is still missing, because it was left to the
hardware."""

PACKET_HOST: Final = PacketType.HOST
"""packet_types: the packet was addressed to this machine."""
PACKET_BROADCAST: Final = PacketType.BROADCAST
"""packet_types: the packet was addressed to the broadcast address."""
PACKET_MULTICAST: Final = PacketType.MULTICAST
"""packet_types: the packet was addressed to a multicast address."""
PACKET_OTHERHOST: Final = PacketType.OTHERHOST
"""packet_types: the packet was addressed to another machine; received with
promisc=True."""
PACKET_OUTGOING: Final = PacketType.OUTGOING
"""packet_types: this machine sent the packet."""
PACKET_LOOPBACK: Final = PacketType.LOOPBACK
"""packet_types: a broadcast or multicast packet that this machine sent, and
that was looped back to it."""

# ---- Fanout groups ---------------------------------------------------------

FANOUT_HASH: Final = FanoutMode.HASH
"""Fanout mode: all packets of a flow go to the same socket."""
FANOUT_LB: Final = FanoutMode.LB
"""Fanout mode: the sockets take turns."""
FANOUT_CPU: Final = FanoutMode.CPU
"""Fanout mode: by the number of the CPU that the packet arrived on."""
FANOUT_ROLLOVER: Final = FanoutMode.ROLLOVER
"""Fanout mode: one socket, and the next one while its queue is full."""
FANOUT_RANDOM: Final = FanoutMode.RANDOM
"""Fanout mode: at random."""
FANOUT_QUEUE: Final = FanoutMode.QUEUE
"""Fanout mode: by the number of the interface's receive queue."""
FANOUT_CBPF: Final = FanoutMode.CBPF
"""Fanout mode: a classic BPF program returns the number of the socket."""
FANOUT_EBPF: Final = FanoutMode.EBPF
"""Fanout mode: an eBPF program returns the number of the socket."""

FANOUT_FLAG_ROLLOVER: Final = 0x1000
"""Fanout flag: a packet whose socket has a full queue goes to the next one."""
FANOUT_FLAG_DEFRAG: Final = 0x8000
"""Fanout flag: the kernel reassembles IP fragments before it chooses the
socket."""

# ---- Socket options --------------------------------------------------------

SOL_PACKET: Final = 263
"""The level of the options below, for getsockopt() and setsockopt()."""

PACKET_ADD_MEMBERSHIP: Final = 1
"""Socket option: adds a membership; set by add_membership()."""
PACKET_DROP_MEMBERSHIP: Final = 2
"""Socket option: drops a membership; set by drop_membership()."""
PACKET_STATISTICS: Final = 6
"""Socket option: packets and drops; reading it resets both. RawSocket reads
it for statistics(), and refuses it in getsockopt()."""
PACKET_AUXDATA: Final = 8
"""Socket option: metadata with each packet; set by vlan=."""
PACKET_ORIGDEV: Final = 9
"""Socket option: addresses name the interface that a packet arrived on, not
the bond or bridge above it."""
PACKET_VNET_HDR: Final = 15
"""Socket option: an offload header with each packet; set by vnet_hdr=."""
PACKET_TIMESTAMP: Final = 17
"""Socket option: the kind of time stamps in packet rings."""
PACKET_FANOUT: Final = 18
"""Socket option: the fanout group; set by fanout= and set_fanout()."""
PACKET_QDISC_BYPASS: Final = 20
"""Socket option: send past the traffic control layer; set by
qdisc_bypass=."""
PACKET_ROLLOVER_STATS: Final = 21
"""Socket option: counts of FANOUT_FLAG_ROLLOVER and FANOUT_ROLLOVER, three
64-bit numbers (struct tpacket_rollover_stats)."""
PACKET_FANOUT_DATA: Final = 22
"""Socket option: the program of a fanout group; set by set_fanout()."""
PACKET_IGNORE_OUTGOING: Final = 23
"""Socket option: do not receive what this machine sends; set by
ignore_outgoing=."""
PACKET_VNET_HDR_SZ: Final = 24
"""Socket option: the size of the offload header; set by vnet_hdr=12."""
