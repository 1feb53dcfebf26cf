"""A place in the list of tokens, and the errors that one can meet there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ..errors import FilterError, UnsupportedFilterError
from . import ast, keywords, lexer
from .lexer import Token, tokenize

__all__ = ["Cursor"]

# Enough for a person, and far from Python's recursion limit.
_MAX_NESTING = 50

_REMEDY = (
    "; Program.from_tcpdump() takes what tcpdump -i INTERFACE -ddd prints"
)


class Cursor:
    """Steps through the tokens of one expression."""

    def __init__(self, expression: str, values: Sequence[object]) -> None:
        self.expression = expression
        self.list = tokenize(expression, values)
        self.at = 0
        self.token = self.list[0]
        self.nesting = 0
        self.operators = 0
        self.leaves = 0

    def advance(self) -> Token:
        """The current token; moves to the next."""
        token = self.token
        if token.kind != lexer.END:
            self.at += 1
            self.token = self.list[self.at]
        return token

    def peek(self) -> Token:
        """The token after the current one."""
        return self.list[min(self.at + 1, len(self.list) - 1)]

    def fail(self, reason: str, token: Token | None = None) -> NoReturn:
        """Raise FilterError at `token`, the current one by default."""
        where = self.token if token is None else token
        raise FilterError(reason, self.expression, where.position)

    def unexpected(self, wanted: str) -> NoReturn:
        """Raise for a token that cannot stand here."""
        token = self.token
        if token.kind in keywords.UNSUPPORTED:
            self.unsupported(token)
        shown = repr(token.text) if token.text else f"the {token.kind}"
        self.fail(f"expected {wanted}, not {shown}")

    def unsupported(self, token: Token, what: str | None = None) -> NoReturn:
        """Raise for something that is left out, a keyword by default."""
        if what is None:
            what = f"{token.text!r} ({keywords.UNSUPPORTED[token.kind]})"
        raise UnsupportedFilterError(
            f"{what} is not supported{_REMEDY}",
            self.expression,
            token.position,
        )

    def expect(self, kind: str) -> Token:
        """The current token, which must be of this kind."""
        if self.token.kind != kind:
            article = "an" if kind[0] in "aeiouI" else "a"
            self.unexpected(
                repr(kind) if len(kind) == 1 else f"{article} {kind}"
            )
        return self.advance()

    def number(self) -> int:
        """A number."""
        value = self.expect(lexer.NUMBER).value
        assert isinstance(value, int)
        return value

    def leaf(self, primitive: ast.Primitive, token: Token) -> ast.Leaf:
        """The next primitive of the expression."""
        index = self.leaves
        self.leaves = index + 1
        self.operators = 0
        return ast.Leaf(primitive, index, token.position)

    def enter(self) -> None:
        """One more pair of brackets or right-hand side."""
        self.nesting += 1
        if self.nesting > _MAX_NESTING:
            self.fail(f"nested more than {_MAX_NESTING} deep")
