"""Divides an expression into tokens."""

import re
from collections.abc import Sequence

from ..errors import FilterError
from .keywords import CONSTANTS, KEYWORDS
from .tokens import END, IPV4, IPV6, MAC, NAME, NETWORK, NUMBER, Token

__all__ = ["number", "tokenize"]

_SCANNER = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<colons>[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,}(?:\.\d+){0,3})
  | (?P<word>[A-Za-z0-9](?:[-_.A-Za-z0-9]*[.A-Za-z0-9])?)
  | \\(?P<escaped>[^ !()\t\r\n]+)
  | (?P<placeholder>\{\})
  | (?P<operator>&&|\|\||<<|>>|<=|>=|==|!=|[-+*/%&|^<>=!()\[\]:])
    """,
    re.VERBOSE,
)
_SYNONYMS = {
    "&&": "and",
    "||": "or",
    "!": "not",
    "==": "=",
    "length": "len",
}
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]+|[0-9]+")
_DOTTED = re.compile(r"[0-9]+(\.[0-9]+)+")
_MAC_FORMS = re.compile(
    r"""
    [0-9A-Fa-f]{12}
  | [0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}
  | [0-9A-Fa-f]{1,2}(?:([-.:])[0-9A-Fa-f]{1,2})(?:\1[0-9A-Fa-f]{1,2}){4}
    """,
    re.VERBOSE,
)


def number(text: str) -> int | None:
    """A number in the notation of C: decimal, hexadecimal or octal."""
    if not _NUMBER.fullmatch(text):
        return None
    if text[1:2] in ("x", "X"):
        return int(text[:20], 16)
    try:
        # Twenty digits are more than 32 bits need.
        return int(text[:20], 8 if text[0] == "0" else 10)
    except ValueError:
        return None


def _mac(text: str) -> bytes | None:
    if not _MAC_FORMS.fullmatch(text):
        return None
    groups = re.split("[-.:]", text)
    width = 2 if len(groups) == 6 else 4
    return bytes.fromhex("".join(group.zfill(width) for group in groups))


class _Lexer:
    def __init__(self, expression: str, values: Sequence[object]) -> None:
        self.expression = expression
        self.values = list(values)
        self.used = 0

    def error(self, reason: str, position: int) -> FilterError:
        return FilterError(reason, self.expression, position)

    def tokens(self) -> list[Token]:
        """All tokens, and an END behind them."""
        result: list[Token] = []
        expression = self.expression
        match_at = _SCANNER.match
        position = 0
        while position < len(expression):
            match = match_at(expression, position)
            if match is None:
                shown = expression[position]
                reason = f"unexpected character {shown!r}"
                if shown in "{}":
                    reason += ": a placeholder is '{}'"
                raise self.error(reason, position)
            kind = match.lastgroup
            if kind == "word":
                result.append(self._word(match[0], position))
            elif kind == "operator":
                text = match[0]
                result.append(Token(_SYNONYMS.get(text, text), text, position))
            elif kind != "space":
                result.append(self._rare(kind, match, position))
            position = match.end()
        if self.used != len(self.values):
            raise self.error(
                "the numbers of values and placeholders differ: "
                f"{len(self.values)} and {self.used}",
                len(expression),
            )
        result.append(Token(END, "", len(expression)))
        return result

    def _rare(
        self, kind: str | None, match: re.Match[str], position: int
    ) -> Token:
        if kind == "colons":
            return self._colons(match[0], position)
        if kind == "escaped":
            return Token(NAME, match["escaped"], position)
        return self._placeholder(position)

    def _word(self, text: str, position: int) -> Token:
        if text in KEYWORDS:
            return Token(_SYNONYMS.get(text, text), text, position)
        first = text[0]
        if first.isdigit() or len(text) >= 11:
            mac = _mac(text)
            if mac is not None:
                return Token(MAC, text, position, mac)
            if _NUMBER.fullmatch(text):
                return self._number(text, position)
            if _DOTTED.fullmatch(text):
                return self._dotted(text, position)
        if text in CONSTANTS:
            return Token(NUMBER, text, position, CONSTANTS[text])
        return Token(NAME, text, position)

    def _number(self, text: str, position: int) -> Token:
        value = number(text)
        if value is None:
            raise self.error(
                f"{text!r} is not a valid number: a leading 0 means octal",
                position,
            )
        if value > 0xFFFFFFFF:
            raise self.error(_too_large(text), position)
        return Token(NUMBER, text, position, value)

    def _dotted(self, text: str, position: int) -> Token:
        """A whole or partial IPv4 address, of decimal numbers."""
        parts = text.split(".")
        if len(parts) > 4 or any(
            len(part) > 8 or int(part) > 255 for part in parts
        ):
            raise self.error(f"{text!r} is not a valid IPv4 address", position)
        bits = 8 * len(parts)
        address = int.from_bytes(bytes(map(int, parts)), "big") << 32 - bits
        return Token(IPV4, text, position, (address, bits))

    def _colons(self, text: str, position: int) -> Token:
        mac = _mac(text)
        if mac is not None:
            return Token(MAC, text, position, mac)
        import socket  # only needed for IPv6

        try:
            packed = socket.inet_pton(socket.AF_INET6, text)
        except OSError:
            raise self.error(
                f"{text!r} is not a valid IPv6 or MAC address", position
            ) from None
        address = int.from_bytes(packed, "big")
        return Token(IPV6, text, position, (address, 128))

    def _placeholder(self, position: int) -> Token:
        if self.used >= len(self.values):
            raise self.error(
                "there is no value for this placeholder", position
            )
        value = self.values[self.used]
        self.used += 1
        kind, meaning = self._bind(value, position)
        return Token(kind, str(value), position, meaning)

    def _bind(self, value: object, position: int) -> tuple[str, object]:
        """The kind and the meaning of a value for a placeholder."""
        import ipaddress

        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value <= 0xFFFFFFFF:
                return NUMBER, int(value)
            raise self.error(_too_large(str(int(value))), position)
        if isinstance(value, ipaddress.IPv4Address):
            return IPV4, (int(value), 32)
        if isinstance(value, ipaddress.IPv6Address):
            if value.scope_id is not None:
                raise self.error(
                    f"'{value}' has a scope, which filters cannot test",
                    position,
                )
            return IPV6, (int(value), 128)
        if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
            return NETWORK, value
        if isinstance(value, bytes | bytearray):
            address = bytes(value)
            if len(address) == 6:
                return MAC, address
        raise self.error(
            "a value must be an int, an ipaddress object or a MAC address of "
            f"6 bytes, not {type(value).__name__}",
            position,
        )


def _too_large(text: str) -> str:
    return f"{text!r} is not a valid number: it must fit in 32 bits"


def tokenize(expression: str, values: Sequence[object] = ()) -> list[Token]:
    """The tokens of an expression. Each `{}` takes one of `values`."""
    return _Lexer(expression, values).tokens()
