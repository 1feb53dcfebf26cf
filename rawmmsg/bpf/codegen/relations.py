"""Comparisons of arithmetic expressions."""

from ..cfg import ACCEPT, REJECT, is_operand
from ..syntax import ast, keywords
from .fields import Fields, Test

__all__ = ["check_operands", "relation"]

_MISTAKES = {
    **dict.fromkeys(("/", "%"), "division by zero"),
    **dict.fromkeys(("<<", ">>"), "shift by more than 31 bits"),
}


def relation(
    fields: Fields, primitive: ast.Relation, yes: int, no: int
) -> int:
    """A comparison, behind tests for the protocols that it names."""
    checks: list[Test] = []
    left = _value(fields, primitive.left, checks)
    right = _value(fields, primitive.right, checks)
    yes = fields.graph.compare(left, primitive.operator, right, yes, no)
    for check in reversed(checks):
        yes = check(yes, no)
    return yes


def _value(fields: Fields, node: ast.Arithmetic, checks: list[Test]) -> int:
    """The value of an arithmetic expression.

    Appends to `checks` the tests for the protocols that it names.
    """
    graph = fields.graph
    if isinstance(node, ast.Number):
        return graph.constant(node.value)
    if isinstance(node, ast.Length):
        return graph.length()
    if isinstance(node, ast.Access):
        return _access(fields, node, checks)
    if isinstance(node, ast.Negative):
        operand = _value(fields, node.operand, checks)
        return graph.operation("-", graph.constant(0), operand)
    left = _value(fields, node.left, checks)
    # As in libpcap, the protocols of an operation's right operand are not
    # tested; those on both sides of a relation are.
    unused: list[Test] = []
    right = _value(fields, node.right, unused)
    for check in unused:
        check(ACCEPT, REJECT)  # it may raise FilterError
    result = graph.operation(node.operator, left, right)
    kind, a, b, _ = graph.values[result]
    if (
        kind in ("*", "&")
        and graph.is_zero(b)
        and not graph.reserved
        and _mistake(fields, a) is None
    ):
        # x * 0 is 0, and x is not loaded: as in libpcap's optimiser, which
        # does not run on programs with tunnels.
        return b
    operand_value = graph.values[right]
    if operand_value.kind == "const" and not is_operand(
        node.operator, operand_value.a
    ):
        reason = _MISTAKES[node.operator]
        if isinstance(node.right, ast.Number):
            fields.position = node.position
            fields.fail(reason)
        if not graph.is_constant(result):
            fields.mistakes.setdefault(result, (reason, node.position))
    return result


def check_operands(fields: Fields, root: int) -> None:
    """Raise FilterError for an impossible operand that was computed.

    `ip[8] / (1 - 1) = 0` is an error only if the comparison decides
    something. So it is in libpcap, whose optimiser finds such operands, but
    does not run on programs with tunnels.
    """
    graph = fields.graph
    if not fields.mistakes or graph.reserved:
        return
    # The graph without loads whose values decide nothing.
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
        for value in used:
            mistake = _mistake(fields, value)
            if mistake is not None:
                reason, fields.position = mistake
                fields.fail(reason)


def _mistake(fields: Fields, value: int) -> tuple[str, int] | None:
    """The mistake in a value or in one of its parts."""
    found = fields.mistakes.get(value)
    for part in fields.graph.parts(value):
        found = found or _mistake(fields, part)
    return found


def _access(fields: Fields, node: ast.Access, checks: list[Test]) -> int:
    """protocol[offset:size]; appends the tests for the protocol."""
    inner: list[Test] = []
    offset = _value(fields, node.offset, inner)
    protocol = node.protocol
    if protocol == "ether":
        checks.extend(inner)
        return fields.indexed(node.size, fields.layer.header, offset)
    if protocol in keywords.ETHER_TYPES:
        number = keywords.ETHER_TYPES[protocol]
        checks.extend(inner)
        checks.append(lambda yes, no: fields.carries(number, yes, no))
        return fields.indexed(node.size, fields.payload, offset)
    number, _ = keywords.IP_PROTOCOLS[protocol]
    if number == keywords.IPPROTO_ICMPV6:
        checks.extend(inner)
        checks.append(
            lambda yes, no: fields.carries(keywords.ETH_IPV6, yes, no)
        )
        checks.append(fields.equals(1, fields.payload, 6, number))
        start = fields.payload.moved(keywords.IP6_HEADER)
        return fields.indexed(node.size, start, offset)
    # As in libpcap, IPv4 is tested before what the offset needs.
    checks.append(lambda yes, no: fields.carries(keywords.ETH_IP, yes, no))
    checks.extend(inner)
    checks.append(fields.equals(1, fields.payload, 9, number))
    checks.append(lambda yes, no: fields.first_fragment(yes, no))
    base, first = fields.behind_ip()
    base = fields.graph.operation("+", offset, base)
    return fields.graph.load(node.size, base, first)
