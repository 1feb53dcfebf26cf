"""From primitives to tests of header fields.

The order of the tests, and with it what becomes of a truncated packet, is
that of libpcap.
"""

from __future__ import annotations

from ..syntax import ast, keywords
from .fields import Headers, Test, directed
from .offsets import Layer

# linux/filter.h: SKF_AD_*, and linux/if_packet.h: PACKET_OUTGOING
_PKTTYPE = 4
_IFINDEX = 8
_PACKET_OUTGOING = 4

_VLAN_TYPES = (0x8100, 0x88A8, 0x9100)
_PPP_MPLS = 0x0281
_IP6_FRAGMENT = 44
_ADDRESS_OFFSETS = {
    # source and destination, from the start of the header
    "ip": (12, 16),
    "arp": (14, 24),
    "rarp": (14, 24),
}


def ether_type(
    headers: Headers,
    primitive: ast.EtherType,
    layer: Layer,
    yes: int,
    no: int,
) -> int:
    return headers.carries(layer, primitive.number, yes, no)


def ether_host(
    headers: Headers,
    primitive: ast.EtherHost,
    layer: Layer,
    yes: int,
    no: int,
) -> int:
    address = primitive.address
    first = directed(
        primitive.direction,
        lambda yes, no: headers.mac(layer, 6, address, yes, no),
        lambda yes, no: headers.mac(layer, 0, address, yes, no),
        yes,
        no,
    )
    return headers.need_ethernet(layer, first, no)


def broadcast(
    headers: Headers,
    primitive: ast.Broadcast,
    layer: Layer,
    yes: int,
    no: int,
) -> int:
    if primitive.layer == "ip":
        return _ip_broadcast(headers, layer, yes, no)
    first = headers.mac(layer, 0, b"\xff" * 6, yes, no)
    return headers.need_ethernet(layer, first, no)


def _ip_broadcast(headers: Headers, layer: Layer, yes: int, no: int) -> int:
    """All bits of the host part zero, or all one."""
    netmask = headers.netmask
    if netmask is None:
        headers.fail("'ip broadcast' needs the netmask: compile(netmask=)")
    host = ~netmask & 0xFFFFFFFF
    ones = headers.masked(4, layer.payload, 16, host, host)(yes, no)
    zeros = headers.masked(4, layer.payload, 16, host, 0)(yes, ones)
    return headers.carries(layer, keywords.ETH_IP, zeros, no)


def multicast(
    headers: Headers,
    primitive: ast.Multicast,
    layer: Layer,
    yes: int,
    no: int,
) -> int:
    if primitive.layer == "ip":
        group = headers.masked(1, layer.payload, 16, 0xF0, 0xE0)
        return headers.carries(layer, keywords.ETH_IP, group(yes, no), no)
    if primitive.layer == "ip6":
        group = headers.field(1, layer.payload, 24, 0xFF)
        return headers.carries(layer, keywords.ETH_IPV6, group(yes, no), no)
    first_byte = headers.load(1, layer.header, 0)
    first = headers.graph.test(first_byte, "&", 1, yes, no)
    return headers.need_ethernet(layer, first, no)


def vlan(
    headers: Headers, primitive: ast.Vlan, layer: Layer, yes: int, no: int
) -> int:
    """A tag in the frame."""
    if primitive.number is not None:
        tag = headers.masked(2, layer.payload, 0, 0xFFF, primitive.number)
        yes = tag(yes, no)
    for number in reversed(_VLAN_TYPES):
        no = headers.field(2, layer.type, 0, number)(yes, no)
    return no


def mpls(
    headers: Headers, primitive: ast.Mpls, layer: Layer, yes: int, no: int
) -> int:
    if primitive.number is not None:
        label = primitive.number << 12
        yes = headers.masked(4, layer.payload, 0, 0xFFFFF000, label)(yes, no)
    if layer.link == "mpls":
        return headers.bottom_of_stack(layer, no, yes)
    if layer.link == "ppp":
        return headers.field(2, layer.type, 0, _PPP_MPLS)(yes, no)
    return headers.carries(layer, keywords.ETH_MPLS, yes, no)


def pppoe_session(
    headers: Headers,
    primitive: ast.PppoeSession,
    layer: Layer,
    yes: int,
    no: int,
) -> int:
    if primitive.number is not None:
        session = headers.masked(4, layer.payload, 0, 0xFFFF, primitive.number)
        yes = session(yes, no)
    return headers.carries(layer, keywords.ETH_PPPOE_SESSION, yes, no)


def ip_protocol(
    headers: Headers,
    primitive: ast.IpProtocol,
    layer: Layer,
    yes: int,
    no: int,
) -> int:
    number = primitive.number
    payload = layer.payload
    first = no
    if "ip6" in primitive.versions:
        inner = headers.field(1, payload, keywords.IP6_HEADER, number)(yes, no)
        fragment = headers.field(1, payload, 6, _IP6_FRAGMENT)(inner, no)
        header = headers.field(1, payload, 6, number)(yes, fragment)
        first = headers.carries(layer, keywords.ETH_IPV6, header, no)
    if "ip" in primitive.versions:
        header = headers.field(1, payload, 9, number)(yes, no)
        first = headers.carries(layer, keywords.ETH_IP, header, first)
    return first


def iso_protocol(
    headers: Headers,
    primitive: ast.IsoProtocol,
    layer: Layer,
    yes: int,
    no: int,
) -> int:
    # Behind the three bytes of the LLC header, which PPP has not.
    offset = 3 if layer.link == "ether" else 0
    test = headers.field(1, layer.payload, offset, primitive.number)
    return headers.carries(layer, keywords.SAP_ISO, test(yes, no), no)


def llc(
    headers: Headers, primitive: ast.Llc, layer: Layer, yes: int, no: int
) -> int:
    if layer.link in ("raw", "ppp"):
        headers.fail("there is no LLC in raw IP or PPP")
    mask, number = primitive
    place = layer.llc()
    if mask:
        yes = headers.masked(1, place, 2, mask, number)(yes, no)
    # Without any header, for IPX, such a frame begins with 0xffff.
    framed = headers.field(2, place, 0, keywords.IPX_RAW)(no, yes)
    return headers.in_802_3(layer, framed, no)


def host(
    headers: Headers, primitive: ast.Host, layer: Layer, yes: int, no: int
) -> int:
    protocols = primitive.protocols
    if layer.link == "mpls" and len(protocols) > 1:
        protocols = ("ip",)  # there is nothing else in MPLS
    # The tests for the protocols exclude each other, so a failed address
    # goes to `no` at once.
    first = no
    for protocol in reversed(protocols):
        source, destination = (
            headers.masked(
                4, layer.payload, offset, primitive.mask, primitive.address
            )
            for offset in _ADDRESS_OFFSETS[protocol]
        )
        # arp and rarp differ in nothing but the EtherType.
        headers.graph.copy += 1
        match = directed(primitive.direction, source, destination, yes, no)
        number = keywords.ETHER_TYPES[protocol]
        first = headers.carries(layer, number, match, first)
    return first


def host6(
    headers: Headers, primitive: ast.Host6, layer: Layer, yes: int, no: int
) -> int:
    first = directed(
        primitive.direction,
        lambda yes, no: _words6(headers, layer, 8, primitive, yes, no),
        lambda yes, no: _words6(headers, layer, 24, primitive, yes, no),
        yes,
        no,
    )
    return headers.carries(layer, keywords.ETH_IPV6, first, no)


def _words6(
    headers: Headers,
    layer: Layer,
    offset: int,
    primitive: ast.Host6,
    yes: int,
    no: int,
) -> int:
    """An IPv6 address as four words."""
    for index in (3, 2, 1, 0):
        shift = 96 - 32 * index
        mask = primitive.mask >> shift & 0xFFFFFFFF
        word = primitive.address >> shift & 0xFFFFFFFF
        where = offset + 4 * index
        if mask:
            test = headers.masked(4, layer.payload, where, mask, word)
            yes = test(yes, no)
        elif headers.graph.keeps_loads:
            # Nothing is compared, but the word must be there.
            yes = headers.present(4, layer.payload, where, yes)
    return yes


def port(
    headers: Headers, primitive: ast.Port, layer: Layer, yes: int, no: int
) -> int:
    four: tuple[int, int] = headers.behind_ip(layer)
    six: tuple[int, int] = headers.behind_ip6(layer)
    first4 = first6 = no
    graph = headers.graph
    for number in reversed(primitive.protocols):
        # One copy for each protocol, because what follows in the
        # expression may rule some of them out.
        graph.copy += 1
        ports = _ports(headers, *four, primitive, yes, no)
        ports = headers.first_fragment(layer, ports, no)
        first4 = headers.field(1, layer.payload, 9, number)(ports, first4)
        ports = _ports(headers, *six, primitive, yes, no)
        first6 = headers.field(1, layer.payload, 6, number)(ports, first6)
    first = headers.carries(layer, keywords.ETH_IP, first4, no)
    return headers.carries(layer, keywords.ETH_IPV6, first6, first)


def _ports(
    headers: Headers,
    base: int,
    offset: int,
    primitive: ast.Port,
    yes: int,
    no: int,
) -> int:
    """Ports at `offset` behind the value `base`."""
    graph = headers.graph

    def port(where: int) -> Test:
        value = graph.load(2, base, where)
        low, high = primitive.low, primitive.high
        if high is None:
            return lambda yes, no: graph.test(value, "=", low, yes, no)
        return lambda yes, no: graph.test(
            value, ">=", low, graph.test(value, ">", high, no, yes), no
        )

    return directed(
        primitive.direction, port(offset), port(offset + 2), yes, no
    )


def direction(
    headers: Headers,
    primitive: ast.Direction,
    layer: Layer,
    yes: int,
    no: int,
) -> int:
    value = headers.graph.ancillary(_PKTTYPE)
    if not primitive.outbound:
        yes, no = no, yes
    return headers.graph.test(value, "=", _PACKET_OUTGOING, yes, no)


def ifindex(
    headers: Headers, primitive: ast.IfIndex, layer: Layer, yes: int, no: int
) -> int:
    value = headers.graph.ancillary(_IFINDEX)
    return headers.graph.test(value, "=", primitive.number, yes, no)
