"""Redundant loads: loads whose value is not used.

A load outside the packet rejects the packet. So what happens to a packet that
is cut short depends only on the furthest load on its path to ACCEPT. A load
whose value is not used is removed if every such path has another load, before
it or behind it, that reaches as far.
"""

from typing import TypeAlias

from ..cfg import ACCEPT, MAX_OFFSET, REJECT, Graph, Node

__all__ = [
    "Reach",
    "covers",
    "eliminate_redundant_loads",
    "furthest",
    "needs",
]

# The end of the furthest load, by the value that its offset is relative to,
# or _PACKET. A value that may reject for another reason, such as a division,
# has an entry of its own.
Reach: TypeAlias = dict[int, int]

_PACKET = -1
_SMALL_SIZE = 2
_SMALL = 0xFFFF


def needs(graph: Graph, node: Node) -> Reach:
    """What evaluating the values of a node loads."""
    reach = value_needs(graph, node.value)
    if node.test[-1] == "x":
        reach = furthest(reach, value_needs(graph, node.operand))
    return reach


def value_needs(graph: Graph, number: int) -> Reach:
    """What evaluating a value loads."""
    known = graph.reaches.get(number)
    if known is None:
        known = graph.reaches[number] = _value_needs(graph, number)
    return known


def _value_needs(graph: Graph, number: int) -> Reach:
    kind, a, b, c = graph.values[number]
    if kind in ("const", "length", "scratch"):
        return {}
    if kind == "ancillary":
        return {} if graph.live else {number: 0}
    if kind == "header":
        return {_PACKET: c + 1}
    if kind == "load":
        if b < 0:
            return {_PACKET: c + a}
        if c <= MAX_OFFSET and _is_small(graph, b):
            reach = {b: c + a, _PACKET: c + a}
        else:
            # The sum may wrap around, so nothing is known about its end.
            reach = {number: 0}
        return furthest(reach, value_needs(graph, b))
    reach = furthest(value_needs(graph, a), value_needs(graph, b))
    divisor = graph.values[b]
    if kind in ("/", "%") and (divisor.kind != "const" or divisor.a == 0):
        reach = furthest(reach, {number: 0})
    return reach


def _is_small(graph: Graph, number: int) -> bool:
    """Whether a value is certainly far below 2**31."""
    kind, a, b, _ = graph.values[number]
    if kind == "load":
        return a <= _SMALL_SIZE
    if kind == "const":
        return a <= _SMALL
    if kind == "+":
        return _is_small(graph, a) and _is_small(graph, b)
    if kind == "&":
        return _is_small(graph, a) or _is_small(graph, b)
    if kind == "<<":
        # As in the length of a header.
        kind, _, mask, _ = graph.values[a]
        shift = graph.values[b]
        return (
            kind == "&"
            and graph.values[mask].kind == shift.kind == "const"
            and graph.values[mask].a << shift.a <= _SMALL
        )
    # Only tunnels assign scratch words.
    return kind in ("header", "scratch")


def covers(reach: Reach, needed: Reach) -> bool:
    """Whether all that is needed is known to be in the packet."""
    return all(
        key in reach and reach[key] >= end for key, end in needed.items()
    )


def furthest(one: Reach, other: Reach) -> Reach:
    """What is known to be in the packet if both of these are in it."""
    if not one or not other:
        return one or other
    result = dict(one)
    for key, end in other.items():
        if end >= result.get(key, end):
            result[key] = end
    return result


def _common(one: Reach, other: Reach) -> Reach:
    """What is known to be in the packet if either of these is in it."""
    if one is other:
        return one
    return {
        key: min(end, other[key]) for key, end in one.items() if key in other
    }


def _without(graph: Graph, reach: Reach, word: int) -> Reach:
    """The part that does not depend on a scratch word."""
    bit = 1 << word
    return {
        key: end
        for key, end in reach.items()
        if key == _PACKET or not graph.scratch_words(key) & bit
    }


def eliminate_redundant_loads(graph: Graph, root: int) -> int:
    """Remove loads whose value is not used and that others cover."""
    if all(graph.nodes[number].test != "?" for number in graph.order(root)):
        return root
    return _covered_before(graph, _covered_behind(graph, root))


def _covered_behind(graph: Graph, root: int) -> int:
    """Remove loads that loads behind them cover."""
    new = {REJECT: REJECT, ACCEPT: ACCEPT}
    # What every path from a node to ACCEPT loads. None: there is no path.
    ahead: dict[int, Reach | None] = {REJECT: None, ACCEPT: {}}
    for number in reversed(graph.order(root)):
        node = graph.nodes[number]
        yes, no = new[node.yes], new[node.no]
        yes_reach, no_reach = ahead[yes], ahead[no]
        if yes_reach is None or no_reach is None:
            reach = no_reach if yes_reach is None else yes_reach
        else:
            reach = _common(yes_reach, no_reach)
        if reach is not None and node.test == ":=":
            reach = _without(graph, reach, node.operand)
        needed = needs(graph, node)
        if yes != no or node.test == ":=":
            target = graph.node(node._replace(yes=yes, no=no))
        elif reach is None or covers(reach, needed):
            new[number] = yes
            continue
        else:
            target = graph.evaluate(node, yes)
        new[number] = target
        ahead[target] = None if reach is None else furthest(reach, needed)
    return new[root]


def _covered_before(graph: Graph, root: int) -> int:
    """Remove loads that loads before them cover."""
    nodes = graph.nodes
    # What every path to a node has loaded.
    reached: dict[int, Reach] = {root: {}}
    covered: set[int] = set()
    sequence = graph.order(root)
    for number in sequence:
        node = nodes[number]
        reach = reached[number]
        needed = needs(graph, node)
        if covers(reach, needed):
            covered.add(number)
        else:
            reach = furthest(reach, needed)
        if node.test == ":=":
            reach = _without(graph, reach, node.operand)
        for target in {node.yes, node.no}:
            present = reached.get(target)
            reached[target] = (
                reach if present is None else _common(present, reach)
            )
    new = {REJECT: REJECT, ACCEPT: ACCEPT}
    for number in reversed(sequence):
        node = nodes[number]
        yes, no = new[node.yes], new[node.no]
        if yes != no or node.test == ":=":
            new[number] = graph.node(node._replace(yes=yes, no=no))
        elif number in covered:
            new[number] = yes
        else:
            new[number] = graph.evaluate(node, yes)
    return new[root]
