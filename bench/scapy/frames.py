"""Numbered frames of two kinds, one of which Scapy takes to pieces."""

import struct
from typing import Final

from .link import HEADER, NUMBERS

SIZE: Final = 64  # bytes of a frame

_IP: Final = struct.Struct("!BBHHHBBH4s4s")
_UDP: Final = struct.Struct("!HHHH")
_ADDRESSES: Final = (bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]))  # RFC 5737
_IP_CHECKSUM: Final = 0xF6B7
_PAYLOAD: Final = SIZE - 14 - _IP.size - _UDP.size

PREFIXES: Final = {
    "unknown EtherType": HEADER,
    "UDP": HEADER[:12]
    + bytes.fromhex("0800")
    + _IP.pack(0x45, 0, SIZE - 14, 0, 0, 64, 17, _IP_CHECKSUM, *_ADDRESSES)
    # No checksum: UDP over IPv4 may go without.
    + _UDP.pack(40000, 40001, _UDP.size + _PAYLOAD, 0),
}
"""How the frames of each kind begin; their numbers follow."""


def numbered(prefix: bytes, series: int, count: int) -> list[bytes]:
    """Frames of one series, each with its number."""
    padding = bytes(SIZE - len(prefix) - NUMBERS.size)
    return [prefix + NUMBERS.pack(series, i) + padding for i in range(count)]
