"""What the tests with Scapy share: sockets of Scapy and of rawmmsg side by
side, and traffic for them."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from scapy.arch.linux import L2ListenSocket, L2Socket
from scapy.config import conf
from scapy.error import log_runtime
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw
from scapy.sendrecv import sniff
from scapy.supersocket import SuperSocket

from rawmmsg import RawSocket
from rawmmsg.scapy import L2RawMmsgListenSocket, L2RawMmsgSocket
from rawmmsg.testing import Veth
from support import WAIT
from support.frames import frame
from support.linux import ip, tun_device

conf.verb = 0

# Scapy's socket and that of rawmmsg. A listening one also receives what this
# machine sends.
PAIRS: Final[dict[str, tuple[Any, Any]]] = {
    "listening": (L2ListenSocket, L2RawMmsgListenSocket),
    "two-way": (L2Socket, L2RawMmsgSocket),
}

HOST: Final = "02:00:00:00:00:01"
PEER: Final = "02:00:00:00:00:02"
A4: Final = "192.0.2.1"
B4: Final = "192.0.2.2"
A6: Final = "fe80::1"
B6: Final = "fe80::2"

END: Final = b"that was all"
"""The payload of the frame that ends a capture."""


def to_peer() -> Packet:
    return Ether(src=HOST, dst=PEER)


def to_host() -> Packet:
    return Ether(src=PEER, dst=HOST)


def _handshake() -> list[Packet]:
    """A TCP connection: the three-way handshake, data, and the end."""
    out = IP(src=A4, dst=B4) / TCP(sport=4000, dport=80, seq=1000)
    back = IP(src=B4, dst=A4) / TCP(sport=80, dport=4000, seq=5000, ack=1001)
    syn, ack = out.copy(), out.copy()
    syn[TCP].flags, ack[TCP].flags = "S", "A"
    syn[TCP].options = [("MSS", 1460), ("WScale", 7), ("SAckOK", b"")]
    ack[TCP].seq, ack[TCP].ack = 1001, 5001
    syn_ack, fin = back.copy(), back.copy()
    syn_ack[TCP].flags, fin[TCP].flags = "SA", "FA"
    fin[TCP].seq = 5001
    request = ack.copy() / Raw(b"GET / HTTP/1.0\r\n\r\n")
    request[TCP].flags = "PA"
    return [
        to_peer() / syn,
        to_host() / syn_ack,
        to_peer() / ack,
        to_peer() / request,
        to_host() / fin,
    ]


def _fragments() -> list[Packet]:
    whole = IP(src=A4, dst=B4, id=7) / UDP() / Raw(bytes(range(256)) * 20)
    pieces: Any = whole
    return [to_peer() / one for one in pieces.fragment(fragsize=600)]


def _neighbours() -> list[Packet]:
    """IPv6 neighbour and router discovery."""
    host, peer = IPv6(src=A6, dst=B6), IPv6(src=B6, dst=A6)
    source = ICMPv6NDOptSrcLLAddr(lladdr=HOST)
    prefix = ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64)
    target = ICMPv6NDOptDstLLAddr(lladdr=PEER)
    return [
        to_peer() / host / ICMPv6ND_NS(tgt=B6) / source,
        to_host() / peer / ICMPv6ND_NA(tgt=B6, S=1) / target,
        to_peer() / host / ICMPv6ND_RS() / source,
        to_host() / peer / ICMPv6ND_RA() / prefix,
    ]


def _tagged(*tags: Packet) -> list[Packet]:
    inner = IP(src=A4, dst=B4) / UDP(sport=1, dport=2) / Raw(b"tagged")
    packet = to_peer()
    for tag in tags:
        packet = packet / tag
    return [packet / inner, packet / ARP(psrc=A4, pdst=B4)]


_PLANS: Final[dict[str, list[Packet]]] = {
    "ARP": [
        Ether(src=HOST, dst="ff:ff:ff:ff:ff:ff")
        / ARP(op="who-has", hwsrc=HOST, psrc=A4, pdst=B4),
        to_host() / ARP(op="is-at", hwsrc=PEER, psrc=B4, pdst=A4),
    ],
    "ICMP": [
        to_peer() / IP(src=A4, dst=B4) / ICMP(seq=i) / Raw(bytes(i))
        for i in range(150)
    ],
    "one tag": _tagged(Dot1Q(vlan=42, prio=3)),
    "stacked tags": _tagged(Dot1AD(vlan=7), Dot1Q(vlan=42), Dot1Q(vlan=8)),
    "a tag of priority alone": _tagged(Dot1Q(vlan=0, prio=5)),
    "an empty tag": _tagged(Dot1Q(vlan=0, prio=0)),
    "IPv6 neighbour discovery": _neighbours(),
    "a TCP handshake": _handshake(),
    "fragments": _fragments(),
    "jumbo frames": [
        to_peer() / IP(src=A4, dst=B4) / UDP() / Raw(bytes([i]) * 8900)
        for i in range(5)
    ],
    "the largest frames": [
        to_peer() / IP(src=A4, dst=B4) / UDP() / Raw(bytes([i]) * 65450)
        for i in range(2)
    ],
    "802.3 and payloads that no dissector knows": [
        Dot3(src=HOST, dst=PEER) / Raw(bytes(40)),
        Ether(frame(bytes(range(46)))),
        Ether(frame(b"", ethertype=0x0800)),  # an IP packet of no bytes
        Ether(frame(b"\x45\x00", ethertype=0x0800)),  # cut short
    ],
}

# The packets of each kind as they go over the wire. They are built once,
# because building takes longer than sending.
TRAFFIC: Final = {
    kind: [type(plan)(bytes(plan)) for plan in plans]
    for kind, plans in _PLANS.items()
}


def wire(packets: Iterable[Packet]) -> list[bytes]:
    return [bytes(packet) for packet in packets]


def send(interface: str, frames: Sequence[Packet | bytes]) -> None:
    """Sends without any socket under test."""
    with RawSocket(interface, protocol=0) as sock:
        sock.sendmmsg_all([bytes(one) for one in frames])


def until_end(sock: SuperSocket, **options: Any) -> list[Packet]:
    """Sniffs until the frame with END, and returns the packets before it."""
    found = sniff(
        opened_socket=sock,
        stop_filter=lambda packet: END in bytes(packet),
        timeout=WAIT,
        **options,
    )
    assert found and END in bytes(found[-1]), (
        "frames were lost: END did not arrive"
    )
    return list(found[:-1])


def read(packets: Sequence[Packet]) -> list[tuple[bytes, list[Any]]]:
    """The bytes of each packet, and the classes of its layers."""
    return [(packet.original, packet.layers()) for packet in packets]


@contextlib.contextmanager
def large_buffers() -> Iterator[None]:
    """Makes Scapy's sockets hold the test's traffic; by default they hold some
    90 small frames."""
    before = conf.bufsize
    conf.bufsize = 1 << 22
    try:
        yield
    finally:
        conf.bufsize = before


@contextlib.contextmanager
def addressed(veth: Veth) -> Iterator[None]:
    """Gives the end `a` the address A4, and Scapy the route to B4 and its
    hardware address. The kernel sends no answers."""
    ip("address", "add", f"{A4}/24", "dev", veth.a)
    reload_network()
    neighbours: Any = conf.netcache.arp_cache  # type: ignore[attr-defined]
    neighbours[B4] = PEER
    try:
        yield
    finally:
        del neighbours[B4]
        ip("address", "flush", "dev", veth.a)
        reload_network()


def reload_network() -> None:
    """Makes Scapy read interfaces and routes again."""
    conf.ifaces.reload()
    conf.route.resync()
    conf.route6.resync()


@contextlib.contextmanager
def tunnel() -> Iterator[tuple[str, int]]:
    """A tun interface that is up, and its descriptor. A packet that is written
    to the descriptor comes in by the interface."""
    with tun_device("tun") as (descriptor, name):
        reload_network()
        yield name, descriptor


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """The messages in Scapy's log of warnings, also of those that Scapy would
    leave out because they repeat others."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = (  # type: ignore[method-assign]
        lambda record: messages.append(record.getMessage())
    )
    threshold, conf.warning_threshold = conf.warning_threshold, 0
    log_runtime.addHandler(handler)
    try:
        yield messages
    finally:
        log_runtime.removeHandler(handler)
        conf.warning_threshold = threshold
