"""Makes a control-flow graph of a parse tree.

A node of the graph needs its successors first, so code is generated from the
last primitive to the first.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from ..cfg import ACCEPT, REJECT
from ..opcodes import SKF_AD_VLAN_TAG, SKF_AD_VLAN_TAG_PRESENT
from ..syntax import ast
from . import primitives
from .fields import Fields
from .offsets import Layer, Offset
from .relations import relation
from .tunnels import tunnel

__all__ = ["generate"]

# Each tunnel takes three scratch words. Arithmetic needs the last one.
_MAX_TUNNELS = 5


class Fork(NamedTuple):
    """Where to continue, depending on where the outermost VLAN tag is.

    `beside`: the kernel has moved it out of the frame. `inline`: it has not,
    or there is none.
    """

    beside: int
    inline: int


Target: TypeAlias = int | Fork


class _Generator:
    def __init__(self, fields: Fields) -> None:
        self.graph = fields.graph
        self.fields = fields
        # The layers at which each primitive reads the packet, by the leaf's
        # number: two behind a tag that may be beside the frame.
        self.views: list[tuple[Layer, ...]] = []
        # The layer inside each tunnel, by the leaf's number.
        self.tunnels: dict[int, Layer] = {}

    def generate(self, root: ast.Expression) -> int:
        """The first node of the whole expression."""
        self.look(_leaves(root))
        return self.join(self.emit(root, ACCEPT, REJECT))

    def look(self, leaves: Iterable[ast.Leaf]) -> None:
        """Find the layers of each primitive, from left to right."""
        views: tuple[Layer, ...] = (self.fields.layer,)
        for leaf in leaves:
            self.views.append(views)
            primitive = leaf.primitive
            self.fields.position = leaf.position
            if isinstance(primitive, ast.Vlan):
                views = self.behind_tag(views)
            elif isinstance(primitive, ast.Mpls):
                if views[0].link == "raw":
                    self.fields.fail("raw IP carries no MPLS")
                views = tuple(view.behind_label() for view in views)
            elif isinstance(primitive, ast.PppoeSession):
                views = tuple(view.in_session() for view in views)
            elif isinstance(primitive, ast.Tunnel):
                inside = self.in_tunnel(primitive, views[0])
                self.tunnels[leaf.number] = inside
                views = (inside,) * len(views)

    def behind_tag(self, views: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """Behind a tag. On a socket, the first may be beside the frame."""
        first = views[0]
        if first.link != "ether":
            carrier = {"ppp": "PPP", "mpls": "MPLS"}.get(first.link, "raw IP")
            self.fields.fail(f"{carrier} carries no VLAN tag")
        if self.graph.live and first.outermost:
            return first._replace(outermost=False), first.behind_tag()
        return tuple(view.behind_tag() for view in views)

    def in_tunnel(self, primitive: ast.Tunnel, outside: Layer) -> Layer:
        """Inside a tunnel, at offsets that are only known at run time.

        As in libpcap, what follows `mpls` is read as if behind a label
        even inside a tunnel.
        """
        first = 3 * len(self.tunnels)
        if first >= 3 * _MAX_TUNNELS:
            self.fields.fail(f"more than {_MAX_TUNNELS} tunnels")
        self.graph.reserved = first + 3
        return Layer(
            "mpls" if outside.link == "mpls" else "ether",
            Offset(0, first),
            Offset(0, first + 1),
            Offset(0, first + 2),
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
        """A primitive, once for each of its layers."""
        self.fields.position = leaf.position
        primitive = leaf.primitive
        views = self.views[leaf.number]
        if len(views) == 2:
            beside, inline = views
            return Fork(
                self.primitive(leaf, beside, _beside(yes), _beside(no)),
                self.primitive(leaf, inline, _inline(yes), _inline(no)),
            )
        layer = views[0]
        if (
            self.graph.live
            and layer.outermost
            and isinstance(primitive, ast.Vlan)
        ):
            return self.outermost_vlan(primitive, yes, no)
        return self.primitive(leaf, layer, self.join(yes), self.join(no))

    def primitive(
        self, leaf: ast.Leaf, layer: Layer, yes: int, no: int
    ) -> int:
        """A primitive at one layer."""
        self.fields.layer = layer
        primitive = leaf.primitive
        if isinstance(primitive, ast.Tunnel):
            inside = self.tunnels[leaf.number]
            return tunnel(self.fields, primitive, inside, yes, no)
        emitter = _EMITTERS[type(primitive)]
        return emitter(self.fields, primitive, yes, no)

    def outermost_vlan(
        self, primitive: ast.Vlan, yes: Target, no: Target
    ) -> int:
        """A tag that the kernel may have moved out of the frame."""
        self.fields.layer = self.views[0][0]
        beside = _beside(yes)
        if primitive.number is not None:
            graph = self.graph
            tci = graph.ancillary(SKF_AD_VLAN_TAG)
            tag = graph.operation("&", tci, graph.constant(0xFFF))
            beside = graph.test(
                tag, "=", primitive.number, beside, _beside(no)
            )
        inline = primitives.vlan(
            self.fields, primitive, _inline(yes), _inline(no)
        )
        return self.tag_beside(beside, inline)

    def join(self, target: Target) -> int:
        """One node: if it makes a difference, test where the tag is."""
        if isinstance(target, int):
            return target
        return self.tag_beside(target.beside, target.inline)

    def tag_beside(self, yes: int, no: int) -> int:
        """Whether the kernel moved the outermost tag out of the frame."""
        present = self.graph.ancillary(SKF_AD_VLAN_TAG_PRESENT)
        return self.graph.test(present, "&", 1, yes, no)


def _leaves(root: ast.Expression) -> list[ast.Leaf]:
    """The primitives of a tree, from left to right."""
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


# Each takes the fields, a primitive of its type, yes and no.
_EMITTERS: dict[type, Callable[[Fields, Any, int, int], int]] = {
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


def generate(fields: Fields, root: ast.Expression) -> int:
    """Add the tests of an expression to the graph; returns the first node."""
    return _Generator(fields).generate(root)
