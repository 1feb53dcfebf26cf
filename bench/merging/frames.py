"""Numbered UDP datagrams with the checksums of a sender that leaves nothing to
its interface."""

import struct
from typing import Final

from ..lab.link import NUMBERS
from ..lab.packets import (
    ETHERNET,
    IPV4,
    UDP,
    checksum,
    ipv4,
    pseudo_header,
)

PORT: Final = 1025
_SOURCE_PORT: Final = 1024
_UDP: Final = struct.Struct("!HHHH")

UDP_AT: Final = len(ETHERNET) + IPV4.size
HEADERS: Final = UDP_AT + _UDP.size

# The number of the slice again, inverted, so that the checksum of a datagram
# is the same in all slices.
_INVERTED: Final = struct.Struct("!Q")
_ALL_ONES: Final = (1 << 64) - 1
HEAD: Final = HEADERS + NUMBERS.size + _INVERTED.size

# Of a super-frame, as merge_into() makes it by default.
_MOST_SEGMENTS: Final = 64
_MOST_BYTES: Final = 65535


def joined(size: int) -> int:
    """How many datagrams in frames of `size` bytes a super-frame has."""
    return min(_MOST_SEGMENTS, (_MOST_BYTES - HEADERS) // (size - HEADERS))


class Datagrams:
    """Makes datagrams in frames of `size` bytes. Their IPv4 ids count up in a
    batch."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._body = bytes(i & 0xFF for i in range(size - HEAD))
        self._headers: list[bytes] = []

    def __call__(self, slice_number: int, index: int) -> bytes:
        while index >= len(self._headers):
            self._headers.append(self._header(len(self._headers)))
        payload = self._payload(slice_number, index)
        return self._headers[index] + payload

    def _payload(self, slice_number: int, index: int) -> bytes:
        inverted = _INVERTED.pack(slice_number ^ _ALL_ONES)
        return NUMBERS.pack(slice_number, index) + inverted + self._body

    def _header(self, index: int) -> bytes:
        ip = ipv4(UDP, self._size - len(ETHERNET), index)
        length = self._size - UDP_AT
        udp = _UDP.pack(_SOURCE_PORT, PORT, length, 0)
        found = checksum(
            pseudo_header(UDP, length) + udp + self._payload(0, index)
        )
        return ETHERNET + ip + udp[:6] + (found or 0xFFFF).to_bytes(2, "big")
