"""Numbered TCP segments as a sender leaves them to its interface, with their
offload headers."""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from rawmmsg import GSO_NONE, GSO_TCPV4, SUPER_FRAME, VNET_NEEDS_CSUM

from ..lab.link import NUMBERS
from ..lab.packets import (
    ETHERNET,
    IPV4,
    TCP,
    checksum,
    ipv4,
    pseudo_header,
)

_TCP: Final = struct.Struct("!HHIIBBHHH")
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
        ip = ipv4(TCP, length, index)
        # Of the pseudo header only, and not inverted: the interface adds the
        # rest.
        pseudo = pseudo_header(TCP, length - len(ip))
        tcp = _TCP.pack(
            *(1024, 1025, index, 0, 5 << 4, _ACK, 65535),
            *(~checksum(pseudo) & 0xFFFF, 0),
        )
        body = payload + _FILLER * (filler // len(_FILLER) + 1)
        return (ETHERNET + ip + tcp + body)[: self.size]


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
