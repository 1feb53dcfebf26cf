"""Turns each kind of primitive into tests of header fields.

The order of the tests is libpcap's. It decides what a program does with a
packet that is cut short.
"""

from ..opcodes import SKF_AD_IFINDEX, SKF_AD_PKTTYPE
from ..syntax import ast, keywords
from .fields import Fields, Test, directed

_PACKET_OUTGOING = 4  # linux/if_packet.h

_VLAN_TYPES = (0x8100, 0x88A8, 0x9100)
_PPP_MPLS = 0x0281
_IP6_FRAGMENT = 44
# Source and destination address, from the start of the header.
_ADDRESS_OFFSETS = {
    "ip": (12, 16),
    "arp": (14, 24),
    "rarp": (14, 24),
}


def ether_type(
    fields: Fields, primitive: ast.EtherType, yes: int, no: int
) -> int:
    return fields.carries(primitive.number, yes, no)


def ether_host(
    fields: Fields, primitive: ast.EtherHost, yes: int, no: int
) -> int:
    address = primitive.address
    first = directed(
        primitive.direction,
        lambda yes, no: fields.mac(6, address, yes, no),
        lambda yes, no: fields.mac(0, address, yes, no),
        yes,
        no,
    )
    return fields.need_ethernet(first, no)


def broadcast(
    fields: Fields, primitive: ast.Broadcast, yes: int, no: int
) -> int:
    if primitive.layer == "ip":
        return _ip_broadcast(fields, yes, no)
    first = fields.mac(0, b"\xff" * 6, yes, no)
    return fields.need_ethernet(first, no)


def _ip_broadcast(fields: Fields, yes: int, no: int) -> int:
    """Whether the bits of the host part are all zero or all one."""
    netmask = fields.netmask
    if netmask is None:
        fields.fail("'ip broadcast' needs the netmask: compile(..., netmask=)")
    host = ~netmask & 0xFFFFFFFF
    ones = fields.masked(4, fields.payload, 16, host, host)(yes, no)
    zeros = fields.masked(4, fields.payload, 16, host, 0)(yes, ones)
    return fields.carries(keywords.ETH_IP, zeros, no)


def multicast(
    fields: Fields, primitive: ast.Multicast, yes: int, no: int
) -> int:
    if primitive.layer == "ip":
        group = fields.masked(1, fields.payload, 16, 0xF0, 0xE0)
        return fields.carries(keywords.ETH_IP, group(yes, no), no)
    if primitive.layer == "ip6":
        group = fields.equals(1, fields.payload, 24, 0xFF)
        return fields.carries(keywords.ETH_IPV6, group(yes, no), no)
    first_byte = fields.load(1, fields.layer.header, 0)
    first = fields.graph.test(first_byte, "&", 1, yes, no)
    return fields.need_ethernet(first, no)


def vlan(fields: Fields, primitive: ast.Vlan, yes: int, no: int) -> int:
    """A tag inside the frame."""
    if primitive.number is not None:
        tag = fields.masked(2, fields.payload, 0, 0xFFF, primitive.number)
        yes = tag(yes, no)
    for number in reversed(_VLAN_TYPES):
        no = fields.equals(2, fields.layer.type, 0, number)(yes, no)
    return no


def mpls(fields: Fields, primitive: ast.Mpls, yes: int, no: int) -> int:
    if primitive.number is not None:
        label = primitive.number << 12
        yes = fields.masked(4, fields.payload, 0, 0xFFFFF000, label)(yes, no)
    if fields.layer.link == "mpls":
        return fields.bottom_of_stack(no, yes)
    if fields.layer.link == "ppp":
        return fields.equals(2, fields.layer.type, 0, _PPP_MPLS)(yes, no)
    return fields.carries(keywords.ETH_MPLS, yes, no)


def pppoe_session(
    fields: Fields, primitive: ast.PppoeSession, yes: int, no: int
) -> int:
    if primitive.number is not None:
        session = fields.masked(4, fields.payload, 0, 0xFFFF, primitive.number)
        yes = session(yes, no)
    return fields.carries(keywords.ETH_PPPOE_SESSION, yes, no)


def ip_protocol(
    fields: Fields, primitive: ast.IpProtocol, yes: int, no: int
) -> int:
    number = primitive.number
    payload = fields.payload
    first = no
    if "ip6" in primitive.versions:
        inner = fields.equals(1, payload, keywords.IP6_HEADER, number)(yes, no)
        fragment = fields.equals(1, payload, 6, _IP6_FRAGMENT)(inner, no)
        header = fields.equals(1, payload, 6, number)(yes, fragment)
        first = fields.carries(keywords.ETH_IPV6, header, no)
    if "ip" in primitive.versions:
        header = fields.equals(1, payload, 9, number)(yes, no)
        first = fields.carries(keywords.ETH_IP, header, first)
    return first


def iso_protocol(
    fields: Fields, primitive: ast.IsoProtocol, yes: int, no: int
) -> int:
    # Behind the three bytes of the LLC header. PPP has none.
    offset = 3 if fields.layer.link == "ether" else 0
    test = fields.equals(1, fields.payload, offset, primitive.number)
    return fields.carries(keywords.SAP_ISO, test(yes, no), no)


def llc(fields: Fields, primitive: ast.Llc, yes: int, no: int) -> int:
    if fields.layer.link in ("raw", "ppp"):
        carrier = "raw IP" if fields.layer.link == "raw" else "PPP"
        fields.fail(f"{carrier} carries no LLC frames")
    mask, number = primitive
    start = fields.layer.llc()
    if mask:
        yes = fields.masked(1, start, 2, mask, number)(yes, no)
    # IPX without an LLC header begins with 0xffff.
    framed = fields.equals(2, start, 0, keywords.IPX_RAW)(no, yes)
    return fields.in_802_3(framed, no)


def host(fields: Fields, primitive: ast.Host, yes: int, no: int) -> int:
    protocols = primitive.protocols
    if fields.layer.link == "mpls" and len(protocols) > 1:
        protocols = ("ip",)  # MPLS carries no ARP
    # A packet is of one protocol only. If its addresses do not match, the
    # other protocols need no test.
    first = no
    for protocol in reversed(protocols):
        source, destination = (
            fields.masked(
                4,
                fields.payload,
                offset,
                primitive.mask,
                primitive.address,
            )
            for offset in _ADDRESS_OFFSETS[protocol]
        )
        match = directed(primitive.direction, source, destination, yes, no)
        number = keywords.ETHER_TYPES[protocol]
        first = fields.carries(number, match, first)
    return first


def host6(fields: Fields, primitive: ast.Host6, yes: int, no: int) -> int:
    first = directed(
        primitive.direction,
        lambda yes, no: _words6(fields, 8, primitive, yes, no),
        lambda yes, no: _words6(fields, 24, primitive, yes, no),
        yes,
        no,
    )
    return fields.carries(keywords.ETH_IPV6, first, no)


def _words6(
    fields: Fields,
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
        yes = fields.masked(4, fields.payload, where, mask, word)(yes, no)
    return yes


def port(fields: Fields, primitive: ast.Port, yes: int, no: int) -> int:
    four = fields.behind_ip()
    six = fields.behind_ip6()
    first4 = first6 = no
    for number in reversed(primitive.protocols):
        ports = _ports(fields, *four, primitive, yes, no)
        ports = fields.first_fragment(ports, no)
        first4 = fields.equals(1, fields.payload, 9, number)(ports, first4)
        ports = _ports(fields, *six, primitive, yes, no)
        first6 = fields.equals(1, fields.payload, 6, number)(ports, first6)
    first = fields.carries(keywords.ETH_IP, first4, no)
    return fields.carries(keywords.ETH_IPV6, first6, first)


def _ports(
    fields: Fields,
    base: int,
    offset: int,
    primitive: ast.Port,
    yes: int,
    no: int,
) -> int:
    """Ports at `offset` from the value `base`."""
    graph = fields.graph

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
    fields: Fields, primitive: ast.Direction, yes: int, no: int
) -> int:
    value = fields.graph.ancillary(SKF_AD_PKTTYPE)
    if not primitive.outbound:
        yes, no = no, yes
    return fields.graph.test(value, "=", _PACKET_OUTGOING, yes, no)


def ifindex(fields: Fields, primitive: ast.IfIndex, yes: int, no: int) -> int:
    value = fields.graph.ancillary(SKF_AD_IFINDEX)
    return fields.graph.test(value, "=", primitive.number, yes, no)
