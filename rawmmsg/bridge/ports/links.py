"""Changes to interfaces, over rtnetlink(7)."""

import struct
from typing import Final

from ... import _netlink as netlink

__all__ = ["alias_of", "delete", "set_alias", "set_up"]

_NETLINK_ROUTE: Final = 0  # linux/netlink.h

# linux/rtnetlink.h, linux/if_link.h, linux/if.h
_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_IFINFOMSG: Final = struct.Struct("=BxHiII")  # struct ifinfomsg
_IFLA_IFALIAS: Final = 20
_IFF_UP: Final = 0x1


def alias_of(index: int) -> str:
    """Returns the text that `ip link` shows as alias; empty if none is set.
    Raises OSError (ENODEV) if there is no such interface."""
    answer = netlink.ask(_NETLINK_ROUTE, _RTM_GETLINK, _message(index))
    found = netlink.attributes(answer[_IFINFOMSG.size :])
    return found.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace")


def set_alias(index: int, text: str) -> None:
    alias = netlink.attribute(_IFLA_IFALIAS, text.encode())
    netlink.order(_NETLINK_ROUTE, _RTM_NEWLINK, _message(index) + alias)


def set_up(index: int) -> None:
    message = _message(index, _IFF_UP, _IFF_UP)
    netlink.order(_NETLINK_ROUTE, _RTM_NEWLINK, message)


def delete(index: int) -> None:
    netlink.order(_NETLINK_ROUTE, _RTM_DELLINK, _message(index))


def _message(index: int, flags: int = 0, change: int = 0) -> bytes:
    """`change`: which flags to set to those in `flags`."""
    return _IFINFOMSG.pack(0, 0, index, flags, change)
