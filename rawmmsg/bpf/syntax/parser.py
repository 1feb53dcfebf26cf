"""Tokens to a parse tree, every qualifier resolved.

The language is that of pcap-filter(7). `and` and `or` have one precedence
and associate to the left. An address, port or name without qualifiers
takes those of the primitive before it (`port 80 or 443`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, TypeAlias

from . import ast, keywords, lexer
from .arithmetic import RELATIONS, arithmetic, at_arithmetic, is_operator
from .lexer import Token
from .qualifiers import Qualifiers, Resolver
from .tokens import Cursor

__all__ = ["parse"]

_KINDS = frozenset({"host", "net", "port", "portrange", "proto"})
_IDENTIFIERS = frozenset(
    {lexer.IPV4, lexer.IPV6, lexer.MAC, lexer.NAME, lexer.NETWORK}
)
_ARITHMETIC_TYPES = (
    ast.Number,
    ast.Length,
    ast.Access,
    ast.Negative,
    ast.Binary,
)
_LIMITS = {
    "vlan": ("VLAN id", 4095),
    "mpls": ("MPLS label", 0xFFFFF),
    "pppoes": ("PPPoE session", 0xFFFF),
    "geneve": ("Geneve VNI", 0xFFFFFF),
    "vxlan": ("VXLAN VNI", 0xFFFFFF),
}


# What a term hands to the identifiers behind it; None: nothing to inherit.
Carried: TypeAlias = Qualifiers | None
Item: TypeAlias = ast.Expression | ast.Arithmetic


class _Parser:
    """Recursive descent over the tokens, a room for each kind of phrase."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.resolver = Resolver(cursor)

    def parse(self) -> ast.Expression | None:
        """The whole text, None when there is none."""
        if self.cursor.token.kind == lexer.END:
            return None
        item, _ = self.chain(None)
        if self.cursor.token.kind != lexer.END:
            self.cursor.unexpected("'and', 'or' or the end")
        if isinstance(item, _ARITHMETIC_TYPES):
            self.cursor.unexpected("a comparison")
        return item

    def chain(self, carried: Carried) -> tuple[Item, Carried]:
        """Terms with `and` and `or` between; or arithmetic, on its own."""
        first, carried = self.term(carried)
        if self.cursor.token.kind not in ("and", "or"):
            return first, carried
        first = self.boolean(first)
        rest = []
        while self.cursor.token.kind in ("and", "or"):
            operator = self.cursor.advance().kind
            if self.at_identifier():
                operand = self.identifier(carried)
            else:
                item, carried = self.term(carried)
                operand = self.boolean(item)
            rest.append((operator, operand))
        return ast.Chain(first, rest), carried

    def boolean(self, item: Item) -> ast.Expression:
        """The item, which must not be arithmetic."""
        if isinstance(item, _ARITHMETIC_TYPES):
            self.cursor.unexpected("a comparison")
        return item

    def at_identifier(self) -> bool:
        """Whether an address or number without qualifiers is next.

        A number, in parentheses or not, may also begin a comparison.
        """
        tokens = self.cursor.list
        at = start = self.cursor.at
        while tokens[at].kind in ("not", "("):
            at += 1
            if tokens[at - 1].kind == "not":
                start = at
        if tokens[at].kind != lexer.NUMBER:
            return tokens[at].kind in _IDENTIFIERS
        return not is_operator(tokens[self.behind_number(start)].kind)

    def behind_number(self, at: int) -> int:
        """Where a number ends, with the parentheses around it."""
        tokens = self.cursor.list
        opened = 0
        while tokens[at].kind == "(":
            at += 1
            opened += 1
        at += 1
        while opened and tokens[at].kind == ")":
            at += 1
            opened -= 1
        return at

    def term(self, carried: Carried) -> tuple[Item, Carried]:
        """A primitive or a parenthesis, with any number of `not`."""
        negations = self.negations()
        item, carried = self.operand(carried)
        if negations:
            item = self.boolean(item)
            if negations % 2:
                item = ast.Not(item)
        return item, carried

    def negations(self) -> int:
        """Skip `not`s; how many there were."""
        count = 0
        while self.cursor.token.kind == "not":
            self.cursor.advance()
            count += 1
        return count

    def operand(self, carried: Carried) -> tuple[Item, Carried]:
        """A primitive, a parenthesis or arithmetic."""
        token = self.cursor.token
        kind = token.kind
        if kind in keywords.UNSUPPORTED:
            self.cursor.unsupported(token)
        if kind == "(":
            return self.parenthesis(carried)
        if at_arithmetic(self.cursor):
            return self.relation(arithmetic(self.cursor, 0), token), None
        special = self.special(token)
        if special is not None:
            return self.cursor.leaf(special, token), None
        return self.qualified()

    def parenthesis(self, carried: Carried) -> tuple[Item, Carried]:
        """( expression ), or a comparison that begins with ( arithmetic ).

        What follows inherits what was carried up to here: the last of
        `port 80 or (arp) or 443` is a port.
        """
        opening = self.cursor.advance()
        self.cursor.enter()
        inner, _ = self.chain(carried)
        self.cursor.nesting -= 1
        self.cursor.expect(")")
        if isinstance(inner, _ARITHMETIC_TYPES):
            left = arithmetic(self.cursor, 0, inner)
            return self.relation(left, opening), None
        return inner, carried

    def relation(self, left: ast.Arithmetic, token: Token) -> Item:
        """left RELATION right; left itself if no relation follows."""
        if self.cursor.token.kind not in RELATIONS:
            if self.cursor.token.kind == ")" and self.cursor.nesting:
                return left
            self.cursor.unexpected("a comparison")
        operator = self.cursor.advance().kind
        right = arithmetic(self.cursor, 0)
        return self.cursor.leaf(ast.Relation(operator, left, right), token)

    def special(self, token: Token) -> ast.Primitive | None:
        """A primitive that takes no qualifiers, None if it is none."""
        kind = token.kind
        if kind in _LIMITS:
            return self.encapsulation()
        if kind == "pppoed":
            self.cursor.advance()
            return ast.EtherType(keywords.ETH_PPPOE_DISCOVERY)
        if kind in ("inbound", "outbound"):
            self.cursor.advance()
            return ast.Direction(kind == "outbound")
        if kind == "ifindex":
            self.cursor.advance()
            return ast.IfIndex(self.cursor.number())
        if kind in ("less", "greater"):
            self.cursor.advance()
            operator = "<=" if kind == "less" else ">="
            limit = ast.Number(self.cursor.number())
            return ast.Relation(operator, ast.Length(), limit)
        if kind == "byte":
            return self.byte()
        if kind == "llc":
            return self.llc()
        return None

    def encapsulation(self) -> ast.Primitive:
        """vlan, mpls, pppoes, geneve, vxlan, with an optional number."""
        keyword = self.cursor.advance()
        name, limit = _LIMITS[keyword.kind]
        number = None
        token = self.cursor.token
        if token.kind in (lexer.NUMBER, "("):
            number = self.parenthesised_number()
            if number > limit:
                self.cursor.fail(
                    f"{name} {number} is greater than {limit}", token
                )
        if keyword.kind == "vlan":
            return ast.Vlan(number)
        if keyword.kind == "mpls":
            return ast.Mpls(number)
        if keyword.kind == "pppoes":
            return ast.PppoeSession(number)
        return ast.Tunnel(keyword.kind, number)

    def parenthesised_number(self) -> int:
        """A number, which may stand in parentheses."""
        depth = 0
        while self.cursor.token.kind == "(":
            self.cursor.advance()
            depth += 1
        number = self.cursor.number()
        for _ in range(depth):
            self.cursor.expect(")")
        return number

    def llc(self) -> ast.Primitive:
        """llc [TYPE]: an IEEE 802.2 frame."""
        self.cursor.advance()
        token = self.cursor.token
        if token.text in keywords.LLC_TYPES:
            self.cursor.advance()
            return ast.Llc(*keywords.LLC_TYPES[token.text])
        if token.kind == lexer.NAME:
            self.cursor.fail(f"{token.text!r} is no type of LLC frame")
        return ast.Llc(0, 0)

    def byte(self) -> ast.Primitive:
        """byte OFFSET OPERATOR NUMBER: a byte of the link-layer header."""
        self.cursor.advance()
        access = ast.Access("ether", ast.Number(self.cursor.number()), 1)
        operator = self.cursor.advance()
        value = ast.Number(self.cursor.number())
        if operator.kind in ("=", "<", ">"):
            return ast.Relation(operator.kind, access, value)
        if operator.kind in ("&", "|"):
            masked = ast.Binary(
                operator.kind, access, value, operator.position
            )
            return ast.Relation("!=", masked, ast.Number(0))
        self.cursor.fail("expected one of = < > & |", operator)

    def qualified(self) -> tuple[ast.Expression, Carried]:
        """[protocol] [direction] [kind] identifier, or a protocol alone."""
        start = self.cursor.token
        protocol = None
        if start.kind in keywords.PROTOCOLS:
            protocol = self.cursor.advance().kind
            if protocol in keywords.LINK_NAMES:
                protocol = "ether"
        if self.cursor.token.kind in ("broadcast", "multicast"):
            return self.cursor.leaf(self.cast(protocol), start), None
        direction = self.direction()
        kind = None
        if self.cursor.token.kind in _KINDS:
            if self.cursor.token.kind == "proto" and direction:
                self.cursor.fail("'proto' takes no direction")
            kind = self.cursor.advance().kind
        if direction or kind:
            qualifiers = Qualifiers(protocol, direction or "or", kind)
            return self.identifier(qualifiers), qualifiers
        if protocol is None:
            self.missing_primitive()
        return self.cursor.leaf(self.protocol(protocol, start), start), None

    def missing_primitive(self) -> NoReturn:
        """Raise where a primitive should begin."""
        token = self.cursor.token
        if token.kind in _IDENTIFIERS:
            self.cursor.fail(
                f"{token.text!r} needs a qualifier such as 'host', 'net' "
                "or 'port' before it"
            )
        self.cursor.unexpected("a primitive")

    def direction(self) -> str | None:
        """src, dst, or both with `or` or `and` between."""
        if self.cursor.token.kind not in ("src", "dst"):
            return None
        first = self.cursor.advance().kind
        following = self.cursor.peek().kind
        if (
            self.cursor.token.kind in ("and", "or")
            and following in ("src", "dst")
            and following != first
        ):
            joined = self.cursor.advance().kind
            self.cursor.advance()
            return joined
        return first

    def protocol(self, protocol: str, token: Token) -> ast.Primitive:
        """A protocol's name as a primitive of its own."""
        if protocol in keywords.IP_PROTOCOLS:
            return ast.IpProtocol(*keywords.IP_PROTOCOLS[protocol])
        if protocol in keywords.ETHER_TYPES:
            return ast.EtherType(keywords.ETHER_TYPES[protocol])
        if protocol in keywords.ISO_PROTOCOLS:
            return ast.IsoProtocol(keywords.ISO_PROTOCOLS[protocol])
        self.cursor.fail(f"{token.text!r} alone is no test", token)

    def cast(self, protocol: str | None) -> ast.Primitive:
        """broadcast or multicast, of a layer."""
        token = self.cursor.advance()
        layer = protocol or "ether"
        if token.kind == "broadcast" and layer in ("ether", "ip"):
            return ast.Broadcast(layer)
        if token.kind == "multicast" and layer in ("ether", "ip", "ip6"):
            return ast.Multicast(layer)
        self.cursor.fail(f"there is no {protocol} {token.kind}", token)

    def identifier(self, qualifiers: Carried) -> ast.Expression:
        """An address, port or name, or a parenthesis of them."""
        negations = self.negations()
        if self.cursor.token.kind == "(":
            result = self.identifiers(qualifiers)
        else:
            token = self.cursor.token
            if token.kind not in _IDENTIFIERS and token.kind != lexer.NUMBER:
                self.missing_identifier(qualifiers)
            if qualifiers is None:
                self.missing_primitive_for(token)
            self.cursor.advance()
            result = self.cursor.leaf(
                self.resolver.resolve(qualifiers, token), token
            )
        return ast.Not(result) if negations % 2 else result

    def missing_identifier(self, qualifiers: Carried) -> NoReturn:
        """Raise where an identifier should be."""
        token = self.cursor.token
        name = token.text
        kind = qualifiers.kind if qualifiers else None
        if kind in ("proto", "port") and token.kind in keywords.KEYWORDS:
            self.cursor.fail(
                f"{name!r} is a keyword: write \\{name} for the name"
            )
        self.cursor.unexpected(
            {
                "port": "a port",
                "portrange": "a range of ports",
                "proto": "a protocol",
                "net": "a network",
            }.get(kind or "", "an address")
        )

    def missing_primitive_for(self, token: Token) -> NoReturn:
        """Raise for an identifier that inherits no qualifiers."""
        self.cursor.fail(
            f"{token.text!r} has no qualifier, and there is none before it "
            "to inherit",
            token,
        )

    def at_number(self) -> bool:
        """Whether a number in nothing but parentheses is next."""
        tokens = self.cursor.list
        start = at = self.cursor.at
        while tokens[at].kind == "(":
            at += 1
        closing = tokens[at + 1 : at + 1 + at - start]
        return tokens[at].kind == lexer.NUMBER and all(
            token.kind == ")" for token in closing
        )

    def identifiers(self, qualifiers: Carried) -> ast.Expression:
        """( identifier and|or identifier ... )

        As in the reference grammar, the first is in parentheses of its own
        only if it is a number.
        """
        self.cursor.advance()
        self.cursor.enter()
        if self.cursor.token.kind == "(" and not self.at_number():
            self.missing_identifier(qualifiers)
        first = self.identifier(qualifiers)
        rest = []
        while self.cursor.token.kind in ("and", "or"):
            operator = self.cursor.advance().kind
            rest.append((operator, self.identifier(qualifiers)))
        self.cursor.nesting -= 1
        self.cursor.expect(")")
        return ast.Chain(first, rest) if rest else first


def parse(
    expression: str, values: Sequence[object] = ()
) -> ast.Expression | None:
    """The parse tree of an expression, None for an empty one."""
    return _Parser(Cursor(expression, values)).parse()
