"""Numbered UDP datagrams and TCP segments with the checksums of a sender that
leaves nothing to its interface."""

import struct
from typing import Final

from ..lab.link import NUMBERS
from ..lab.packets import (
    ETHERNET,
    IPV4,
    TCP,
    UDP,
    checksum,
    ipv4,
    pseudo_header,
)

PORT: Final = 1025
_SOURCE_PORT: Final = 1024
_UDP: Final = struct.Struct("!HHHH")
# Ports, sequence number, acknowledgement, length of the header in words and
# flags, window, checksum, urgent pointer.
_TCP: Final = struct.Struct("!HHIIHHHH")
_ACK: Final = _TCP.size // 4 << 12 | 0x10

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

    headers = HEADERS
    """Bytes before the payload."""
    _protocol = UDP
    _checksum_at = 6

    def __init__(self, size: int) -> None:
        self._size = size
        numbers = NUMBERS.size + _INVERTED.size
        rest = size - self.headers - numbers
        self._body = bytes(i & 0xFF for i in range(rest))
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
        ip = ipv4(self._protocol, self._size - len(ETHERNET), index)
        length = self._size - UDP_AT
        header = self._transport(index, length)
        found = checksum(
            pseudo_header(self._protocol, length)
            + header
            + self._payload(0, index)
        )
        at = self._checksum_at
        written = self._written(found).to_bytes(2, "big")
        return ETHERNET + ip + header[:at] + written + header[at + 2 :]

    def _transport(self, index: int, length: int) -> bytes:
        """The header of UDP or TCP, without its checksum."""
        del index
        return _UDP.pack(_SOURCE_PORT, PORT, length, 0)

    def _written(self, found: int) -> int:
        """What the header has for this checksum. In UDP, 0 stands for no
        checksum (RFC 768)."""
        return found or 0xFFFF


class Segments(Datagrams):
    """Makes the TCP segments of a bulk transfer."""

    headers = UDP_AT + _TCP.size
    _protocol = TCP
    _checksum_at = 16

    def _transport(self, index: int, length: int) -> bytes:
        sequence = index * (length - _TCP.size)
        return _TCP.pack(_SOURCE_PORT, PORT, sequence, 1, _ACK, 0xFFFF, 0, 0)

    def _written(self, found: int) -> int:
        return found
