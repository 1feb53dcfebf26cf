"""The parse tree. The qualifiers of its primitives are resolved."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class EtherType(NamedTuple):
    """The link layer carries protocol `number`."""

    number: int


class IpProtocol(NamedTuple):
    """IP of one of these versions carries protocol `number`."""

    number: int
    versions: tuple[str, ...]


class IsoProtocol(NamedTuple):
    """OSI protocol `number`."""

    number: int


class Llc(NamedTuple):
    """An IEEE 802.2 frame whose control byte under `mask` is `number`."""

    mask: int
    number: int


class Host(NamedTuple):
    """An IPv4 address or network, in the headers of these protocols."""

    address: int
    mask: int
    protocols: tuple[str, ...]  # of ip, arp, rarp
    direction: str  # "src", "dst", "or", "and"


class Host6(NamedTuple):
    """An IPv6 address or network."""

    address: int
    mask: int
    direction: str


class EtherHost(NamedTuple):
    """A MAC address."""

    address: bytes
    direction: str


class Port(NamedTuple):
    """A port from `low` to `high` of one of these protocols.

    `port 80` has no `high`. `portrange 80` has one; both mean the same.
    """

    low: int
    high: int | None
    protocols: tuple[int, ...]
    direction: str


class Broadcast(NamedTuple):
    """A broadcast address of layer "ether" or "ip"."""

    layer: str


class Multicast(NamedTuple):
    """A multicast address of layer "ether", "ip" or "ip6"."""

    layer: str


class Vlan(NamedTuple):
    """A VLAN tag. The rest of the expression is about what is behind it."""

    number: int | None


class Mpls(NamedTuple):
    """An MPLS label. The rest is about what is behind it."""

    number: int | None


class PppoeSession(NamedTuple):
    """A PPPoE session packet. The rest is about what is inside it."""

    number: int | None


class Tunnel(NamedTuple):
    """Geneve or VXLAN. The rest is about what is inside."""

    protocol: str
    number: int | None


class Direction(NamedTuple):
    """Whether this host sent the packet."""

    outbound: bool


class IfIndex(NamedTuple):
    """The interface of the packet."""

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
    """left operator right. `position` is where `right` begins."""

    operator: str
    left: Arithmetic
    right: Arithmetic
    position: int


Arithmetic: TypeAlias = Number | Length | Access | Negative | Binary


class Relation(NamedTuple):
    """left operator right; the operator is one of = != > >= < <="""

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
    """A primitive, with its position in the text.

    `number` counts the primitives of the expression from the left.
    """

    primitive: Primitive
    number: int
    position: int


class Not(NamedTuple):
    """Negation."""

    operand: Expression


class Chain(NamedTuple):
    """`first`, then ("and" or "or", operand)..., of the same precedence.

    They associate to the left: ((first op operand) op operand)...
    """

    first: Expression
    rest: list[tuple[str, Expression]]


Expression: TypeAlias = Leaf | Not | Chain
