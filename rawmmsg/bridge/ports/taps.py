"""Taps for virtual machine monitors such as QEMU and Firecracker.

A tap is an interface whose other end is a program. Here this program is the
monitor: we make the tap and give it to a user, but do not keep it open. On our
side it is an interface like any other, with batches and super-frames.
"""

import array
import contextlib
import errno
import fcntl
import os
import re
import socket
import struct
from pathlib import Path
from typing import Final

from ..._command.grammar import PortError
from ..._rawmmsg import PacketBatch
from ..drops import Dropped
from . import links
from .interfaces import Interface

__all__ = ["Tap"]

_DEVICE: Final = "/dev/net/tun"

# linux/if.h, linux/if_tun.h
_LONGEST: Final = 15
# Folders in /proc/sys/net/ipv4/conf.
_RESERVED: Final = (".", "..", "all", "default")
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_TUNSETOWNER: Final = 0x400454CC
_TUNSETGROUP: Final = 0x400454CE

# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GDRVINFO: Final = 0x3
_ETHTOOL_GLINK: Final = 0xA
_LINK: Final = struct.Struct("II")  # struct ethtool_value
_DRVINFO: Final = struct.Struct("I32s32s32s32s64x")

# `ip link` shows it. A tap that has it is ours, even if we were killed.
_MARK: Final = "made by rawmmsg"


class Tap(Interface):
    """tap:NAME. Makes the tap, unless it exists. Removes it at the end if it
    was made here, in this run or an earlier one.

    `owner`: the uid and the gid that may open it; -1: not given.
    """

    def __init__(
        self, name: str, interface: str, owner: tuple[int, int]
    ) -> None:
        super().__init__(name, interface)
        is_short = len(os.fsencode(interface)) <= _LONGEST
        if (
            not is_short
            or re.search(r"[%/:\s]", interface)
            or interface in _RESERVED
        ):
            raise PortError(
                f"{name}: not a name for a tap: it has at most {_LONGEST}"
                " bytes, no space, and none of '%', '/' and ':', and is not"
                f" one of {', '.join(_RESERVED)}"
            )
        self._owner = owner
        self._ours = 0  # its index; 0: it is not ours
        self._is_down = True
        self._missed = 0

    def open(self, expression: str | None) -> None:
        if not self._find():
            self._make()
        try:
            super().open(expression)
        except BaseException:
            self._remove()
            raise
        self.sendmmsg = self._send

    def close(self) -> None:
        super().close()
        self._remove()

    def _find(self) -> bool:
        """Returns whether the tap exists."""
        try:
            index = socket.if_nametoindex(self.interface)
        except OSError:
            return False
        if _driver(self.interface) != (b"tun", b"tap"):
            raise PortError(f"{self.name}: this interface is not a tap")
        if links.alias_of(index) == _MARK:
            self._ours = index
            return True
        if self._owner != (-1, -1):
            raise PortError(
                f"{self.name}: the tap exists already, and owner= is only for"
                " one that is made here"
            )
        return True

    def _make(self) -> None:
        try:
            descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._ours = self._make_with(descriptor)
            finally:
                os.close(descriptor)
        except PermissionError as error:
            error.strerror = f"{error.strerror}; a tap needs CAP_NET_ADMIN"
            raise
        except FileNotFoundError as error:
            error.strerror = f"{_DEVICE}: {error.strerror}"
            raise

    def _make_with(self, descriptor: int) -> int:
        """Returns the index of the tap, which stays when the descriptor is
        closed."""
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        name = os.fsencode(self.interface)
        fcntl.ioctl(
            descriptor, _TUNSETIFF, struct.pack("16sH22x", name, flags)
        )
        user, group = self._owner
        if user != -1:
            fcntl.ioctl(descriptor, _TUNSETOWNER, user)
        if group != -1:
            fcntl.ioctl(descriptor, _TUNSETGROUP, group)
        index = socket.if_nametoindex(self.interface)
        links.set_alias(index, _MARK)
        _leave_to_guest(self.interface)
        links.set_up(index)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
        return index

    def _remove(self) -> None:
        index, self._ours = self._ours, 0
        if index:
            try:
                links.delete(index)
            except OSError as error:
                if error.errno != errno.ENODEV:  # somebody has removed it
                    raise

    # While no monitor has opened the tap

    def missing(self) -> str | None:
        if self._has_carrier():
            return super().missing()
        return f"no program has opened {self.interface}"

    def _has_carrier(self) -> bool:
        """The flag that all interfaces have (IFF_RUNNING) may be a second old
        (net/core/link_watch.c)."""
        request = _LINK.pack(_ETHTOOL_GLINK, 0)
        answer = _ethtool(self.sock.fileno(), self.interface, request)
        return answer is not None and bool(_LINK.unpack(answer)[1])

    def tend(self) -> bool:
        has_changed = super().tend()
        self._is_down = not self._has_carrier()
        return has_changed

    def _send(self, batch: PacketBatch, start: int = 0) -> int:
        """Takes all frames while no monitor has the tap: the kernel would drop
        them without an error (net/sched/sch_generic.c:noop_enqueue())."""
        if self._is_down:
            self._is_down = not self._has_carrier()
            if self._is_down:
                self._missed += len(batch) - start
                return len(batch) - start
        return self.sock.sendmmsg(batch, start)

    def dropped_sent(self) -> Dropped:
        return Dropped(link_down=self._missed)


def _driver(interface: str) -> tuple[bytes, bytes]:
    """Returns the names of the driver and of the bus. Empty ones if the
    interface has no driver that tells."""
    request = _DRVINFO.pack(_ETHTOOL_GDRVINFO, *[b""] * 4)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        answer = _ethtool(sock.fileno(), interface, request)
    if answer is None:
        return b"", b""
    _, driver, _, _, bus = _DRVINFO.unpack(answer)
    return driver.rstrip(b"\0"), bus.rstrip(b"\0")


def _ethtool(descriptor: int, interface: str, request: bytes) -> bytes | None:
    """Returns the answer. None if the kernel has none."""
    data = array.array("B", request)
    address, _ = data.buffer_info()
    asked = struct.pack("16sP16x", os.fsencode(interface), address)
    try:
        fcntl.ioctl(descriptor, _SIOCETHTOOL, asked)
    except OSError:
        return None
    return data.tobytes()


def _leave_to_guest(interface: str) -> None:
    """Makes this machine send no IPv6 packets of its own on the tap, and take
    no addresses and routes from the guest."""
    setting = Path("/proc/sys/net/ipv6/conf", interface, "disable_ipv6")
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        setting.write_text("1")
