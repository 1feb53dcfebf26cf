"""Numbered frames of UDP, TCP and SCTP over IPv4, with right checksums."""

import struct
from typing import Final

from ..lab.link import NUMBERS
from ..lab.packets import (
    ETHERNET,
    IPV4,
    SCTP,
    TCP,
    UDP,
    checksum,
    ipv4,
    pseudo_header,
)

_TRANSPORT: Final = {
    UDP: struct.Struct("!HHHH"),
    TCP: struct.Struct("!HHIIBBHHH"),
    SCTP: struct.Struct("!HHII"),
}
# Offsets of the checksums in a frame, and their sizes.
_IPV4_FIELD: Final = slice(24, 26)
_FIELDS: Final = {
    UDP: slice(40, 42),
    TCP: slice(50, 52),
    SCTP: slice(42, 46),
}

# A period that differs from that of cache lines.
_FILLER: Final = bytes(range(251)) * 6


class Maker:
    """Makes the frames of a protocol and size."""

    def __init__(self, protocol: int, size: int) -> None:
        self.protocol = protocol
        self.size = size

    def __call__(self, slice_number: int, index: int) -> bytes:
        """Frame `index` of a slice."""
        frame = bytearray(self._open(slice_number, index))
        field, data = _FIELDS[self.protocol], bytes(frame[34:])
        if self.protocol == SCTP:
            frame[field] = _crc32c(data).to_bytes(4, "little")
            return bytes(frame)
        value = checksum(pseudo_header(self.protocol, len(data)) + data)
        if self.protocol == UDP:
            value = value or 0xFFFF
        frame[field] = value.to_bytes(2, "big")
        return bytes(frame)

    def spoil(self, frame: memoryview) -> None:
        """Overwrites the checksums with wrong ones."""
        for field in (_IPV4_FIELD, _FIELDS[self.protocol]):
            for i in range(field.start, field.stop):
                frame[i] ^= 0x5A

    def _open(self, slice_number: int, index: int) -> bytes:
        """A frame whose checksum of TCP, UDP or SCTP is 0."""
        transport = _TRANSPORT[self.protocol]
        headers = IPV4.size + transport.size
        length = self.size - len(ETHERNET)
        ip = ipv4(self.protocol, length, index)
        fields = {
            UDP: (1024, 1025, length - IPV4.size, 0),
            TCP: (1024, 1025, index, 0, 5 << 4, 0x10, 65535, 0, 0),
            SCTP: (1024, 1025, index, 0),
        }
        body = NUMBERS.pack(slice_number, index)[: length - headers]
        body += _FILLER[: length - headers - len(body)]
        return ETHERNET + ip + transport.pack(*fields[self.protocol]) + body


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_ENTRIES: Final = [_entry(value) for value in range(256)]


def _crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _ENTRIES[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
