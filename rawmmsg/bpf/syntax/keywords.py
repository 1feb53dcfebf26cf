"""The words of the language: keywords, constants, names of services.

Numbers of protocols are here as well.
"""

__all__ = [
    "CONSTANTS",
    "ETHER_TYPES",
    "KEYWORDS",
    "UNSUPPORTED",
    "protocol_number",
    "service_port",
]

IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_ICMPV6 = 58
IPPROTO_SCTP = 132
PORT_PROTOCOLS = (IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP)

ETH_IP = 0x0800
ETH_ARP = 0x0806
ETH_RARP = 0x8035
ETH_IPX = 0x8137
ETH_IPV6 = 0x86DD
ETH_MPLS = 0x8847
ETH_PPPOE_DISCOVERY = 0x8863
ETH_PPPOE_SESSION = 0x8864

IP6_HEADER = 40  # its size, without extensions

# Numbers up to 1500 are IEEE 802.2 service access points.
SAP_IP = 0x06
SAP_STP = 0x42
SAP_IPX = 0xE0
SAP_NETBEUI = 0xF0
SAP_ISO = 0xFE
# IPX without an LLC header begins with its checksum, which is always this.
IPX_RAW = 0xFFFF

# Protocols that are a test of the link layer's type field.
ETHER_TYPES = {
    "ip": ETH_IP,
    "ip6": ETH_IPV6,
    "arp": ETH_ARP,
    "rarp": ETH_RARP,
    "atalk": 0x809B,
    "aarp": 0x80F3,
    "decnet": 0x6003,
    "lat": 0x6004,
    "sca": 0x6007,
    "moprc": 0x6002,
    "mopdl": 0x6001,
    "iso": SAP_ISO,
    "stp": SAP_STP,
    "ipx": SAP_IPX,
    "netbeui": SAP_NETBEUI,
}
# `ether proto \name` knows one more.
ETHER_TYPE_NAMES = ETHER_TYPES | {"loopback": 0x9000}

# Protocols that are a test of the IP header: number, IP versions.
IP_PROTOCOLS = {
    "tcp": (IPPROTO_TCP, ("ip", "ip6")),
    "udp": (IPPROTO_UDP, ("ip", "ip6")),
    "sctp": (IPPROTO_SCTP, ("ip", "ip6")),
    "icmp": (1, ("ip",)),
    "igmp": (2, ("ip",)),
    "igrp": (9, ("ip",)),
    "pim": (103, ("ip", "ip6")),
    "vrrp": (112, ("ip",)),
    "carp": (112, ("ip",)),
    "icmp6": (IPPROTO_ICMPV6, ("ip6",)),
    "ah": (51, ("ip", "ip6")),
    "esp": (50, ("ip", "ip6")),
}
# OSI protocols: a test of the first byte after the LLC header.
ISO_PROTOCOLS = {
    "clnp": 0x81,
    "esis": 0x82,
    "es-is": 0x82,
    "isis": 0x83,
    "is-is": 0x83,
}
# Protocols whose header `protocol[offset]` cannot access.
NO_ACCESS = frozenset(
    {"ah", "esp", "aarp", "iso", "stp", "ipx", "netbeui", *ISO_PROTOCOLS}
)
# IEEE 802.2 frames: mask and number of the control byte.
LLC_TYPES = {
    "i": (0x01, 0x00),
    "s": (0x03, 0x01),
    "u": (0x03, 0x03),
    "rr": (0x0F, 0x01),
    "rnr": (0x0F, 0x05),
    "rej": (0x0F, 0x09),
    "ui": (0xEF, 0x03),
    "ua": (0xEF, 0x63),
    "disc": (0xEF, 0x43),
    "sabme": (0xEF, 0x6F),
    "test": (0xEF, 0xE3),
    "xid": (0xEF, 0xAF),
    "frmr": (0xEF, 0x87),
}
# The names of the link layer.
LINK_NAMES = frozenset({"link", "ether", "fddi", "tr", "wlan", "ppp", "slip"})

PROTOCOLS = frozenset(
    LINK_NAMES | set(ETHER_TYPES) | set(IP_PROTOCOLS) | set(ISO_PROTOCOLS)
)

# Keywords that are not supported, by what they belong to.
_UNSUPPORTED = {
    "DECnet": "decnet",
    "802.11": (
        "wlan type subtype dir direction ra ta addr1 addr2 addr3 "
        "addr4 address1 address2 address3 address4"
    ),
    "the radiotap header": "radio",
    "chasing of header chains": "protochain",
    "host names": "gateway",
    "IS-IS": "l1 l2 iih lsp snp csnp psnp",
    "ATM": (
        "lane vpi vci metac bcc oam oamf4 oamf4ec oamf4sc sc ilmic "
        "connectmsg metaconnect"
    ),
    "pf logs": (
        "on ifname rset ruleset rnr srnr rulenum subrulenum reason action"
    ),
    "SS7": (
        "fisu lssu lsu msu hfisu hlssu hmsu sio opc dpc sls hsio hopc "
        "hdpc hsls"
    ),
}
UNSUPPORTED = {
    word: what
    for what, words in _UNSUPPORTED.items()
    for word in words.split()
}

KEYWORDS = PROTOCOLS.union(
    UNSUPPORTED,
    "src dst host net mask port portrange proto".split(),
    "less greater byte len length broadcast multicast and or not".split(),
    "inbound outbound ifindex llc".split(),
    "vlan mpls pppoed pppoes geneve vxlan".split(),
)

# Offsets and values of header fields.
CONSTANTS = {
    "icmptype": 0,
    "icmpcode": 1,
    "icmp-echoreply": 0,
    "icmp-unreach": 3,
    "icmp-sourcequench": 4,
    "icmp-redirect": 5,
    "icmp-echo": 8,
    "icmp-routeradvert": 9,
    "icmp-routersolicit": 10,
    "icmp-timxceed": 11,
    "icmp-paramprob": 12,
    "icmp-tstamp": 13,
    "icmp-tstampreply": 14,
    "icmp-ireq": 15,
    "icmp-ireqreply": 16,
    "icmp-maskreq": 17,
    "icmp-maskreply": 18,
    "icmp6type": 0,
    "icmp6code": 1,
    "icmp6-destinationunreach": 1,
    "icmp6-packettoobig": 2,
    "icmp6-timeexceeded": 3,
    "icmp6-parameterproblem": 4,
    "icmp6-echo": 128,
    "icmp6-echoreply": 129,
    "icmp6-multicastlistenerquery": 130,
    "icmp6-multicastlistenerreportv1": 131,
    "icmp6-multicastlistenerdone": 132,
    "icmp6-routersolicit": 133,
    "icmp6-routeradvert": 134,
    "icmp6-neighborsolicit": 135,
    "icmp6-neighboradvert": 136,
    "icmp6-redirect": 137,
    "icmp6-routerrenum": 138,
    "icmp6-nodeinformationquery": 139,
    "icmp6-nodeinformationresponse": 140,
    "icmp6-ineighbordiscoverysolicit": 141,
    "icmp6-ineighbordiscoveryadvert": 142,
    "icmp6-multicastlistenerreportv2": 143,
    "icmp6-homeagentdiscoveryrequest": 144,
    "icmp6-homeagentdiscoveryreply": 145,
    "icmp6-mobileprefixsolicit": 146,
    "icmp6-mobileprefixadvert": 147,
    "icmp6-certpathsolicit": 148,
    "icmp6-certpathadvert": 149,
    "icmp6-multicastrouteradvert": 151,
    "icmp6-multicastroutersolicit": 152,
    "icmp6-multicastrouterterm": 153,
    "tcpflags": 13,
    "tcp-fin": 0x01,
    "tcp-syn": 0x02,
    "tcp-rst": 0x04,
    "tcp-push": 0x08,
    "tcp-ack": 0x10,
    "tcp-urg": 0x20,
    "tcp-ece": 0x40,
    "tcp-cwr": 0x80,
}


def _service(name: str, protocol: str) -> int | None:
    import socket  # only needed for names

    try:
        return socket.getservbyname(name, protocol)
    except (OSError, ValueError):
        return None


def service_port(name: str) -> tuple[int, tuple[int, ...]] | None:
    """The port of a service, and the protocols that the name implies.

    If only TCP or only UDP has a service of this name, the name implies that
    protocol. If both have one, it means all protocols with ports.
    """
    tcp = _service(name, "tcp")
    udp = _service(name, "udp")
    if tcp is not None and udp is not None:
        return tcp, PORT_PROTOCOLS
    if tcp is not None:
        return tcp, (IPPROTO_TCP,)
    if udp is not None:
        return udp, (IPPROTO_UDP,)
    sctp = _service(name, "sctp")
    return None if sctp is None else (sctp, (IPPROTO_SCTP,))


def protocol_number(name: str) -> int | None:
    """The number of an IP protocol, from the system's database."""
    import socket

    try:
        return socket.getprotobyname(name)
    except (OSError, ValueError):
        return None
