"""Parses arithmetic: numbers, operators and fields of the packet."""

from . import ast, keywords
from .tokens import NUMBER, TokenStream

__all__ = ["RELATIONS", "arithmetic", "at_arithmetic", "is_operator"]

_MAX_OPERATORS = 100

# How tightly an operator binds. libpcap's grammar gives % and ^ no
# precedence. So its parser always shifts them: all that follows is their right
# operand.
_PRECEDENCE = {
    "|": 1,
    "&": 2,
    "<<": 3,
    ">>": 3,
    "+": 4,
    "-": 4,
    "*": 5,
    "/": 5,
    "%": 6,
    "^": 6,
}
_GREEDY = ("%", "^")
RELATIONS = frozenset({"=", "!=", ">", ">=", "<", "<="})


def is_operator(kind: str) -> bool:
    """Whether a token of this kind can follow a number in arithmetic."""
    return kind in _PRECEDENCE or kind in RELATIONS


def at_arithmetic(stream: TokenStream) -> bool:
    """Whether the current token begins arithmetic."""
    kind = stream.token.kind
    if kind in (NUMBER, "len", "-"):
        return True
    return kind in keywords.PROTOCOLS and stream.peek().kind == "["


def arithmetic(
    stream: TokenStream, binding: int, left: ast.Arithmetic | None = None
) -> ast.Arithmetic:
    """Operands, and operators that bind tighter than `binding`."""
    stream.enter()
    if left is None:
        left = _operand(stream)
    while True:
        operator = stream.token.kind
        precedence = _PRECEDENCE.get(operator, 0)
        if precedence <= binding:
            break
        left = _binary(stream, left, 0 if operator in _GREEDY else precedence)
    stream.nesting -= 1
    return left


def _binary(
    stream: TokenStream, left: ast.Arithmetic, binding: int
) -> ast.Arithmetic:
    """The current operator and its right operand, behind `left`."""
    stream.operators += 1
    if stream.operators > _MAX_OPERATORS:
        stream.fail(f"more than {_MAX_OPERATORS} arithmetic operators")
    token = stream.advance()
    position = stream.token.position
    right = arithmetic(stream, binding)
    return ast.Binary(token.kind, left, right, position)


def _operand(stream: TokenStream) -> ast.Arithmetic:
    """A number, len, -x, (x) or protocol[...]."""
    token = stream.token
    kind = token.kind
    if kind == NUMBER:
        return ast.Number(stream.number())
    if kind in keywords.UNSUPPORTED:
        stream.unsupported(token)
    if kind == "len":
        stream.advance()
        return ast.Length()
    if kind == "-":
        stream.advance()
        stream.enter()
        operand = _operand(stream)
        while stream.token.kind in _GREEDY:
            operand = _binary(stream, operand, 0)
        stream.nesting -= 1
        return ast.Negative(operand)
    if kind == "(":
        stream.advance()
        inner = arithmetic(stream, 0)
        stream.expect(")")
        return inner
    if kind in keywords.PROTOCOLS:
        return _access(stream)
    stream.unexpected("a number, 'len' or 'protocol[offset]'")


def _access(stream: TokenStream) -> ast.Arithmetic:
    """protocol[offset:size]"""
    token = stream.advance()
    stream.expect("[")
    index = arithmetic(stream, 0)
    size = 1
    if stream.token.kind == ":":
        stream.advance()
        size_token = stream.token
        size = stream.number()
        if size not in (1, 2, 4):
            stream.invalid(size_token, "size", "it must be 1, 2 or 4")
    stream.expect("]")
    protocol = token.kind
    if protocol in keywords.LINK_NAMES:
        protocol = "ether"
    elif protocol in keywords.NO_ACCESS:
        stream.fail(
            f"the header of {token.text!r} cannot be accessed by offset", token
        )
    return ast.Access(protocol, index, size)
