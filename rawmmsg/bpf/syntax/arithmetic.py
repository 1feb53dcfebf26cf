"""Arithmetic: numbers, operators, fields of the packet."""

from __future__ import annotations

from . import ast, keywords, lexer
from .tokens import Cursor

__all__ = ["RELATIONS", "arithmetic", "at_arithmetic", "is_operator"]

_MAX_OPERATORS = 100

# How tightly an operator binds. The reference grammar gives % and ^ no
# precedence: its parser takes them at once, and all that follows with them.
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


def at_arithmetic(cursor: Cursor) -> bool:
    """Whether the current token begins arithmetic."""
    kind = cursor.token.kind
    if kind in (lexer.NUMBER, "len", "-"):
        return True
    return kind in keywords.PROTOCOLS and cursor.peek().kind == "["


def arithmetic(
    cursor: Cursor, binding: int, left: ast.Arithmetic | None = None
) -> ast.Arithmetic:
    """Operands and operators that bind tighter than `binding`."""
    cursor.enter()
    if left is None:
        left = _operand(cursor)
    while True:
        operator = cursor.token.kind
        precedence = _PRECEDENCE.get(operator, 0)
        if precedence <= binding:
            break
        left = _binary(cursor, left, 0 if operator in _GREEDY else precedence)
    cursor.nesting -= 1
    return left


def _binary(
    cursor: Cursor, left: ast.Arithmetic, binding: int
) -> ast.Arithmetic:
    """The operator at the current token and what is right of it."""
    cursor.operators += 1
    if cursor.operators > _MAX_OPERATORS:
        cursor.fail(f"more than {_MAX_OPERATORS} arithmetic operators")
    token = cursor.advance()
    position = cursor.token.position
    right = arithmetic(cursor, binding)
    return ast.Binary(token.kind, left, right, position)


def _operand(cursor: Cursor) -> ast.Arithmetic:
    """A number, len, -x, (x) or protocol[...]."""
    token = cursor.token
    kind = token.kind
    if kind == lexer.NUMBER:
        return ast.Number(cursor.number())
    if kind in keywords.UNSUPPORTED:
        cursor.unsupported(token)
    if kind == "len":
        cursor.advance()
        return ast.Length()
    if kind == "-":
        cursor.advance()
        cursor.enter()
        operand = _operand(cursor)
        while cursor.token.kind in _GREEDY:
            operand = _binary(cursor, operand, 0)
        cursor.nesting -= 1
        return ast.Negative(operand)
    if kind == "(":
        cursor.advance()
        inner = arithmetic(cursor, 0)
        cursor.expect(")")
        return inner
    if kind in keywords.PROTOCOLS:
        return _access(cursor)
    cursor.unexpected("a number, 'len' or 'protocol[offset]'")


def _access(cursor: Cursor) -> ast.Arithmetic:
    """protocol[offset:size]"""
    token = cursor.advance()
    cursor.expect("[")
    index = arithmetic(cursor, 0)
    size = 1
    if cursor.token.kind == ":":
        cursor.advance()
        size_token = cursor.token
        size = cursor.number()
        if size not in (1, 2, 4):
            cursor.fail("the size is 1, 2 or 4 bytes", size_token)
    cursor.expect("]")
    protocol = token.kind
    if protocol in keywords.LINK_NAMES:
        protocol = "ether"
    elif protocol in keywords.NO_ACCESS:
        cursor.fail(f"{token.text}[...] is not possible", token)
    return ast.Access(protocol, index, size)
