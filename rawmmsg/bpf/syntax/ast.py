"""The parse tree: primitives with all qualifiers resolved."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

__all__ = [
    "Access",
    "Arithmetic",
    "Binary",
    "Broadcast",
    "Chain",
    "Direction",
    "EtherHost",
    "EtherType",
    "Expression",
    "Host",
    "Host6",
    "IfIndex",
    "IpProtocol",
    "IsoProtocol",
    "Leaf",
    "Length",
    "Llc",
    "Mpls",
    "Multicast",
    "Negative",
    "Not",
    "Number",
    "Port",
    "PppoeSession",
    "Primitive",
    "Relation",
    "Tunnel",
    "Vlan",
]


class EtherType(NamedTuple):
    """The link layer says that it carries protocol `number`."""

    number: int


class IpProtocol(NamedTuple):
    """IP of one of these versions carries protocol `number`."""

    number: int
    versions: tuple[str, ...]


class IsoProtocol(NamedTuple):
    """OSI protocol `number`."""

    number: int


class Llc(NamedTuple):
    """An IEEE 802.2 frame whose control byte is `number` under `mask`."""

    mask: int
    number: int


class Host(NamedTuple):
    """An IPv4 address, in the headers of these protocols."""

    address: int
    mask: int
    protocols: tuple[str, ...]  # of ip, arp, rarp
    direction: str  # "src", "dst", "or", "and"


class Host6(NamedTuple):
    """An IPv6 address."""

    address: int
    mask: int
    direction: str


class EtherHost(NamedTuple):
    """A MAC address."""

    address: bytes
    direction: str


class Port(NamedTuple):
    """A port from `low` to `high` of one of these protocols.

    `port 80` has no `high`; `portrange 80` has, though it means the same.
    """

    low: int
    high: int | None
    protocols: tuple[int, ...]
    direction: str


class Broadcast(NamedTuple):
    """Broadcast of layer "ether" or "ip"."""

    layer: str


class Multicast(NamedTuple):
    """Multicast of layer "ether", "ip" or "ip6"."""

    layer: str


class Vlan(NamedTuple):
    """A VLAN tag; the rest of the expression looks behind it."""

    number: int | None


class Mpls(NamedTuple):
    """An MPLS label; the rest of the expression looks behind it."""

    number: int | None


class PppoeSession(NamedTuple):
    """A PPPoE session packet; the rest looks into it."""

    number: int | None


class Tunnel(NamedTuple):
    """Geneve or VXLAN; the rest of the expression looks inside."""

    protocol: str
    number: int | None


class Direction(NamedTuple):
    """Sent by this host, or not."""

    outbound: bool


class IfIndex(NamedTuple):
    """Seen on this interface."""

    number: int


class Number(NamedTuple):
    """A constant."""

    value: int


class Length(NamedTuple):
    """The length of the packet."""


class Access(NamedTuple):
    """protocol[offset:size]"""

    protocol: str
    offset: Arithmetic
    size: int


class Negative(NamedTuple):
    """-operand"""

    operand: Arithmetic


class Binary(NamedTuple):
    """left operator right; the position is that of `right`."""

    operator: str
    left: Arithmetic
    right: Arithmetic
    position: int


Arithmetic: TypeAlias = Number | Length | Access | Negative | Binary


class Relation(NamedTuple):
    """left operator right, operator one of = != > >= < <="""

    operator: str
    left: Arithmetic
    right: Arithmetic


Primitive: TypeAlias = (
    EtherType
    | IpProtocol
    | IsoProtocol
    | Llc
    | Host
    | Host6
    | EtherHost
    | Port
    | Broadcast
    | Multicast
    | Vlan
    | Mpls
    | PppoeSession
    | Tunnel
    | Direction
    | IfIndex
    | Relation
)


class Leaf(NamedTuple):
    """A primitive at its place in the text.

    `number` counts the primitives of the expression from the left.
    """

    primitive: Primitive
    number: int
    position: int


class Not(NamedTuple):
    """Negation."""

    operand: Expression


class Chain(NamedTuple):
    """`first`, then ("and" or "or", operand)..., all of one precedence.

    Evaluated from the left: ((first op operand) op operand)...
    """

    first: Expression
    rest: list[tuple[str, Expression]]


Expression: TypeAlias = Leaf | Not | Chain
