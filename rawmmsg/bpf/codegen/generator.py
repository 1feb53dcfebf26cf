"""A parse tree to a control-flow graph.

Generation runs from the last primitive to the first: each is told where to
go on when it holds and when it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from ..syntax import ast
from . import primitives
from .fields import Headers
from .offsets import Layer, Place
from .relations import relation
from .tunnels import tunnel

__all__ = ["generate"]

# linux/filter.h: SKF_AD_*
_VLAN_TAG = 44
_VLAN_TAG_PRESENT = 48

# Three scratch words each; the rest is left to arithmetic.
_MAX_TUNNELS = 5
_WORD = 0xFFFFFFFF
# Copies of the same code within a primitive, at most.
_COPIES = 4


class Fork(NamedTuple):
    """Where to go on if the outermost tag is beside the packet, if not."""

    beside: int
    inline: int


Target: TypeAlias = int | Fork


class _Generator:
    def __init__(self, headers: Headers, layer: Layer, live: bool) -> None:
        self.graph = headers.graph
        self.headers = headers
        self.layer = layer
        self.live = live
        # How each primitive looks at the packet, by the leaf's number.
        self.views: list[tuple[Layer, ...]] = []
        # What each tunnel makes of the rest, by the same.
        self.tunnels: dict[int, Layer] = {}

    def generate(self, root: ast.Expression, yes: int, no: int) -> int:
        """The first node of the whole expression."""
        self.look(_leaves(root))
        return self.join(self.emit(root, yes, no))

    def look(self, leaves: Iterable[ast.Leaf]) -> None:
        """Find how each primitive looks at the packet, left to right."""
        views: tuple[Layer, ...] = (self.layer,)
        for leaf in leaves:
            self.views.append(views)
            primitive = leaf.primitive
            self.headers.position = leaf.position
            if _keeps_loads(primitive):
                self.graph.keeps_loads = True
            if isinstance(primitive, ast.Vlan):
                views = self.behind_tag(views)
            elif isinstance(primitive, ast.Mpls):
                self.check_mpls(views)
                views = tuple(view.behind_label() for view in views)
            elif isinstance(primitive, ast.PppoeSession):
                views = tuple(view.in_session() for view in views)
            elif isinstance(primitive, ast.Tunnel):
                self.graph.exact = True
                inside = self.in_tunnel(primitive, views[0])
                self.tunnels[leaf.number] = inside
                views = (inside,) * len(views)

    def behind_tag(self, views: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """Behind a tag; live, the first may be beside the packet."""
        first = views[0]
        if first.link != "ether":
            what = {"ppp": "PPP", "mpls": "MPLS"}.get(first.link, "raw IP")
            self.headers.fail(f"there is no VLAN in {what}")
        if self.live and first.outermost:
            return first._replace(outermost=False), first.behind_tag()
        return tuple(view.behind_tag() for view in views)

    def check_mpls(self, views: tuple[Layer, ...]) -> None:
        if views[0].link == "raw":
            self.headers.fail("there is no MPLS in raw IP")

    def in_tunnel(self, primitive: ast.Tunnel, outside: Layer) -> Layer:
        """Inside a tunnel, at places that are known only at run time.

        As in libpcap, what follows `mpls` is read as if behind a label
        even inside a tunnel.
        """
        first = 3 * len(self.tunnels)
        if first >= 3 * _MAX_TUNNELS:
            self.headers.fail(f"more than {_MAX_TUNNELS} tunnels")
        self.graph.reserved = first + 3
        return Layer(
            "mpls" if outside.link == "mpls" else "ether",
            Place(0, first),
            Place(0, first + 1),
            Place(0, first + 2),
            headless=primitive.protocol == "geneve",
        )

    def emit(self, node: ast.Expression, yes: Target, no: Target) -> Target:
        """The first node of a part of the tree."""
        if isinstance(node, ast.Leaf):
            return self.leaf(node, yes, no)
        if isinstance(node, ast.Not):
            return self.emit(node.operand, no, yes)
        for operator, operand in reversed(node.rest):
            if operator == "and":
                yes = self.emit(operand, yes, no)
            else:
                no = self.emit(operand, yes, no)
        return self.emit(node.first, yes, no)

    def leaf(self, leaf: ast.Leaf, yes: Target, no: Target) -> Target:
        """One primitive, once for each way to look at the packet."""
        self.headers.position = leaf.position
        # Equal code of different primitives stays apart for the first
        # pass of the optimiser, which has reasons of its own to merge.
        self.graph.copy = leaf.number * _COPIES
        primitive = leaf.primitive
        views = self.views[leaf.number]
        if len(views) == 2:
            beside, inline = views
            return Fork(
                self.primitive(leaf, beside, _beside(yes), _beside(no)),
                self.primitive(leaf, inline, _inline(yes), _inline(no)),
            )
        layer = views[0]
        if layer.outermost and self.live and isinstance(primitive, ast.Vlan):
            return self.outermost_vlan(primitive, layer, yes, no)
        return self.primitive(leaf, layer, self.join(yes), self.join(no))

    def primitive(
        self, leaf: ast.Leaf, layer: Layer, yes: int, no: int
    ) -> int:
        """One primitive, for one way to look at the packet."""
        primitive = leaf.primitive
        headers = self.headers
        if isinstance(primitive, ast.Tunnel):
            inside = self.tunnels[leaf.number]
            return tunnel(headers, primitive, inside, layer, yes, no)
        return _EMITTERS[type(primitive)](headers, primitive, layer, yes, no)

    def outermost_vlan(
        self, primitive: ast.Vlan, layer: Layer, yes: Target, no: Target
    ) -> int:
        """The tag that the kernel may have moved out of the frame."""
        beside = _beside(yes)
        if primitive.number is not None:
            graph = self.graph
            tag = graph.operation(
                "&", graph.ancillary(_VLAN_TAG), graph.constant(0xFFF)
            )
            beside = graph.test(
                tag, "=", primitive.number, beside, _beside(no)
            )
        inline = primitives.vlan(
            self.headers, primitive, layer, _inline(yes), _inline(no)
        )
        return self.tag_beside(beside, inline)

    def join(self, target: Target) -> int:
        """One target: ask where the tag is if that makes a difference."""
        if isinstance(target, int):
            return target
        return self.tag_beside(target.beside, target.inline)

    def tag_beside(self, yes: int, no: int) -> int:
        """Whether the kernel moved the outermost tag out of the frame."""
        present = self.graph.ancillary(_VLAN_TAG_PRESENT)
        return self.graph.test(present, "&", 1, yes, no)


def _keeps_loads(primitive: ast.Primitive) -> bool:
    """Whether the loads of tests that decide nothing have to stay.

    libpcap's optimiser drops them. But it does not touch programs with
    tunnels, does not see through arithmetic at first, and is not to be
    relied on about tests of bits, into which it turns comparisons with 0
    under a mask, too.
    """
    match primitive:
        case ast.Tunnel() | ast.Mpls() | ast.Multicast("ether"):
            return True
        case ast.Host(address, mask):
            return _compares_bits(mask, address)
        case ast.Host6(address, mask):
            return not mask or any(
                mask >> shift & _WORD
                and _compares_bits(mask >> shift, address >> shift)
                for shift in (96, 64, 32, 0)
            )
        case ast.Llc(mask, number):
            return mask != 0 and number == 0
        case ast.Broadcast(layer):
            return layer == "ip"
        case ast.Vlan(0) | ast.PppoeSession(0):
            return True
        case ast.Relation(_, left, right):
            return not (_is_field(left) and _is_constant(right))
    return False


def _compares_bits(mask: int, address: int) -> bool:
    """Whether a word is compared with 0 under a mask."""
    return mask & _WORD != _WORD and not address & _WORD


def _is_field(node: ast.Arithmetic) -> bool:
    """Whether a value is a field of the packet, perhaps under a mask."""
    if isinstance(node, ast.Binary) and node.operator == "&":
        node = node.left
    if isinstance(node, ast.Access):
        return isinstance(node.offset, ast.Number)
    return isinstance(node, ast.Length)


def _is_constant(node: ast.Arithmetic) -> bool:
    """Whether a value is made of numbers only."""
    match node:
        case ast.Number():
            return True
        case ast.Negative(operand):
            return _is_constant(operand)
        case ast.Binary(_, left, right):
            return _is_constant(left) and _is_constant(right)
    return False


def _leaves(root: ast.Expression) -> list[ast.Leaf]:
    """The primitives of a tree, left to right."""
    found: list[ast.Leaf] = []
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Leaf):
            found.append(node)
        elif isinstance(node, ast.Not):
            stack.append(node.operand)
        else:
            stack.extend(operand for _, operand in reversed(node.rest))
            stack.append(node.first)
    return found


def _beside(target: Target) -> int:
    return target if isinstance(target, int) else target.beside


def _inline(target: Target) -> int:
    return target if isinstance(target, int) else target.inline


# Each takes the headers, a primitive of its type, the layer, yes and no.
_EMITTERS: dict[type, Callable[[Headers, Any, Layer, int, int], int]] = {
    ast.EtherType: primitives.ether_type,
    ast.EtherHost: primitives.ether_host,
    ast.Broadcast: primitives.broadcast,
    ast.Multicast: primitives.multicast,
    ast.Vlan: primitives.vlan,
    ast.Mpls: primitives.mpls,
    ast.PppoeSession: primitives.pppoe_session,
    ast.IpProtocol: primitives.ip_protocol,
    ast.IsoProtocol: primitives.iso_protocol,
    ast.Llc: primitives.llc,
    ast.Host: primitives.host,
    ast.Host6: primitives.host6,
    ast.Port: primitives.port,
    ast.Direction: primitives.direction,
    ast.IfIndex: primitives.ifindex,
    ast.Relation: relation,
}


def generate(
    headers: Headers,
    root: ast.Expression,
    layer: Layer,
    *,
    live: bool,
    yes: int,
    no: int,
) -> int:
    """Add the tests of an expression to the graph; the first node."""
    return _Generator(headers, layer, live).generate(root, yes, no)
