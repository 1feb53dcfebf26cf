"""What a bridge can be put between."""

import contextlib
import errno
import os
import re
import socket
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from .._rawmmsg import RawSocket
from ..bpf import Program
from . import filters

__all__ = ["Port", "PortError", "parse_port"]

_ETHERNET: Final = 1  # ARPHRD_ETHER, linux/if_arp.h
_RECEIVE_BUFFER: Final = 8 << 20

_PATH_SIZE: Final = 108  # sun_path, linux/un.h

# [HOST]:PORT, where a HOST with colons stands in brackets.
_ADDRESS: Final = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*)):(\d{1,5})")


class PortError(ValueError):
    """Words that name no port, or one that a bridge cannot use."""


class Port(ABC):
    """One side of the bridge. `sock` is there from open() to close()."""

    sock: RawSocket
    batch = 64
    """Frames to receive with one system call."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def open(self, expression: str | None) -> None:
        """Opens it, for frames that the filter accepts.

        OSError, FilterError, or PortError where it is no port for Ethernet
        frames; nothing is left open then.
        """

    @property
    def is_interface(self) -> bool:
        return self.sock.family == socket.AF_PACKET

    def tend(self) -> None:
        """What there is to do a few times a second. OSError ENODEV where an
        interface has disappeared."""
        # An interface that was down before leaves no event behind.
        if self.sock.interface is not None and not self.sock.getsockname()[0]:
            raise OSError(
                errno.ENODEV, os.strerror(errno.ENODEV), self.sock.interface
            )

    def close(self) -> None:
        self.sock.close()

    def _take(self, sock: RawSocket) -> None:
        """Makes it the port's, or closes it."""
        if sock.family == socket.AF_PACKET and sock.link_type != _ETHERNET:
            sock.close()
            raise PortError(f"{self.name}: not an Ethernet interface")
        sock.setblocking(False)
        self.sock = sock


class Interface(Port):
    """An Ethernet interface, by name."""

    # Few, so that super-frames are in the cache still when they are sent.
    batch = 8

    def open(self, expression: str | None) -> None:
        program = _program(filters.for_interface, expression)
        try:
            sock = RawSocket(
                self.name,
                filter=program,
                promisc=True,
                vnet_hdr=True,
                ignore_outgoing=True,
                allow_down=True,
            )
        except ValueError as error:
            raise PortError(str(error)) from None
        self._take(sock)


class Descriptor(Port):
    """fd:N, a socket that was opened by whoever started the program."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.number = number

    def open(self, expression: str | None) -> None:
        with socket.socket(fileno=os.dup(self.number)) as plain:
            family, kind = plain.family, plain.type
        if family == socket.AF_PACKET:
            self.batch = Interface.batch
            self._open_packet_socket(expression, kind)
            return
        if kind != socket.SOCK_DGRAM:
            raise PortError(f"{self.name}: not a datagram socket")
        compile_for = (
            filters.for_udp
            if family in (socket.AF_INET, socket.AF_INET6)
            else filters.for_datagrams
        )
        program = _program(compile_for, expression)
        self._take(RawSocket(fileno=self.number, filter=program))

    def _open_packet_socket(self, expression: str | None, kind: int) -> None:
        if kind != socket.SOCK_RAW:
            raise PortError(f"{self.name}: frames without their headers")
        program = _program(filters.for_interface, expression)
        sock = RawSocket(
            fileno=self.number,
            filter=program,
            vlan=True,
            vnet_hdr=True,
            ignore_outgoing=True,
        )
        self._take(sock)


class UnixSocket(Port):
    """unix:LOCAL,REMOTE, datagrams between two paths."""

    def __init__(self, name: str, local: str, remote: str) -> None:
        super().__init__(name)
        self.local = local
        self.remote = remote
        self._ours: os.stat_result | None = None
        self._connected: os.stat_result | None = None

    def open(self, expression: str | None) -> None:
        program = _program(filters.for_datagrams, expression)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plain:
            _bind_path(plain, self.local)
            self._ours = _look_at(self.local)
            try:
                self._take(RawSocket(fileno=plain.fileno(), filter=program))
            except BaseException:
                self._unlink()
                raise
            plain.detach()
        self.tend()

    def tend(self) -> None:
        """Connects to who is at REMOTE now. Nothing tells that it is another
        one than before, and until then we would get nothing from it
        (net/unix/af_unix.c:unix_may_send())."""
        found = _look_at(self.remote)
        if found is None:
            return
        plain = socket.socket(fileno=self.sock.fileno())
        try:
            if not (_is_same(found, self._connected) and _has_peer(plain)):
                plain.connect(self.remote)
                self._connected = found
        except OSError:
            self._connected = None  # it will be tried again
        finally:
            plain.detach()

    def close(self) -> None:
        self._unlink()
        super().close()

    def _unlink(self) -> None:
        """Removes our end, if it is still ours."""
        found = _look_at(self.local)
        if found is not None and _is_same(found, self._ours):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.local)


class UdpSocket(Port):
    """udp:HOST:PORT,HOST:PORT, local and remote."""

    def __init__(
        self, name: str, local: tuple[str, int], remote: tuple[str, int]
    ) -> None:
        super().__init__(name)
        self.local = local
        self.remote = remote

    def open(self, expression: str | None) -> None:
        program = _program(filters.for_udp, expression)
        family, local, remote = self._resolve()
        with socket.socket(family, socket.SOCK_DGRAM) as plain:
            plain.bind(local)
            # For the datagrams of this peer alone.
            plain.connect(remote)
            self._take(
                RawSocket(
                    fileno=plain.fileno(),
                    filter=program,
                    rcvbuf=_RECEIVE_BUFFER,
                )
            )
            plain.detach()

    def _resolve(self) -> tuple[socket.AddressFamily, Any, Any]:
        """Two addresses of one family."""
        remotes = {
            family: address
            for family, _, _, _, address in reversed(_look_up(*self.remote))
        }
        for family, _, _, _, address in _look_up(*self.local):
            if family in remotes:
                return family, address, remotes[family]
        raise PortError(f"{self.name}: one address is IPv4, the other IPv6")


def parse_port(text: str) -> Port:
    """The port that the words stand for, not opened; PortError."""
    kind, colon, rest = text.partition(":")
    if not colon:
        if not text:
            raise PortError("a port has a name")
        return Interface(text)
    if kind == "fd":
        if not rest.isdecimal():
            raise PortError(f"{text!r}: fd:N takes a descriptor's number")
        return Descriptor(text, int(rest))
    parts = rest.split(",")
    if kind == "unix":
        if len(parts) != 2 or not all(parts):
            raise PortError(f"{text!r}: not of the form unix:LOCAL,REMOTE")
        if any(len(os.fsencode(part)) >= _PATH_SIZE for part in parts):
            raise PortError(f"{text!r}: a path is too long for a socket")
        return UnixSocket(text, *parts)
    if kind == "udp":
        addresses = [_parse_address(part) for part in parts]
        if len(addresses) != 2 or None in addresses:
            raise PortError(
                f"{text!r}: not of the form udp:HOST:PORT,HOST:PORT"
            )
        local, remote = (one for one in addresses if one is not None)
        return UdpSocket(text, local, remote)
    raise PortError(
        f"{text!r}: not an interface, unix:LOCAL,REMOTE,"
        " udp:HOST:PORT,HOST:PORT or fd:N"
    )


def _parse_address(text: str) -> tuple[str, int] | None:
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[3]) > 0xFFFF:
        return None
    return found[1] or found[2] or "", int(found[3])


def _look_up(
    host: str, port: int
) -> Sequence[tuple[socket.AddressFamily, int, int, str, Any]]:
    """What getaddrinfo(3) says; no host: any address."""
    return socket.getaddrinfo(
        host or None,
        port,
        type=socket.SOCK_DGRAM,
        flags=socket.AI_PASSIVE,
    )


def _program(
    compile_for: Callable[[str], Program], expression: str | None
) -> Program | None:
    return None if expression is None else compile_for(expression)


def _look_at(path: str) -> os.stat_result | None:
    """None where there is nothing to be seen."""
    try:
        return os.stat(path)
    except OSError:
        return None


def _is_same(one: os.stat_result, other: os.stat_result | None) -> bool:
    """Whether it is the same file. The number alone does not tell: a file
    system gives that of a removed one to the next."""
    return (
        other is not None
        and os.path.samestat(one, other)
        and one.st_ctime_ns == other.st_ctime_ns
    )


def _has_peer(sock: socket.socket) -> bool:
    """Whether it is connected. A frame that finds its peer dead ends that."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _bind_path(sock: socket.socket, path: str) -> None:
    """Binds it, in the place of a socket that nobody has open any more."""
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_left_over(path):
            raise OSError(error.errno, error.strerror, path) from None
        os.unlink(path)
        sock.bind(path)


def _is_left_over(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    return False
