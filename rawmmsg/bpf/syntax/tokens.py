"""Tokens, and a stream of them with the errors that can occur there."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from ..errors import FilterError, UnsupportedFilterError
from . import ast, keywords

__all__ = [
    "END",
    "IPV4",
    "IPV6",
    "MAC",
    "NAME",
    "NETWORK",
    "NUMBER",
    "Token",
    "TokenStream",
]

# The kinds of tokens that have a value. Every other token is a keyword or an
# operator, which is its kind.
NUMBER = "number"
IPV4 = "IPv4 address"
IPV6 = "IPv6 address"
MAC = "MAC address"
NAME = "name"
NETWORK = "network"
END = "end of the expression"

# Enough for a person, and far below Python's limit of recursion.
_MAX_NESTING = 50

_REMEDY = (
    ": use Program.from_tcpdump() with the output of tcpdump -i INTERFACE -ddd"
)

# Fields of Wireshark's display filters, which people try here.
_WIRESHARK = re.compile(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9_]*)+")
_WIRESHARK_FIELDS = {
    "ip.addr": "host ADDRESS",
    "ip.src": "src host ADDRESS",
    "ip.dst": "dst host ADDRESS",
    "ip.proto": "ip proto NUMBER",
    "ipv6.addr": "host ADDRESS",
    "ipv6.src": "src host ADDRESS",
    "ipv6.dst": "dst host ADDRESS",
    "eth.addr": "ether host ADDRESS",
    "eth.src": "ether src ADDRESS",
    "eth.dst": "ether dst ADDRESS",
    "eth.type": "ether proto NUMBER",
    "tcp.port": "tcp port NUMBER",
    "tcp.srcport": "tcp src port NUMBER",
    "tcp.dstport": "tcp dst port NUMBER",
    "udp.port": "udp port NUMBER",
    "udp.srcport": "udp src port NUMBER",
    "udp.dstport": "udp dst port NUMBER",
    "vlan.id": "vlan NUMBER",
    "frame.len": "len",
}


class Token(NamedTuple):
    """One token: `text` is what the user wrote, `value` what it means."""

    kind: str
    text: str
    position: int
    value: Any = None


class TokenStream:
    """Steps through the tokens of an expression."""

    def __init__(self, expression: str, tokens: Sequence[Token]) -> None:
        self.expression = expression
        self.list = tokens
        self.at = 0
        self.token = tokens[0]
        self.nesting = 0
        self.operators = 0
        self.leaves = 0

    def advance(self) -> Token:
        """Move to the next token; returns the current one."""
        token = self.token
        if token.kind != END:
            self.at += 1
            self.token = self.list[self.at]
        return token

    def peek(self) -> Token:
        """The token after the current one."""
        return self.list[min(self.at + 1, len(self.list) - 1)]

    def fail(self, reason: str, token: Token | None = None) -> NoReturn:
        """Raise FilterError at `token`, by default the current one."""
        where = self.token if token is None else token
        raise FilterError(reason, self.expression, where.position)

    def invalid(self, token: Token, what: str, why: str = "") -> NoReturn:
        """Raise FilterError for a token that is not a valid `what`."""
        reason = f"{token.text!r} is not a valid {what}"
        self.fail(f"{reason}: {why}" if why else reason, token)

    def unexpected(self, wanted: str) -> NoReturn:
        """Raise FilterError for a current token that cannot stand here."""
        token = self.token
        if token.kind in keywords.UNSUPPORTED:
            self.unsupported(token)
        if token.kind == NAME:
            self.fail(_unknown_word(token.text))
        found = repr(token.text) if token.text else f"the {token.kind}"
        self.fail(f"expected {wanted}, found {found}")

    def unsupported(self, token: Token, what: str | None = None) -> NoReturn:
        """Raise UnsupportedFilterError, by default for a keyword."""
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
        return int(self.expect(NUMBER).value)

    def leaf(self, primitive: ast.Primitive, token: Token) -> ast.Leaf:
        """The next primitive of the expression."""
        index = self.leaves
        self.leaves = index + 1
        self.operators = 0
        return ast.Leaf(primitive, index, token.position)

    def enter(self) -> None:
        """Count one more level of nesting."""
        self.nesting += 1
        if self.nesting > _MAX_NESTING:
            self.fail(f"more than {_MAX_NESTING} levels of nesting")


def _unknown_word(word: str) -> str:
    """The message for a word that is not a keyword, with a hint."""
    if word in keywords.KEYWORDS:
        return f"'\\{word}' is a name: write {word!r} for the keyword"
    reason = f"unknown word {word!r}"
    if word in _WIRESHARK_FIELDS:
        hint = f"write {_WIRESHARK_FIELDS[word]!r}"
        return f"{reason}: this is Wireshark's display syntax; {hint}"
    if _WIRESHARK.fullmatch(word):
        hint = "filters are written as in pcap-filter(7)"
        return f"{reason}: this looks like Wireshark's display syntax; {hint}"
    import difflib  # only needed for this error

    known = keywords.KEYWORDS - keywords.UNSUPPORTED.keys()
    known |= keywords.CONSTANTS.keys()
    similar = difflib.get_close_matches(word, sorted(known))
    if similar:
        # 'prot' probably means 'port', not 'proto'.
        best = min(similar, key=lambda each: sorted(each) != sorted(word))
        return f"{reason}: did you mean {best!r}?"
    return (
        f"{reason}: a name needs a qualifier such as 'host' or 'port' before "
        "it"
    )
