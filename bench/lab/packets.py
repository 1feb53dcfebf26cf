"""Parts of IPv4 packets, for measurements that send them."""

import struct
from typing import Final

# From and to locally administered addresses.
ETHERNET: Final = bytes.fromhex("02000000000b 02000000000a 0800")

# Without type of service, flags and fragment offset, which are 0.
IPV4: Final = struct.Struct("!BxHHxxBBH4s4s")
SOURCE: Final = bytes([192, 0, 2, 1])  # RFC 5737
DESTINATION: Final = bytes([192, 0, 2, 2])

TCP: Final = 6
UDP: Final = 17
SCTP: Final = 132


def ipv4(protocol: int, length: int, identification: int) -> bytes:
    """The header of a packet of `length` bytes."""
    ip = IPV4.pack(
        *(0x45, length, identification, 64, protocol, 0, SOURCE, DESTINATION)
    )
    return ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]


def pseudo_header(protocol: int, length: int) -> bytes:
    """What the checksum of TCP or UDP covers besides its `length` bytes."""
    return SOURCE + DESTINATION + struct.pack("!HH", protocol, length)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
