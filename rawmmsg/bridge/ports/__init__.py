"""The ports of a bridge, and their names on the command line."""

from ..._command.grammar import PortError, Written
from .names import parse_port, parse_spin, read_port
from .paths import Access, parse_mode, parse_owner
from .port import Port, PortClosed
from .sockets import SocketPort
from .stream import StreamSocket
from .vhost import GuestOptions, VhostUser

__all__ = [
    "Access",
    "GuestOptions",
    "Port",
    "PortClosed",
    "PortError",
    "SocketPort",
    "StreamSocket",
    "VhostUser",
    "Written",
    "parse_mode",
    "parse_owner",
    "parse_port",
    "parse_spin",
    "read_port",
]
