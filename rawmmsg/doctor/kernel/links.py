"""Interfaces, from rtnetlink(7).

Not from /sys/class/net, which shows the interfaces of the namespace in which
/sys was mounted.
"""

import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final

from ... import _netlink as netlink

__all__ = ["Link", "find_link", "link_by_index", "link_names", "ports_of"]

_NETLINK_ROUTE: Final = 0  # linux/netlink.h
_RTM_GETLINK: Final = 18  # linux/rtnetlink.h
_IFINFOMSG: Final = struct.Struct("=BxHiII")  # struct ifinfomsg

# linux/if_link.h
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_LINK: Final = 5
_IFLA_MASTER: Final = 10
_IFLA_OPERSTATE: Final = 16
_IFLA_LINKINFO: Final = 18
_IFLA_STATS64: Final = 23
_IFLA_PROMISCUITY: Final = 30
_IFLA_CARRIER: Final = 33
_IFLA_LINK_NETNSID: Final = 37
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2

# struct rtnl_link_stats64; later kernels have more fields at the end
_COUNTERS: Final = (
    "rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped"
    " tx_dropped multicast collisions rx_length_errors rx_over_errors"
    " rx_crc_errors rx_frame_errors rx_fifo_errors rx_missed_errors"
    " tx_aborted_errors tx_carrier_errors tx_fifo_errors tx_heartbeat_errors"
    " tx_window_errors"
).split()

_IFF_UP: Final = 0x1  # linux/if.h


@dataclass(frozen=True)
class Link:
    """An interface of this namespace."""

    index: int
    name: str
    hardware_type: int  # ARPHRD_ (linux/if_arp.h)
    up: bool
    carrier: bool
    operstate: int  # IF_OPER_ (linux/if.h)
    mtu: int
    promiscuity: int  # how many users made it promiscuous
    kind: str  # "veth", "macvlan", ...; "" for hardware
    kind_data: dict[int, bytes]  # the attributes of this kind
    lower: int  # the index of the peer, or of the interface below; 0: none
    lower_is_here: bool  # and not in another namespace
    master: int  # the index of the bridge or bond that it is a port of
    counters: dict[str, int]


def find_link(name: str) -> Link | None:
    """Returns the interface, or None if this namespace has none of that
    name."""
    try:
        index = socket.if_nametoindex(name)
    except (OSError, ValueError):
        return None
    return link_by_index(index)


def link_by_index(index: int) -> Link | None:
    """Returns the interface, or None if it does not exist (any more). Raises
    OSError if the kernel refuses to answer."""
    question = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    try:
        answer = netlink.ask(_NETLINK_ROUTE, _RTM_GETLINK, question)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None
    return _parse(answer)


def ports_of(link: Link) -> list[Link]:
    """Returns the ports of a bridge or bond."""
    links = map(link_by_index, link_names())
    return [one for one in links if one and one.master == link.index]


def link_names() -> dict[int, str]:
    """Returns the names of this namespace's interfaces, by index."""
    return dict(socket.if_nameindex())


def _parse(answer: bytes) -> Link:
    _, hardware_type, index, flags, _ = _IFINFOMSG.unpack_from(answer)
    found = netlink.attributes(answer[_IFINFOMSG.size :])
    information = netlink.nested(found, _IFLA_LINKINFO)
    return Link(
        index=index,
        name=_text(found[_IFLA_IFNAME]),
        hardware_type=hardware_type,
        up=bool(flags & _IFF_UP),
        carrier=bool(netlink.unpack("=B", found.get(_IFLA_CARRIER))),
        operstate=netlink.unpack("=B", found.get(_IFLA_OPERSTATE)),
        mtu=netlink.unpack("=I", found.get(_IFLA_MTU)),
        promiscuity=netlink.unpack("=I", found.get(_IFLA_PROMISCUITY)),
        kind=_text(information.get(_IFLA_INFO_KIND, b"")),
        kind_data=netlink.nested(information, _IFLA_INFO_DATA),
        lower=netlink.unpack("=I", found.get(_IFLA_LINK)),
        lower_is_here=_IFLA_LINK_NETNSID not in found,
        master=netlink.unpack("=I", found.get(_IFLA_MASTER)),
        counters=_counters(found.get(_IFLA_STATS64, b"")),
    )


def _counters(data: bytes) -> dict[str, int]:
    values = struct.unpack_from(f"={len(_COUNTERS)}Q", data)
    return dict(zip(_COUNTERS, values, strict=True))


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="surrogateescape")
