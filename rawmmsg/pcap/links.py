"""Link types: the numbers of the kernel, and those in files."""

from typing import Final

_RAW_IP: Final = 101

# linux/if_arp.h, and https://www.tcpdump.org/linktypes.html. These are the
# links whose frames on a packet socket are what the link type says.
_LINK_TYPES: Final = {
    1: 1,  # ARPHRD_ETHER
    772: 1,  # ARPHRD_LOOPBACK: with an Ethernet header
    519: _RAW_IP,  # ARPHRD_RAWIP
    768: _RAW_IP,  # ARPHRD_TUNNEL
    769: _RAW_IP,  # ARPHRD_TUNNEL6
    776: _RAW_IP,  # ARPHRD_SIT
    65534: _RAW_IP,  # ARPHRD_NONE: tun devices, WireGuard
    801: 105,  # ARPHRD_IEEE80211
    802: 119,  # ARPHRD_IEEE80211_PRISM
    803: 127,  # ARPHRD_IEEE80211_RADIOTAP
}


def link_type_of(hardware_type: int) -> int:
    """Returns the link type for a recording (LINKTYPE_) of an interface whose
    frames have a hardware type (ARPHRD_, as RawSocket.link_type).

    Raises ValueError if recordings have no link type for its frames.
    """
    try:
        return _LINK_TYPES[hardware_type]
    except KeyError:
        raise ValueError(
            f"frames of hardware type {hardware_type} (linux/if_arp.h) cannot"
            " be recorded: no link type of pcap files is for them"
        ) from None
