"""Geneve and VXLAN: tests of the outer headers.

Where the inner headers begin is stored in scratch words.
"""

from typing import NamedTuple

from ..cfg import Graph
from ..syntax import ast, keywords
from .fields import Fields
from .offsets import Layer

__all__ = ["tunnel"]

_GENEVE_PORT = 6081
_GENEVE_ETHERNET = 0x6558
_VXLAN_PORT = 4789
_VXLAN_VALID = 0x08


class _Start(NamedTuple):
    """Where a header begins: `offset`, plus the value `base` if >= 0."""

    base: int
    offset: int

    def load(self, graph: Graph, size: int, offset: int) -> int:
        """The value of a field."""
        return graph.load(size, self.base, self.offset + offset)

    def behind(self, graph: Graph, offset: int, extra: int = -1) -> int:
        """The value of a position: `offset` plus the value `extra`."""
        offset += self.offset
        if self.base < 0:
            if extra < 0:
                return graph.constant(offset)
            return graph.add(extra, offset)
        if extra < 0:
            return graph.add(self.base, offset)
        return graph.add(graph.operation("+", extra, self.base), offset)


def tunnel(
    fields: Fields,
    primitive: ast.Tunnel,
    inside: Layer,
    yes: int,
    no: int,
) -> int:
    """UDP over IPv4 or IPv6 to the port of the tunnel, and its header."""
    graph = fields.graph
    payload = fields.payload
    geneve = primitive.protocol == "geneve"
    port = _GENEVE_PORT if geneve else _VXLAN_PORT
    header = _geneve if geneve else _vxlan
    # The rest of the expression may look inside even if there is no tunnel.
    zero = graph.constant(0)
    no = _store(graph, inside, zero, zero, zero, no)

    def over_udp(base: int, offset: int, no: int) -> int:
        start = _Start(base, offset + 8)
        first = header(graph, primitive, inside, start, yes, no)
        value = graph.load(2, base, offset + 2)
        return graph.test(value, "=", port, first, no)

    first = over_udp(*fields.behind_ip6(), no)
    first = fields.equals(1, payload, 6, keywords.IPPROTO_UDP)(first, no)
    six = fields.carries(keywords.ETH_IPV6, first, no)
    first = over_udp(*fields.behind_ip(), six)
    first = fields.first_fragment(first, six)
    first = fields.equals(1, payload, 9, keywords.IPPROTO_UDP)(first, six)
    return fields.carries(keywords.ETH_IP, first, six)


def _geneve(
    graph: Graph,
    primitive: ast.Tunnel,
    inside: Layer,
    start: _Start,
    yes: int,
    no: int,
) -> int:
    """A Geneve header: eight bytes, options, a packet of any protocol."""
    first_byte = start.load(graph, 1, 0)
    options = graph.operation("&", first_byte, graph.constant(0x3F))
    options = graph.operation("<<", options, graph.constant(2))
    end = start.behind(graph, 8, options)
    bare = _store(graph, inside, end, start.behind(graph, 2), end, yes)
    framed = _store_ethernet(graph, inside, end, yes)
    protocol = start.load(graph, 2, 2)
    first = graph.test(protocol, "=", _GENEVE_ETHERNET, framed, bare)
    first = _network(graph, primitive, start, first, no)
    version = graph.operation("&", first_byte, graph.constant(0xC0))
    return graph.test(version, "=", 0, first, no)


def _vxlan(
    graph: Graph,
    primitive: ast.Tunnel,
    inside: Layer,
    start: _Start,
    yes: int,
    no: int,
) -> int:
    """A VXLAN header: eight bytes, then an Ethernet frame."""
    end = start.behind(graph, 8)
    first = _store_ethernet(graph, inside, end, yes)
    first = _network(graph, primitive, start, first, no)
    flags = start.load(graph, 1, 0)
    return graph.test(flags, "&", _VXLAN_VALID, first, no)


def _network(
    graph: Graph, primitive: ast.Tunnel, start: _Start, yes: int, no: int
) -> int:
    """The network identifier, at the same offset in both headers."""
    if primitive.number is None:
        return yes
    value = start.load(graph, 4, 4)
    value = graph.operation("&", value, graph.constant(0xFFFFFF00))
    return graph.test(value, "=", primitive.number << 8, yes, no)


def _store_ethernet(graph: Graph, inside: Layer, header: int, yes: int) -> int:
    """Store where the parts of an Ethernet frame begin."""
    type_ = graph.add(header, 12)
    return _store(graph, inside, header, type_, graph.add(header, 14), yes)


def _store(
    graph: Graph,
    inside: Layer,
    header: int,
    type_: int,
    payload: int,
    yes: int,
) -> int:
    """Store where the headers inside the tunnel begin."""
    yes = graph.assign(inside.payload.word, payload, yes)
    yes = graph.assign(inside.type.word, type_, yes)
    return graph.assign(inside.header.word, header, yes)
