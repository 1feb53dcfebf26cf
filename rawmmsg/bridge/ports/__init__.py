"""The ports of a bridge, and their names on the command line."""

import re
from typing import Final

from .interfaces import Descriptor, Interface
from .paths import Access
from .port import Port, PortClosed, PortError
from .sockets import SocketPort
from .stream import StreamPort
from .udp import UdpSocket
from .unix import UnixSocket
from .vhost import GuestOptions, VhostUser

__all__ = [
    "Access",
    "Descriptor",
    "GuestOptions",
    "Interface",
    "Port",
    "PortClosed",
    "PortError",
    "SocketPort",
    "StreamPort",
    "UdpSocket",
    "UnixSocket",
    "VhostUser",
    "parse_address",
    "parse_port",
]

_BY_UMASK: Final = Access()
_BY_DEFAULT: Final = GuestOptions()

_DESCRIPTOR: Final = re.compile(r"\d{1,9}")  # fits in a C int

# [HOST]:PORT. A HOST with colons must be in brackets.
_ADDRESS: Final = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*)):(\d{1,5})")


def parse_port(
    text: str,
    access: Access = _BY_UMASK,
    guest_options: GuestOptions = _BY_DEFAULT,
) -> Port:
    """Returns the port with this name, which is not open yet. Raises PortError
    if the name has a wrong form."""
    kind, colon, rest = text.partition(":")
    if not colon:
        if not text:
            raise PortError("the name of a port must not be empty")
        return Interface(text)
    if kind == "fd":
        if not _DESCRIPTOR.fullmatch(rest):
            raise PortError(
                f"{text!r}: the N of fd:N must be a descriptor number"
            )
        return Descriptor(text, int(rest))
    parts = rest.split(",")
    if kind == "unix":
        if len(parts) != 2 or not all(parts):
            raise PortError(f"{text!r}: not of the form unix:LOCAL,REMOTE")
        return UnixSocket(text, parts[0], parts[1], access)
    if kind == "vhost-user":
        path, *options = parts
        if not path or options not in ([], ["connect"]):
            raise PortError(
                f"{text!r}: not of the form vhost-user:PATH or"
                " vhost-user:PATH,connect"
            )
        return VhostUser(text, path, bool(options), access, guest_options)
    if kind == "udp":
        addresses = [parse_address(part) for part in parts]
        if len(addresses) != 2 or None in addresses:
            raise PortError(
                f"{text!r}: not of the form udp:HOST:PORT,HOST:PORT"
            )
        local, remote = (one for one in addresses if one is not None)
        return UdpSocket(text, local, remote)
    raise PortError(
        f"{text!r}: not an interface, unix:LOCAL,REMOTE, vhost-user:PATH,"
        " udp:HOST:PORT,HOST:PORT or fd:N"
    )


def parse_address(text: str) -> tuple[str, int] | None:
    """Returns the host and the port of HOST:PORT, or None if it has a wrong
    form."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[3]) <= 0xFFFF:
        return None
    return found[1] or found[2] or "", int(found[3])
