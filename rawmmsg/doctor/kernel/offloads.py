"""The offloads of an interface, by the ioctls of ethtool(8)."""

import array
import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import Final

__all__ = ["Offloads", "offloads_of"]

_SIOCETHTOOL: Final = 0x8946  # linux/sockios.h
_IFREQ: Final = struct.Struct("16sP16x")  # struct ifreq, linux/if.h

# linux/ethtool.h; each answer is a struct ethtool_value
_ETHTOOL_GRXCSUM: Final = 0x14
_ETHTOOL_GTXCSUM: Final = 0x16
_ETHTOOL_GTSO: Final = 0x1E
_ETHTOOL_GGSO: Final = 0x23
_ETHTOOL_GFLAGS: Final = 0x25
_ETHTOOL_GGRO: Final = 0x2B
_ETH_FLAG_TXVLAN: Final = 1 << 7
_ETH_FLAG_RXVLAN: Final = 1 << 8
_ETH_FLAG_LRO: Final = 1 << 15


@dataclass(frozen=True)
class Offloads:
    """What an interface leaves to hardware, or to the other end."""

    rx_checksum: bool
    tx_checksum: bool
    tso: bool
    gso: bool
    gro: bool
    lro: bool
    rx_vlan: bool
    tx_vlan: bool

    @property
    def merges(self) -> list[str]:
        """The offloads that make super-frames of what arrives."""
        named = {"gro": self.gro, "lro": self.lro}
        return [name for name, on in named.items() if on]

    @property
    def sends_super_frames(self) -> bool:
        """Whether the interface takes super-frames from the kernel as they
        are. Without TSO it may still take those of UDP, which need
        checksums."""
        return self.tso or (self.gso and self.tx_checksum)


def offloads_of(name: str) -> Offloads | None:
    """Returns the offloads, or None if the interface does not tell."""
    with socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    ) as control:

        def get(command: int) -> int:
            value = array.array("I", [command, 0])
            address = value.buffer_info()[0]
            encoded = name.encode(errors="surrogateescape")
            fcntl.ioctl(control, _SIOCETHTOOL, _IFREQ.pack(encoded, address))
            return value[1]

        try:
            flags = get(_ETHTOOL_GFLAGS)
            return Offloads(
                rx_checksum=bool(get(_ETHTOOL_GRXCSUM)),
                tx_checksum=bool(get(_ETHTOOL_GTXCSUM)),
                tso=bool(get(_ETHTOOL_GTSO)),
                gso=bool(get(_ETHTOOL_GGSO)),
                gro=bool(get(_ETHTOOL_GGRO)),
                lro=bool(flags & _ETH_FLAG_LRO),
                rx_vlan=bool(flags & _ETH_FLAG_RXVLAN),
                tx_vlan=bool(flags & _ETH_FLAG_TXVLAN),
            )
        except OSError:
            return None
