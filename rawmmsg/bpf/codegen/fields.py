"""Reading header fields: the tests that primitives are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeAlias

from ..cfg import ACCEPT, REJECT, Graph
from ..errors import FilterError
from ..syntax import keywords
from .offsets import Layer, Place

__all__ = ["Headers", "Test", "directed"]

_MAX_LENGTH_FIELD = 1500  # a greater number is an EtherType
_SNAP = 0xAAAA0300
_SNAP_APPLE = 0xAAAA0308

# Service access points that a frame has as its source and destination.
_BOTH_SAPS = (keywords.SAP_IP, keywords.SAP_ISO, keywords.SAP_NETBEUI)

# EtherTypes that also come in SNAP frames: start of the LLC header,
# organisation and type.
_ALSO_LLC = {
    keywords.ETHER_TYPES["atalk"]: (_SNAP_APPLE, 0x0007809B),
    keywords.ETHER_TYPES["aarp"]: (_SNAP, 0x000080F3),
}
# The PPP protocol numbers that differ from the EtherType.
_PPP_TYPES = {
    keywords.ETH_IP: 0x0021,
    keywords.ETH_IPV6: 0x0057,
    keywords.SAP_ISO: 0x0023,
    keywords.SAP_STP: 0x0031,
    keywords.SAP_IPX: 0x002B,
    keywords.ETHER_TYPES["atalk"]: 0x0029,
    keywords.ETHER_TYPES["decnet"]: 0x0027,
}
_IP_VERSIONS = {keywords.ETH_IP: 0x40, keywords.ETH_IPV6: 0x60}

# Builds a test from its two successors.
Test: TypeAlias = Callable[[int, int], int]


class Headers:
    """Tests of header fields, added to a graph.

    A test takes the nodes to go on at, `yes` if it holds and `no` if not,
    and gives the node that begins it.
    """

    def __init__(
        self, graph: Graph, expression: str, netmask: int | None
    ) -> None:
        self.graph = graph
        self.expression = expression
        self.netmask = netmask
        # Of the primitive in work, for error messages.
        self.position = 0

    def fail(self, reason: str) -> NoReturn:
        """Raise FilterError at the primitive in work."""
        raise FilterError(reason, self.expression, self.position)

    def check_values(self, root: int) -> None:
        """Raise FilterError for a mistake in a value that decides a thing."""
        graph = self.graph
        if not graph.mistakes:
            return
        # The graph without what only matters to packets cut short.
        bare = {REJECT: REJECT, ACCEPT: ACCEPT}
        for number in reversed(graph.order(root)):
            node = graph.nodes[number]
            yes, no = bare[node.yes], bare[node.no]
            bare[number] = (
                yes if yes == no else graph.node(node._replace(yes=yes, no=no))
            )
        for number in graph.order(bare[root]):
            node = graph.nodes[number]
            used = {node.value}
            if node.test[-1] == "x":
                used.add(node.operand)
            for mistake in map(graph.mistake, used):
                if mistake is not None:
                    reason, self.position = mistake
                    self.fail(reason)

    def load(self, size: int, place: Place, offset: int) -> int:
        """The value of `size` bytes at `offset` from a place."""
        base = self.graph.scratch(place.word) if place.word >= 0 else -1
        return self.graph.load(size, base, place.offset + offset)

    def field(self, size: int, place: Place, offset: int, number: int) -> Test:
        """Whether a field is `number`."""
        value = self.load(size, place, offset)
        return lambda yes, no: self.graph.test(value, "=", number, yes, no)

    def masked(
        self, size: int, place: Place, offset: int, mask: int, number: int
    ) -> Test:
        """Whether a field under a mask is `number`."""
        graph = self.graph
        value = self.load(size, place, offset)
        if mask != (1 << 8 * size) - 1:
            value = graph.operation("&", value, graph.constant(mask))
        return lambda yes, no: graph.test(value, "=", number, yes, no)

    def present(self, size: int, place: Place, offset: int, yes: int) -> int:
        """Go on at `yes` if a field is not cut off."""
        return self.graph.evaluate_value(self.load(size, place, offset), yes)

    def carries(self, layer: Layer, number: int, yes: int, no: int) -> int:
        """Whether the link layer carries a protocol."""
        if layer.link == "ether":
            if number <= _MAX_LENGTH_FIELD or number in _ALSO_LLC:
                return self.llc(layer, number, yes, no)
            return self.field(2, layer.type, 0, number)(yes, no)
        if layer.link == "ppp":
            number = _PPP_TYPES.get(number, number)
            return self.field(2, layer.type, 0, number)(yes, no)
        version = _IP_VERSIONS.get(number)
        if layer.link == "mpls":
            if version is None:
                self.fail("there is only IP in MPLS")
            version_test = self.masked(1, layer.payload, 0, 0xF0, version)
            return self.bottom_of_stack(layer, version_test(yes, no), no)
        if version is None:
            return no
        return self.masked(1, layer.payload, 0, 0xF0, version)(yes, no)

    def bottom_of_stack(self, layer: Layer, yes: int, no: int) -> int:
        """Whether the label before the payload is the last one."""
        return self.masked(1, layer.payload, -2, 1, 1)(yes, no)

    def llc(self, layer: Layer, number: int, yes: int, no: int) -> int:
        """Protocols that also, or only, come in IEEE 802.2 frames."""
        payload = layer.payload
        if number in _BOTH_SAPS:
            saps = number << 8 | number
            return self.in_802_3(
                layer, self.field(2, payload, 0, saps)(yes, no), no
            )
        if number == keywords.SAP_IPX:
            return self.ipx(layer, yes, no)
        if number in _ALSO_LLC:
            snap = self.in_snap(layer, *_ALSO_LLC[number], yes, no)
            other = self.in_802_3(layer, snap, no)
            return self.field(2, layer.type, 0, number)(yes, other)
        sap = self.field(1, layer.type, 2, number)(yes, no)
        return self.in_802_3(layer, sap, no)

    def in_802_3(self, layer: Layer, yes: int, no: int) -> int:
        """Whether the type field is a length."""
        value = self.load(2, layer.type, 0)
        return self.graph.test(value, ">", _MAX_LENGTH_FIELD, no, yes)

    def in_snap(
        self, layer: Layer, start: int, identifier: int, yes: int, no: int
    ) -> int:
        """Whether a SNAP header carries a protocol."""
        header = self.field(4, layer.payload, 0, start)(yes, no)
        return self.field(4, layer.payload, 4, identifier)(header, no)

    def ipx(self, layer: Layer, yes: int, no: int) -> int:
        """IPX in all its framings."""
        payload = layer.payload
        raw = self.field(2, payload, 0, keywords.IPX_RAW)(yes, no)
        sap = self.field(1, payload, 0, keywords.SAP_IPX)(yes, raw)
        snap = self.in_snap(layer, _SNAP, keywords.ETH_IPX, yes, sap)
        framed = self.in_802_3(layer, snap, no)
        return self.field(2, layer.type, 0, keywords.ETH_IPX)(yes, framed)

    def need_ethernet(self, layer: Layer, yes: int, no: int) -> int:
        """Go to `yes`, in a tunnel only if there is an Ethernet header."""
        if not layer.addresses:
            self.fail("there are no Ethernet addresses here")
        if not layer.headless:
            return yes
        header = self.graph.scratch(layer.header.word)
        payload = self.graph.scratch(layer.payload.word)
        return self.graph.compare(header, "=", payload, no, yes)

    def mac(
        self, layer: Layer, offset: int, address: bytes, yes: int, no: int
    ) -> int:
        """Whether the six bytes at `offset` are `address`."""
        high = int.from_bytes(address[:2], "big")
        low = int.from_bytes(address[2:], "big")
        yes = self.field(2, layer.header, offset, high)(yes, no)
        return self.field(4, layer.header, offset + 2, low)(yes, no)

    def first_fragment(self, layer: Layer, yes: int, no: int) -> int:
        """Whether an IPv4 packet is no later fragment."""
        value = self.load(2, layer.payload, 6)
        return self.graph.test(value, "&", 0x1FFF, no, yes)

    def behind_ip(self, layer: Layer) -> tuple[int, int]:
        """Where the transport header of IPv4 begins: a value, an offset."""
        graph = self.graph
        place = layer.payload
        if place.word < 0:
            return graph.header_length(-1, place.offset), place.offset
        start = graph.scratch(place.word)
        length = graph.header_length(start, place.offset)
        return graph.operation("+", length, start), place.offset

    def behind_ip6(self, layer: Layer) -> tuple[int, int]:
        """The same for IPv6 without extension headers."""
        place = layer.payload
        base = self.graph.scratch(place.word) if place.word >= 0 else -1
        return base, place.offset + keywords.IP6_HEADER

    def indexed(self, size: int, place: Place, index: int) -> int:
        """`size` bytes at a place plus a value."""
        graph = self.graph
        if place.word >= 0:
            start = graph.scratch(place.word)
            index = graph.operation("+", index, start)
        return graph.load(size, index, place.offset)


def directed(
    direction: str, source: Test, destination: Test, yes: int, no: int
) -> int:
    """Source, destination, either or both."""
    if direction == "src":
        return source(yes, no)
    if direction == "dst":
        return destination(yes, no)
    if direction == "or":
        return source(yes, destination(yes, no))
    return source(destination(yes, no), no)
