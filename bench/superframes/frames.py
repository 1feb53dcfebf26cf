"""Numbered TCP segments as a sender leaves them to its interface, with their
offload headers."""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from rawmmsg import GSO_NONE, GSO_TCPV4, SUPER_FRAME, VNET_NEEDS_CSUM

from ..lab.link import NUMBERS

ETHERNET: Final = bytes.fromhex("02000000000b 02000000000a 0800")
IPV4: Final = struct.Struct("!BxHHxxBBH4s4s")
_TCP: Final = struct.Struct("!HHIIBBHHH")
PSEUDO: Final = struct.Struct("!4s4sxBH")
SOURCE: Final = bytes([192, 0, 2, 1])
DESTINATION: Final = bytes([192, 0, 2, 2])
_PROTOCOL: Final = 6
_ACK: Final = 0x10
_CHECKSUM_OFFSET: Final = 16  # in a TCP header

_TRANSPORT: Final = len(ETHERNET) + IPV4.size
_HEADERS: Final = _TRANSPORT + _TCP.size
_MSS: Final = 1460

# A period that differs from that of cache lines.
_FILLER: Final = bytes(range(251))


class OffloadHeader(NamedTuple):
    """struct virtio_net_hdr; the names are those of PacketBatch's columns."""

    vnet_flags: int
    gso_types: int
    header_lengths: int  # a hint, which the kernel makes anew
    gso_sizes: int
    checksum_starts: int
    checksum_offsets: int


VIRTIO_NET_HDR: Final = struct.Struct("=BBHHHH")  # the same in memory


@dataclass(frozen=True)
class Kind:
    """A kind of frame. `header` is its offload header, `room` the bytes that
    it gets in memory."""

    name: str
    size: int
    header: OffloadHeader | None
    room: int

    @property
    def truesize(self) -> int:
        """The most bytes of a receive buffer that one takes."""
        return self.size + 4096

    @property
    def vnet_hdr(self) -> bool:
        return self.header is not None

    def frame(self, slice_number: int, index: int) -> bytes:
        """Frame `index` of a slice."""
        length = self.size - len(ETHERNET)
        payload = NUMBERS.pack(slice_number, index)
        filler = self.size - _HEADERS - len(payload)
        ip = IPV4.pack(
            *(0x45, length, index, 64, _PROTOCOL, 0, SOURCE, DESTINATION)
        )
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        # Of the pseudo header only, and not inverted: the interface adds the
        # rest.
        pseudo = PSEUDO.pack(SOURCE, DESTINATION, _PROTOCOL, length - len(ip))
        tcp = _TCP.pack(
            *(1024, 1025, index, 0, 5 << 4, _ACK, 65535),
            *(~checksum(pseudo) & 0xFFFF, 0),
        )
        body = payload + _FILLER * (filler // len(_FILLER) + 1)
        return (ETHERNET + ip + tcp + body)[: self.size]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


_NEEDS_CHECKSUM: Final = OffloadHeader(
    VNET_NEEDS_CSUM, GSO_NONE, _HEADERS, 0, _TRANSPORT, _CHECKSUM_OFFSET
)
_SEGMENTS: Final = _NEEDS_CHECKSUM._replace(
    gso_types=GSO_TCPV4, gso_sizes=_MSS
)

SUPER: Final = Kind("super-frames", 65_000, _SEGMENTS, SUPER_FRAME)
OFFLOAD: Final = Kind(
    "1,514 bytes, offload headers", 1514, _NEEDS_CHECKSUM, 2048
)
PLAIN: Final = Kind("1,514 bytes, plain", 1514, None, 2048)
