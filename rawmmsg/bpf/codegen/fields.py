"""Tests of header fields, of which primitives are made."""

from collections.abc import Callable
from typing import NoReturn, TypeAlias

from ..cfg import Graph
from ..errors import FilterError
from ..syntax import keywords
from .offsets import Layer, Offset

__all__ = ["Fields", "Test", "directed"]

_MAX_LENGTH_FIELD = 1500  # a greater number is an EtherType
_SNAP = 0xAAAA0300
_SNAP_APPLE = 0xAAAA0308

# Both SAPs, of destination and source, are compared for these.
_BOTH_SAPS = (keywords.SAP_IP, keywords.SAP_ISO, keywords.SAP_NETBEUI)

# EtherTypes that SNAP frames carry as well: the LLC header, and the
# organisation with the type.
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

# Makes a test, given its two successors.
Test: TypeAlias = Callable[[int, int], int]


class Fields:
    """Adds tests of header fields to a graph.

    A test takes two nodes: `yes` follows if it holds, `no` if not. It returns
    the node that begins the test.
    """

    def __init__(
        self,
        graph: Graph,
        layer: Layer,
        expression: str,
        netmask: int | None,
    ) -> None:
        self.graph = graph
        self.expression = expression
        self.netmask = netmask
        # Of the current primitive: its position in the text, and the layer at
        # which it reads the packet.
        self.position = 0
        self.layer = layer
        # Values with an operand that the kernel would refuse: the reason,
        # and the position of the operand.
        self.mistakes: dict[int, tuple[str, int]] = {}

    @property
    def payload(self) -> Offset:
        return self.layer.payload

    def fail(self, reason: str) -> NoReturn:
        """Raise FilterError at the current primitive."""
        raise FilterError(reason, self.expression, self.position)

    def load(self, size: int, start: Offset, offset: int) -> int:
        """The value of `size` bytes at `offset` from `start`."""
        base = self.graph.scratch(start.word) if start.word >= 0 else -1
        return self.graph.load(size, base, start.offset + offset)

    def equals(
        self, size: int, start: Offset, offset: int, number: int
    ) -> Test:
        """Whether a field equals `number`."""
        value = self.load(size, start, offset)
        return lambda yes, no: self.graph.test(value, "=", number, yes, no)

    def masked(
        self, size: int, start: Offset, offset: int, mask: int, number: int
    ) -> Test:
        """Whether a field under a mask equals `number`."""
        graph = self.graph
        value = self.load(size, start, offset)
        if mask != (1 << 8 * size) - 1:
            value = graph.operation("&", value, graph.constant(mask))
        return lambda yes, no: graph.test(value, "=", number, yes, no)

    def carries(self, number: int, yes: int, no: int) -> int:
        """Whether the link layer carries a protocol."""
        if self.layer.link == "ether":
            if number <= _MAX_LENGTH_FIELD or number in _ALSO_LLC:
                return self.llc(number, yes, no)
            return self.equals(2, self.layer.type, 0, number)(yes, no)
        if self.layer.link == "ppp":
            number = _PPP_TYPES.get(number, number)
            return self.equals(2, self.layer.type, 0, number)(yes, no)
        version = _IP_VERSIONS.get(number)
        if self.layer.link == "mpls":
            if version is None:
                self.fail("behind an MPLS label, only IP can be tested")
            version_test = self.masked(1, self.payload, 0, 0xF0, version)
            return self.bottom_of_stack(version_test(yes, no), no)
        if version is None:
            return no
        return self.masked(1, self.payload, 0, 0xF0, version)(yes, no)

    def bottom_of_stack(self, yes: int, no: int) -> int:
        """Whether the label before the payload is the last label."""
        return self.masked(1, self.payload, -2, 1, 1)(yes, no)

    def llc(self, number: int, yes: int, no: int) -> int:
        """Protocols that (also) come in IEEE 802.2 frames."""
        payload = self.payload
        if number in _BOTH_SAPS:
            saps = number << 8 | number
            return self.in_802_3(self.equals(2, payload, 0, saps)(yes, no), no)
        if number == keywords.SAP_IPX:
            return self.ipx(yes, no)
        if number in _ALSO_LLC:
            snap = self.in_snap(*_ALSO_LLC[number], yes, no)
            other = self.in_802_3(snap, no)
            return self.equals(2, self.layer.type, 0, number)(yes, other)
        sap = self.equals(1, self.layer.type, 2, number)(yes, no)
        return self.in_802_3(sap, no)

    def in_802_3(self, yes: int, no: int) -> int:
        """Whether the type field is a length, as in IEEE 802.3."""
        value = self.load(2, self.layer.type, 0)
        return self.graph.test(value, ">", _MAX_LENGTH_FIELD, no, yes)

    def in_snap(self, start: int, identifier: int, yes: int, no: int) -> int:
        """Whether a SNAP header carries a protocol."""
        header = self.equals(4, self.payload, 0, start)(yes, no)
        return self.equals(4, self.payload, 4, identifier)(header, no)

    def ipx(self, yes: int, no: int) -> int:
        """IPX, in each of its frame types."""
        payload = self.payload
        raw = self.equals(2, payload, 0, keywords.IPX_RAW)(yes, no)
        sap = self.equals(1, payload, 0, keywords.SAP_IPX)(yes, raw)
        snap = self.in_snap(_SNAP, keywords.ETH_IPX, yes, sap)
        framed = self.in_802_3(snap, no)
        return self.equals(2, self.layer.type, 0, keywords.ETH_IPX)(
            yes, framed
        )

    def need_ethernet(self, yes: int, no: int) -> int:
        """Go to `yes`; in Geneve, only if there is an Ethernet header."""
        if not self.layer.addresses:
            self.fail("there are no Ethernet addresses at this point")
        if not self.layer.headless:
            return yes
        header = self.graph.scratch(self.layer.header.word)
        payload = self.graph.scratch(self.payload.word)
        return self.graph.compare(header, "=", payload, no, yes)

    def mac(self, offset: int, address: bytes, yes: int, no: int) -> int:
        """Whether the six bytes at `offset` equal `address`."""
        high = int.from_bytes(address[:2], "big")
        low = int.from_bytes(address[2:], "big")
        yes = self.equals(2, self.layer.header, offset, high)(yes, no)
        return self.equals(4, self.layer.header, offset + 2, low)(yes, no)

    def first_fragment(self, yes: int, no: int) -> int:
        """Whether an IPv4 packet is not a later fragment."""
        value = self.load(2, self.payload, 6)
        return self.graph.test(value, "&", 0x1FFF, no, yes)

    def behind_ip(self) -> tuple[int, int]:
        """Where the IPv4 payload begins: a value, and an offset from it."""
        graph = self.graph
        start = self.payload
        if start.word < 0:
            return graph.header_length(-1, start.offset), start.offset
        base = graph.scratch(start.word)
        length = graph.header_length(base, start.offset)
        return graph.operation("+", length, base), start.offset

    def behind_ip6(self) -> tuple[int, int]:
        """The same for IPv6, if there are no extension headers."""
        start = self.payload
        base = self.graph.scratch(start.word) if start.word >= 0 else -1
        return base, start.offset + keywords.IP6_HEADER

    def indexed(self, size: int, start: Offset, index: int) -> int:
        """`size` bytes at `start` plus the value `index`."""
        graph = self.graph
        if start.word >= 0:
            base = graph.scratch(start.word)
            index = graph.operation("+", index, base)
        return graph.load(size, index, start.offset)


def directed(
    direction: str, source: Test, destination: Test, yes: int, no: int
) -> int:
    """A test of the source, the destination, either or both."""
    if direction == "src":
        return source(yes, no)
    if direction == "dst":
        return destination(yes, no)
    if direction == "or":
        return source(yes, destination(yes, no))
    return source(destination(yes, no), no)
