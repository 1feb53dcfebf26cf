"""TCP segments as their sender leaves them to the hardware: numbered, with
their offload headers."""

import ctypes
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from rawmmsg import GSO_NONE, GSO_TCPV4, SUPER_FRAME, VNET_NEEDS_CSUM

from .link import NUMBERS

_ETHERNET: Final = bytes.fromhex("02000000000b 02000000000a 0800")
_IPV4: Final = struct.Struct("!BxHHxxBBH4s4s")
_TCP: Final = struct.Struct("!HHIIBBHHH")
_PSEUDO: Final = struct.Struct("!4s4sxBH")
_SOURCE: Final = bytes([192, 0, 2, 1])
_DESTINATION: Final = bytes([192, 0, 2, 2])
_PROTOCOL: Final = 6
_ACK: Final = 0x10
_CHECKSUM_OFFSET: Final = 16  # in a TCP header

_TRANSPORT: Final = len(_ETHERNET) + _IPV4.size
HEADERS: Final = _TRANSPORT + _TCP.size
MSS: Final = 1460


class OffloadHeader(NamedTuple):
    """struct virtio_net_hdr."""

    flags: int
    gso_type: int
    header_length: int  # a hint, which the kernel makes anew
    gso_size: int
    checksum_start: int
    checksum_offset: int


class VirtioNetHeader(ctypes.Structure):
    """The same in memory (<linux/virtio_net.h>)."""

    _fields_ = (
        ("flags", ctypes.c_uint8),
        ("gso_type", ctypes.c_uint8),
        ("hdr_len", ctypes.c_uint16),
        ("gso_size", ctypes.c_uint16),
        ("csum_start", ctypes.c_uint16),
        ("csum_offset", ctypes.c_uint16),
    )


@dataclass(frozen=True)
class Kind:
    """What the frames of a side are like."""

    name: str
    size: int
    header: OffloadHeader | None  # None: none goes with them
    room: int  # for each, in memory

    @property
    def truesize(self) -> int:
        """Bytes of the receive buffer that one takes, at most."""
        return self.size + 4096

    @property
    def vnet_hdr(self) -> bool:
        return self.header is not None

    def frame(self, slice_number: int, index: int) -> bytes:
        """Frame `index` of a slice."""
        length = self.size - len(_ETHERNET)
        payload = NUMBERS.pack(slice_number, index)
        filler = self.size - HEADERS - len(payload)
        ip = _IPV4.pack(
            *(0x45, length, index, 64, _PROTOCOL, 0, _SOURCE, _DESTINATION)
        )
        ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
        # Of the pseudo header alone, and not inverted: the hardware adds the
        # rest.
        pseudo = _PSEUDO.pack(
            _SOURCE, _DESTINATION, _PROTOCOL, length - len(ip)
        )
        tcp = _TCP.pack(
            *(1024, 1025, index, 0, 5 << 4, _ACK, 65535),
            *(~_checksum(pseudo) & 0xFFFF, 0),
        )
        return (
            _ETHERNET + ip + tcp + payload + (_FILLER * (filler // 251 + 1))
        )[: self.size]


# Bytes that differ from those that are a cache line away.
_FILLER: Final = bytes(range(251))


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


_NEEDS_CHECKSUM: Final = OffloadHeader(
    VNET_NEEDS_CSUM, GSO_NONE, HEADERS, 0, _TRANSPORT, _CHECKSUM_OFFSET
)
_SEGMENTS: Final = _NEEDS_CHECKSUM._replace(gso_type=GSO_TCPV4, gso_size=MSS)

SUPER: Final = Kind("super-frames", 65_000, _SEGMENTS, SUPER_FRAME)
OFFLOAD: Final = Kind(
    "1,514 bytes, offload headers", 1514, _NEEDS_CHECKSUM, 2048
)
PLAIN: Final = Kind("1,514 bytes, plain", 1514, None, 2048)
