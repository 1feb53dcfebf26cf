"""The packet sockets of this namespace, from sock_diag(7).

net/packet/diag.c answers. Everybody may ask; only the filters need
CAP_NET_ADMIN.
"""

import socket
import struct
from dataclasses import dataclass
from typing import Final

from ... import _netlink as netlink
from ...bpf import Program

__all__ = ["PacketSocket", "packet_sockets"]

_NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY: Final = 20  # linux/sock_diag.h

# linux/packet_diag.h
_REQUEST: Final = struct.Struct("=BBHIIII")  # struct packet_diag_req
_MESSAGE: Final = struct.Struct("=BBHIII")  # struct packet_diag_msg
_INFO: Final = struct.Struct("=IIIIII")  # struct packet_diag_info
_PACKET_SHOW_INFO: Final = 0x01
_PACKET_SHOW_RING_CFG: Final = 0x04
_PACKET_SHOW_MEMINFO: Final = 0x10
_PACKET_SHOW_FILTER: Final = 0x20
_PACKET_DIAG_INFO: Final = 0
_PACKET_DIAG_RX_RING: Final = 2
_PACKET_DIAG_MEMINFO: Final = 6
_PACKET_DIAG_FILTER: Final = 7
_PDI_VNETHDR: Final = 0x8

# linux/sock_diag.h, SK_MEMINFO_VARS
_SK_MEMINFO: Final = struct.Struct("=9I")
_SK_MEMINFO_RMEM_ALLOC: Final = 0
_SK_MEMINFO_RCVBUF: Final = 1
_SK_MEMINFO_DROPS: Final = 8


@dataclass(frozen=True)
class PacketSocket:
    """An AF_PACKET socket of some process."""

    inode: int
    index: int  # the interface; 0: all
    protocol: int  # in host order; 0: it only sends
    cooked: bool  # SOCK_DGRAM: its packets have no link header
    vnet_hdr: bool
    ring: bool  # it receives through a packet ring
    queued: int  # bytes of memory in use by its receive queue
    room: int  # bytes of memory that the queue may use (SO_RCVBUF)
    drops: int  # since it was opened
    filter: Program | None  # None also if this process may not see it
    filter_listed: bool  # false: the kernel's list ended before it

    def receives_from(self, index: int) -> bool:
        """Returns whether it receives what passes this interface."""
        return self.protocol != 0 and self.index in (0, index)


def packet_sockets() -> list[PacketSocket]:
    """Returns the packet sockets. Raises OSError if the kernel has no
    packet_diag.

    The list with filters ends at the first socket whose filter is too large
    for a message, so the sockets come from a list without filters.
    """
    shown = _PACKET_SHOW_INFO | _PACKET_SHOW_RING_CFG | _PACKET_SHOW_MEMINFO
    answers, with_filters = netlink.dumps(
        _NETLINK_SOCK_DIAG,
        _SOCK_DIAG_BY_FAMILY,
        [
            _REQUEST.pack(socket.AF_PACKET, 0, 0, 0, show, 0, 0)
            for show in (shown, _PACKET_SHOW_FILTER)
        ],
    )
    filters = dict(map(_parse_filter, with_filters))
    return [_parse(answer, filters) for answer in answers]


def _parse_filter(answer: bytes) -> tuple[int, bytes | None]:
    """Returns the inode of a socket, and its filter."""
    inode = _MESSAGE.unpack_from(answer)[3]
    found = netlink.attributes(answer[_MESSAGE.size :])
    return inode, found.get(_PACKET_DIAG_FILTER)


def _parse(answer: bytes, filters: dict[int, bytes | None]) -> PacketSocket:
    _, kind, protocol, inode, _, _ = _MESSAGE.unpack_from(answer)
    found = netlink.attributes(answer[_MESSAGE.size :])
    index, _, _, _, _, flags = _INFO.unpack_from(found[_PACKET_DIAG_INFO])
    memory = _SK_MEMINFO.unpack_from(found[_PACKET_DIAG_MEMINFO])
    code = filters.get(inode)
    return PacketSocket(
        inode=inode,
        index=index,
        protocol=protocol,
        cooked=kind == socket.SOCK_DGRAM,
        vnet_hdr=bool(flags & _PDI_VNETHDR),
        ring=_PACKET_DIAG_RX_RING in found,
        queued=memory[_SK_MEMINFO_RMEM_ALLOC],
        room=memory[_SK_MEMINFO_RCVBUF],
        drops=memory[_SK_MEMINFO_DROPS],
        filter=Program(code) if code else None,
        filter_listed=inode in filters,
    )
