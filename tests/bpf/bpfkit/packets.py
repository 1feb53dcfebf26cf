"""Frames built by hand: one function for each header, and the traffic that all
comparisons use.

Checksums that no filter tests are zero.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

HOST_A, HOST_B, HOST_C = "10.0.0.1", "192.168.1.2", "172.16.5.9"
SIX_A, SIX_B, SIX_C = "2001:db8::1", "2001:db8::2", "fe80::1"
MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
BROADCAST = b"\xff" * 6
MULTICAST_4, MULTICAST_6 = (
    bytes.fromhex("01005e000001"),
    bytes.fromhex("333300000001"),
)

IP, ARP, RARP, VLAN, IP6, QINQ, OLD_QINQ = (
    0x0800,
    0x0806,
    0x8035,
    0x8100,
    0x86DD,
    0x88A8,
    0x9100,
)
MPLS, MPLS_MULTICAST, PPPOE_DISCOVERY, PPPOE_SESSION = (
    0x8847,
    0x8848,
    0x8863,
    0x8864,
)
ICMP, IGMP, IPIP, TCP, UDP, IN_IP6, ROUTING, FRAGMENT = (
    1,
    2,
    4,
    6,
    17,
    41,
    43,
    44,
)
GRE, ESP, AH, ICMP6, NO_NEXT, OPTIONS6, PIM, VRRP, SCTP = (
    47,
    50,
    51,
    58,
    59,
    60,
    103,
    112,
    132,
)
GENEVE_PORT, VXLAN_PORT = 6081, 4789

PUBLISHED = Path(__file__).parent.parent / "data" / "packets.txt"


def ether(
    kind: int,
    payload: bytes,
    destination: bytes = MAC_B,
    source: bytes = MAC_A,
) -> bytes:
    """An Ethernet II frame."""
    return destination + source + struct.pack("!H", kind) + payload


def llc(dsap: int, ssap: int, control: int, payload: bytes = b"") -> bytes:
    """An IEEE 802.3 frame with an 802.2 header; its length is at 12."""
    body = struct.pack("!BBB", dsap, ssap, control) + payload
    return ether(len(body), body.ljust(46, b"\0"))


def snap(oui: int, kind: int, payload: bytes = b"") -> bytes:
    """An 802.3 frame with a SNAP header."""
    return llc(
        0xAA,
        0xAA,
        3,
        oui.to_bytes(3, "big") + struct.pack("!H", kind) + payload,
    )


def vlan(
    identifier: int,
    kind: int,
    payload: bytes,
    priority: int = 0,
    tpid: int = VLAN,
) -> tuple[int, bytes]:
    """An 802.1Q tag in front of ``payload``: (EtherType of the tag, bytes), to
    hand to ether() or another vlan().
    """
    return tpid, struct.pack(
        "!HH", priority << 13 | identifier, kind
    ) + payload


def mpls(*labels: int, payload: bytes) -> bytes:
    """A label stack; the last one carries the bottom-of-stack bit."""
    last = len(labels) - 1
    stack = b"".join(
        struct.pack("!I", label << 12 | (n == last) << 8 | 64)
        for n, label in enumerate(labels)
    )
    return stack + payload


def pppoe(session: int, protocol: int, payload: bytes) -> bytes:
    """A PPPoE session header and the PPP protocol field."""
    return (
        struct.pack("!BBHHH", 0x11, 0, session, len(payload) + 2, protocol)
        + payload
    )


def ipv4(
    protocol: int,
    payload: bytes,
    source: str = HOST_A,
    destination: str = HOST_B,
    *,
    options: bytes = b"",
    offset: int = 0,
    more: bool = False,
    ttl: int = 64,
    tos: int = 0,
) -> bytes:
    """An IPv4 packet; ``options`` in whole words, ``offset`` of a fragment in
    units of 8 bytes.
    """
    words = 5 + len(options) // 4
    length = words * 4 + len(payload)
    fragment = more << 13 | offset
    fixed = struct.pack(
        "!BBHHHBBH",
        0x40 | words,
        tos,
        length,
        0x1234,
        fragment,
        ttl,
        protocol,
        0,
    )
    return (
        fixed
        + ip_address(source).packed
        + ip_address(destination).packed
        + options
        + payload
    )


def ipv6(
    kind: int,
    payload: bytes,
    source: str = SIX_A,
    destination: str = SIX_B,
    traffic: int = 0,
) -> bytes:
    """An IPv6 packet whose first next-header field is ``kind``."""
    fixed = struct.pack(
        "!IHBB", 6 << 28 | traffic << 20, len(payload), kind, 64
    )
    return (
        fixed
        + ip_address(source).packed
        + ip_address(destination).packed
        + payload
    )


def extension(kind: int, payload: bytes) -> bytes:
    """An eight-byte IPv6 extension header (hop-by-hop, routing, destination
    options).
    """
    return struct.pack("!BB6x", kind, 0) + payload


def fragment6(
    kind: int, payload: bytes, offset: int = 0, more: bool = False
) -> bytes:
    """An IPv6 fragment header."""
    return struct.pack("!BBHI", kind, 0, offset << 3 | more, 0x1234) + payload


def tcp(
    source: int,
    destination: int,
    flags: int = 0x10,
    payload: bytes = b"",
    options: bytes = b"",
) -> bytes:
    """A TCP segment."""
    words = 5 + len(options) // 4
    fixed = struct.pack(
        "!HHIIBBHHH", source, destination, 1, 2, words << 4, flags, 1024, 0, 0
    )
    return fixed + options + payload


def udp(source: int, destination: int, payload: bytes = b"data") -> bytes:
    """A UDP datagram."""
    return (
        struct.pack("!HHHH", source, destination, 8 + len(payload), 0)
        + payload
    )


def sctp(source: int, destination: int) -> bytes:
    """An SCTP common header and a DATA chunk."""
    return struct.pack("!HHII", source, destination, 7, 0) + struct.pack(
        "!BBHIHHI", 0, 3, 16, 1, 0, 0, 0
    )


def icmp(kind: int, code: int = 0) -> bytes:
    """An ICMP, ICMPv6 or IGMP message of eight bytes and some payload."""
    return struct.pack("!BBHHH", kind, code, 0, 7, 1) + b"ping" * 3


def arp(operation: int, source: str, target: str) -> bytes:
    """ARP (or RARP) for IPv4 over Ethernet."""
    fixed = struct.pack("!HHBBH", 1, IP, 6, 4, operation)
    return (
        fixed
        + MAC_A
        + ip_address(source).packed
        + bytes(6)
        + ip_address(target).packed
        + bytes(18)
    )


def geneve(
    vni: int, kind: int, payload: bytes, options: bytes = b"", flags: int = 0
) -> bytes:
    """A GENEVE header; EtherType 0x6558 carries a whole Ethernet frame."""
    return (
        struct.pack("!BBHI", len(options) // 4, flags, kind, vni << 8)
        + options
        + payload
    )


def vxlan(vni: int, payload: bytes, flags: int = 8) -> bytes:
    """A VXLAN header in front of a whole Ethernet frame."""
    return struct.pack("!II", flags << 24, vni << 8) + payload


def _transport() -> Iterator[tuple[str, int, bytes]]:
    """(name, IP protocol, payload) of what both IPv4 and IPv6 carry."""
    yield "tcp-http", TCP, tcp(40000, 80)
    yield "tcp-https-syn", TCP, tcp(443, 50000, 0x02, options=bytes(20))
    yield "tcp-ssh-push", TCP, tcp(22, 22, 0x18, b"SSH-2.0-x\r\n")
    yield "tcp-rst-ack", TCP, tcp(1, 65535, 0x14)
    yield "tcp-get", TCP, tcp(1024, 8080, 0x18, b"GET / HTTP/1.1\r\n\r\n")
    yield "udp-dns", UDP, udp(53, 33000)
    yield "udp-dns-query", UDP, udp(33000, 53, bytes(30))
    yield "udp-high", UDP, udp(6000, 6008)
    yield "sctp", SCTP, sctp(2905, 80)
    yield "esp", ESP, bytes(24)
    yield (
        "ah",
        AH,
        struct.pack("!BBHII", TCP, 4, 0, 1, 1) + bytes(12) + tcp(1, 2),
    )
    yield "pim", PIM, b"\x20\0\0\0" + bytes(8)
    yield "vrrp", VRRP, b"\x21\x01\x64\x01" + bytes(8)
    yield "unknown", 253, bytes(20)


def _internet() -> Iterator[tuple[str, int, bytes]]:
    """(name, EtherType, packet) of everything that is IP."""
    for name, protocol, payload in _transport():
        yield f"ip-{name}", IP, ipv4(protocol, payload)
        yield f"ip6-{name}", IP6, ipv6(protocol, payload)
    request = udp(53, 53)
    yield "ip-reply", IP, ipv4(TCP, tcp(80, 40000), HOST_B, HOST_A, tos=0xB8)
    yield "ip-third", IP, ipv4(UDP, udp(123, 123), HOST_C, HOST_A, ttl=1)
    yield (
        "ip-options",
        IP,
        ipv4(TCP, tcp(22, 443), options=b"\x94\x04\0\0" * 3),
    )
    yield "ip-options-most", IP, ipv4(UDP, request, options=bytes(40))
    yield "ip-fragment-first", IP, ipv4(UDP, request, more=True)
    yield "ip-fragment-later", IP, ipv4(UDP, request, offset=185)
    yield "ip-fragment-mid", IP, ipv4(TCP, tcp(80, 80), offset=1, more=True)
    yield "ip-short-header", IP, b"\x41" + ipv4(TCP, tcp(80, 80))[1:]
    yield "ip-long-header", IP, b"\x4f" + ipv4(UDP, request)[1:]
    yield (
        "ip-broadcast",
        IP,
        ipv4(UDP, udp(68, 67, bytes(60)), "0.0.0.0", "255.255.255.255"),
    )
    yield "ip-multicast", IP, ipv4(UDP, udp(5353, 5353), HOST_A, "224.0.0.251")
    for kind, code in ((8, 0), (0, 0), (3, 1), (3, 3), (11, 0), (5, 1)):
        yield f"icmp-{kind}-{code}", IP, ipv4(ICMP, icmp(kind, code))
    yield "icmp-fragment", IP, ipv4(ICMP, icmp(8), offset=2)
    yield "igmp-query", IP, ipv4(IGMP, icmp(0x11), destination="224.0.0.1")
    yield (
        "igmp-report",
        IP,
        ipv4(
            IGMP, icmp(0x16), destination="224.0.0.22", options=b"\x94\x04\0\0"
        ),
    )
    yield "igrp", IP, ipv4(9, bytes(12))
    yield "ipip", IP, ipv4(IPIP, ipv4(TCP, tcp(80, 80)))
    yield "sit", IP, ipv4(IN_IP6, ipv6(TCP, tcp(80, 80)))
    yield "gre", IP, ipv4(GRE, struct.pack("!HH", 0, IP) + ipv4(UDP, request))
    for kind, code in (
        (128, 0),
        (129, 0),
        (1, 4),
        (2, 0),
        (133, 0),
        (134, 0),
        (135, 0),
        (136, 0),
        (143, 0),
    ):
        yield (
            f"icmp6-{kind}",
            IP6,
            ipv6(
                ICMP6,
                icmp(kind, code),
                SIX_C,
                "ff02::1" if kind > 132 else SIX_A,
            ),
        )
    yield "ip6-reply", IP6, ipv6(TCP, tcp(80, 40000), SIX_B, SIX_A, 0xB8)
    yield "ip6-no-next", IP6, ipv6(NO_NEXT, b"")
    yield (
        "ip6-hop-by-hop",
        IP6,
        ipv6(0, extension(ICMP6, icmp(143)), SIX_C, "ff02::16"),
    )
    yield "ip6-routing", IP6, ipv6(ROUTING, extension(TCP, tcp(80, 443)))
    yield "ip6-options-udp", IP6, ipv6(OPTIONS6, extension(UDP, udp(53, 53)))
    for kind, name, payload in (
        (TCP, "tcp", tcp(80, 443)),
        (UDP, "udp", request),
        (SCTP, "sctp", sctp(80, 80)),
    ):
        yield (
            f"ip6-fragment-{name}-first",
            IP6,
            ipv6(FRAGMENT, fragment6(kind, payload, 0, True)),
        )
        yield (
            f"ip6-fragment-{name}-later",
            IP6,
            ipv6(FRAGMENT, fragment6(kind, payload, 100)),
        )
    yield (
        "ip6-fragment-icmp6",
        IP6,
        ipv6(FRAGMENT, fragment6(ICMP6, icmp(128), 0, True)),
    )
    yield "ip6-multicast", IP6, ipv6(UDP, udp(5353, 5353), SIX_C, "ff02::fb")
    yield from _tunnelled()


def _tunnelled() -> Iterator[tuple[str, int, bytes]]:
    """GENEVE and VXLAN, over both IP versions, with IP or a whole frame
    inside.
    """
    inner4 = ipv4(TCP, tcp(40000, 80), HOST_B, HOST_C)
    inner6 = ipv6(UDP, udp(53, 53), SIX_B, SIX_A)
    bodies = {
        "geneve-ip": (GENEVE_PORT, geneve(11, IP, inner4)),
        "geneve-ip6": (GENEVE_PORT, geneve(11, IP6, inner6)),
        "geneve-ether": (GENEVE_PORT, geneve(5, 0x6558, ether(IP, inner4))),
        "geneve-ether-vlan": (
            GENEVE_PORT,
            geneve(5, 0x6558, ether(*vlan(100, IP, inner4))),
        ),
        "geneve-ether-arp": (
            GENEVE_PORT,
            geneve(5, 0x6558, ether(ARP, arp(1, HOST_A, HOST_B), BROADCAST)),
        ),
        "geneve-options": (
            GENEVE_PORT,
            geneve(0xFFFFFF, IP, inner4, bytes(8)),
        ),
        "geneve-ether-options": (
            GENEVE_PORT,
            geneve(11, 0x6558, ether(IP6, inner6), bytes(16)),
        ),
        "geneve-version": (GENEVE_PORT, b"\x40" + geneve(11, IP, inner4)[1:]),
        "geneve-mpls": (
            GENEVE_PORT,
            geneve(11, MPLS, mpls(16, payload=inner4)),
        ),
        "vxlan-ip": (VXLAN_PORT, vxlan(11, ether(IP, inner4))),
        "vxlan-ip6": (VXLAN_PORT, vxlan(0xFFFFFF, ether(IP6, inner6))),
        "vxlan-vlan": (VXLAN_PORT, vxlan(5, ether(*vlan(100, IP, inner4)))),
        "vxlan-no-vni": (VXLAN_PORT, vxlan(11, ether(IP, inner4), 0)),
    }
    for name, (port, body) in bodies.items():
        yield name, IP, ipv4(UDP, udp(50000, port, body))
        yield f"{name}-over-ip6", IP6, ipv6(UDP, udp(50000, port, body))
    yield (
        "geneve-outer-options",
        IP,
        ipv4(
            UDP, udp(1, GENEVE_PORT, geneve(11, IP, inner4)), options=bytes(8)
        ),
    )
    yield (
        "geneve-fragment",
        IP,
        ipv4(UDP, udp(1, GENEVE_PORT, geneve(11, IP, inner4)), offset=3),
    )
    yield (
        "vxlan-outer-options",
        IP,
        ipv4(
            UDP,
            udp(1, VXLAN_PORT, vxlan(11, ether(IP, inner4))),
            options=bytes(8),
        ),
    )


def _tagged() -> Iterator[tuple[str, int, bytes]]:
    """Packets with VLAN tags, MPLS labels or PPPoE in front of IP."""
    four, six = ipv4(TCP, tcp(40000, 80)), ipv6(UDP, udp(53, 53))
    four_options = ipv4(TCP, tcp(40000, 80), options=bytes(4))
    yield "vlan-100-ip", *vlan(100, IP, four)
    yield "vlan-100-ip6", *vlan(100, IP6, six)
    yield "vlan-0-priority", *vlan(0, IP, four, 5)
    yield "vlan-4095", *vlan(4095, IP, ipv4(UDP, udp(53, 53)))
    yield "vlan-arp", *vlan(100, ARP, arp(1, HOST_A, HOST_B))
    yield "vlan-200-options", *vlan(200, IP, four_options)
    yield "vlan-fragment", *vlan(100, IP, ipv4(TCP, tcp(80, 80), offset=4))
    yield "vlan-mpls", *vlan(100, MPLS, mpls(1024, payload=four))
    yield "vlan-pppoe", *vlan(100, PPPOE_SESSION, pppoe(0x27, 0x21, four))
    yield "vlan-llc", *vlan(100, 7, b"\x42\x42\x03" + bytes(40))
    yield (
        "vlan-geneve",
        *vlan(100, IP, ipv4(UDP, udp(1, GENEVE_PORT, geneve(11, IP, four)))),
    )
    for tpid in (VLAN, QINQ, OLD_QINQ):
        yield f"qinq-{tpid:x}", *vlan(100, *vlan(200, IP, four), tpid=tpid)
        yield f"qinq-{tpid:x}-ip6", *vlan(100, *vlan(300, IP6, six), tpid=tpid)
    yield "vlan-three", *vlan(1, *vlan(2, *vlan(3, IP, four)))
    yield "mpls-ip", MPLS, mpls(1024, payload=four)
    yield "mpls-ip6", MPLS, mpls(16, payload=six)
    yield "mpls-two", MPLS, mpls(100000, 1024, payload=four)
    yield "mpls-three", MPLS, mpls(100000, 1024, 16, payload=four_options)
    yield "mpls-multicast", MPLS_MULTICAST, mpls(1024, payload=four)
    yield "mpls-ether", MPLS, mpls(1024, payload=bytes(4) + ether(IP, four))
    yield (
        "pppoed",
        PPPOE_DISCOVERY,
        b"\x11\x09\0\0\0\x04\x01\x01\0\0" + bytes(36),
    )
    yield "pppoes-ip", PPPOE_SESSION, pppoe(0x27, 0x21, four)
    yield "pppoes-ip6", PPPOE_SESSION, pppoe(0x28, 0x57, six)
    yield "pppoes-lcp", PPPOE_SESSION, pppoe(0x27, 0xC021, bytes(40))
    yield "pppoes-options", PPPOE_SESSION, pppoe(0x27, 0x21, four_options)


def _frames() -> Iterator[tuple[str, bytes]]:
    """Whole Ethernet frames that are not a payload between the two hosts."""
    yield "arp-request", ether(ARP, arp(1, HOST_A, HOST_B), BROADCAST)
    yield "arp-reply", ether(ARP, arp(2, HOST_B, HOST_A))
    yield "rarp", ether(RARP, arp(3, HOST_A, HOST_B), BROADCAST)
    yield (
        "ip-back",
        ether(IP, ipv4(TCP, tcp(80, 40000), HOST_B, HOST_A), MAC_A, MAC_B),
    )
    yield (
        "ether-broadcast",
        ether(
            IP, ipv4(UDP, udp(68, 67), "0.0.0.0", "255.255.255.255"), BROADCAST
        ),
    )
    yield (
        "ether-multicast",
        ether(
            IP, ipv4(UDP, udp(1, 5353), destination="224.0.0.251"), MULTICAST_4
        ),
    )
    yield (
        "ether-multicast-6",
        ether(IP6, ipv6(UDP, udp(1, 5353), SIX_C, "ff02::fb"), MULTICAST_6),
    )
    yield "stp", llc(0x42, 0x42, 3, bytes(35))
    yield "isis", llc(0xFE, 0xFE, 3, b"\x83\x1b\x01\0\x0f\x01\0\0" + bytes(20))
    yield "clnp", llc(0xFE, 0xFE, 3, b"\x81" + bytes(20))
    yield "netbeui", llc(0xF0, 0xF0, 3)
    yield "ipx-llc", llc(0xE0, 0xE0, 3)
    yield "ipx-raw", ether(30, b"\xff\xff" + bytes(44))
    yield "ipx-ether", ether(0x8137, b"\xff\xff" + bytes(44))
    yield "ipx-snap", snap(0, 0x8137)
    yield "atalk-snap", snap(0x080007, 0x809B)
    yield "aarp-snap", snap(0, 0x80F3)
    yield "atalk-ether", ether(0x809B, bytes(46))
    yield "aarp-ether", ether(0x80F3, bytes(46))
    yield "snap-ip", snap(0, IP, ipv4(TCP, tcp(80, 80)))
    yield "llc-i", llc(0x04, 0x04, 0x00)
    yield "llc-rr", llc(0x04, 0x04, 0x01)
    yield "llc-xid", llc(0x04, 0x04, 0xBF)
    yield "lat", ether(0x6004, bytes(46))
    yield "mopdl", ether(0x6001, bytes(46))
    yield "moprc", ether(0x6002, bytes(46))
    yield "decnet", ether(0x6003, b"\x1d\0\x81\x26" + bytes(42))
    yield "loopback", ether(0x9000, bytes(46))
    yield "lldp", ether(0x88CC, bytes(46), bytes.fromhex("0180c200000e"))
    yield (
        "flow-control",
        ether(
            0x8808,
            b"\0\x01\xff\xff" + bytes(42),
            bytes.fromhex("0180c2000001"),
        ),
    )
    yield "largest", ether(IP, ipv4(TCP, tcp(80, 40000, payload=bytes(1460))))
    yield "jumbo", ether(IP, ipv4(TCP, tcp(80, 40000, payload=bytes(2000))))
    yield "zeros", bytes(64)
    yield "ones", b"\xff" * 64
    yield "header-only", ether(IP, b"")
    yield "runt", b"\x01\x02"
    yield "empty", b""


def ethernet_frames() -> dict[str, bytes]:
    """Name to frame: the structured traffic for link types 1 and 772."""
    frames = {
        name: ether(kind, payload) for name, kind, payload in _internet()
    }
    frames.update(
        (name, ether(kind, payload)) for name, kind, payload in _tagged()
    )
    frames.update(_frames())
    return frames


def raw_packets() -> dict[str, bytes]:
    """Name to packet: the structured traffic for links without a header (tun,
    ARPHRD_NONE).
    """
    packets = {name: payload for name, _, payload in _internet()}
    packets["version-5"] = b"\x55" + packets["ip-tcp-http"][1:]
    packets["zeros"] = bytes(64)
    packets["runt"] = b"\x45\0"
    packets["empty"] = b""
    return packets


def stripped(frame: bytes) -> tuple[bytes, tuple[int, int] | None]:
    """A received frame as a packet socket reads it: without its outer tag, and
    the tag as (TCI, TPID), or None.
    """
    if len(frame) < 18 or int.from_bytes(frame[12:14], "big") not in (
        VLAN,
        QINQ,
    ):
        return frame, None
    tpid, tci = struct.unpack_from("!HH", frame, 12)
    return frame[:12] + frame[16:], (tci, tpid)


def traffic(link_type: int) -> dict[str, bytes]:
    """The structured traffic for an ARPHRD number."""
    return raw_packets() if link_type == 65534 else ethernet_frames()


def published() -> dict[str, bytes]:
    """The committed Ethernet frames, by name, on which executed instructions
    are counted.
    """
    lines = PUBLISHED.read_text().splitlines()
    pairs = (
        line.split() for line in lines if line and not line.startswith("#")
    )
    return {name: bytes.fromhex("".join(data)) for name, *data in pairs}
