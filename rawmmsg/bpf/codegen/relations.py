"""Comparisons of arithmetic expressions."""

from __future__ import annotations

from ..cfg import ACCEPT, REJECT, is_operand
from ..syntax import ast, keywords
from .fields import Headers, Test
from .offsets import Layer

__all__ = ["relation"]

_MISTAKES = {
    **dict.fromkeys(("/", "%"), "division by zero"),
    **dict.fromkeys(("<<", ">>"), "a shift by more than 31 bits"),
}


def relation(
    headers: Headers, primitive: ast.Relation, layer: Layer, yes: int, no: int
) -> int:
    """A comparison, behind the tests for the protocols it names."""
    checks: list[Test] = []
    left = _value(headers, primitive.left, layer, checks)
    right = _value(headers, primitive.right, layer, checks)
    graph = headers.graph
    # libpcap does not see that `ip[9]` is the field of `ip proto`.
    graph.copy += 1
    graph.opaque.add(graph.copy)
    yes = graph.compare(left, primitive.operator, right, yes, no)
    graph.copy -= 1
    for check in reversed(checks):
        yes = check(yes, no)
    return yes


def _value(
    headers: Headers, node: ast.Arithmetic, layer: Layer, checks: list[Test]
) -> int:
    """The value of an arithmetic expression."""
    graph = headers.graph
    if isinstance(node, ast.Number):
        return graph.constant(node.value)
    if isinstance(node, ast.Length):
        return graph.length()
    if isinstance(node, ast.Access):
        return _access(headers, node, layer, checks)
    if isinstance(node, ast.Negative):
        operand = _value(headers, node.operand, layer, checks)
        return graph.operation("-", graph.constant(0), operand)
    left = _value(headers, node.left, layer, checks)
    # As in libpcap, what the right operand of an operation needs is
    # not checked; what both sides of a relation need is.
    unchecked: list[Test] = []
    right = _value(headers, node.right, layer, unchecked)
    for check in unchecked:
        check(ACCEPT, REJECT)  # for its errors only
    result = graph.operation(node.operator, left, right)
    right_value = graph.values[right]
    if right_value.kind == "const" and not is_operand(
        node.operator, right_value.a
    ):
        reason = _MISTAKES[node.operator]
        if isinstance(node.right, ast.Number):
            headers.position = node.position
            headers.fail(reason)
        # libpcap's optimiser finds it, where it is of any use.
        if not graph.exact and not graph.is_constant(result):
            graph.mistakes.setdefault(result, (reason, node.position))
    return result


def _access(
    headers: Headers, node: ast.Access, layer: Layer, checks: list[Test]
) -> int:
    """protocol[offset:size]; adds what must hold for it to exist."""
    inner: list[Test] = []
    offset = _value(headers, node.offset, layer, inner)
    protocol = node.protocol
    if protocol in keywords.IP_PROTOCOLS and (
        keywords.IP_PROTOCOLS[protocol][0] != keywords.IPPROTO_ICMPV6
    ):
        # As in libpcap, IP is asked for before what the offset needs.
        checks.append(
            lambda yes, no: headers.carries(layer, keywords.ETH_IP, yes, no)
        )
    checks.extend(inner)
    if protocol == "ether":
        return headers.indexed(node.size, layer.header, offset)
    if protocol in keywords.ETHER_TYPES:
        number = keywords.ETHER_TYPES[protocol]
        checks.append(lambda yes, no: headers.carries(layer, number, yes, no))
        return headers.indexed(node.size, layer.payload, offset)
    number, _ = keywords.IP_PROTOCOLS[protocol]
    if number == keywords.IPPROTO_ICMPV6:
        checks.append(
            lambda yes, no: headers.carries(layer, keywords.ETH_IPV6, yes, no)
        )
        checks.append(headers.field(1, layer.payload, 6, number))
        place = layer.payload.moved(keywords.IP6_HEADER)
        return headers.indexed(node.size, place, offset)
    checks.append(headers.field(1, layer.payload, 9, number))
    checks.append(lambda yes, no: headers.first_fragment(layer, yes, no))
    base, start = headers.behind_ip(layer)
    base = headers.graph.operation("+", offset, base)
    return headers.graph.load(node.size, base, start)
