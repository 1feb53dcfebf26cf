"""Makes a parse tree of tokens, with all qualifiers resolved.

The language is that of pcap-filter(7). `and` and `or` have the same precedence
and associate to the left. An address, port or name without qualifiers takes
those of the primitive before it (`port 80 or 443`).
"""

from collections.abc import Sequence
from typing import NoReturn, TypeAlias

from . import ast, keywords
from .arithmetic import RELATIONS, arithmetic, at_arithmetic, is_operator
from .lexer import tokenize
from .qualifiers import Qualifiers, Resolver
from .tokens import (
    END,
    IPV4,
    IPV6,
    MAC,
    NAME,
    NETWORK,
    NUMBER,
    Token,
    TokenStream,
)

__all__ = ["parse"]

_KINDS = frozenset({"host", "net", "port", "portrange", "proto"})
_IDENTIFIERS = frozenset({IPV4, IPV6, MAC, NAME, NETWORK})
_ADDRESSES = _IDENTIFIERS - {NAME}
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


# The qualifiers that the identifiers behind a term inherit, if any.
Carried: TypeAlias = Qualifiers | None
Item: TypeAlias = ast.Expression | ast.Arithmetic


class _Parser:
    """Parses by recursive descent, with a method for each kind of phrase."""

    def __init__(self, stream: TokenStream) -> None:
        self.stream = stream
        self.resolver = Resolver(stream)

    def parse(self) -> ast.Expression | None:
        """The whole expression. None if it is empty."""
        if self.stream.token.kind == END:
            return None
        item, _ = self.chain(None)
        if self.stream.token.kind != END:
            self.stream.unexpected("'and', 'or' or the end")
        if isinstance(item, _ARITHMETIC_TYPES):
            self.stream.unexpected("a comparison")
        return item

    def chain(self, carried: Carried) -> tuple[Item, Carried]:
        """Terms with `and` and `or` in between, or arithmetic alone."""
        first, carried = self.term(carried)
        if self.stream.token.kind not in ("and", "or"):
            return first, carried
        first = self.boolean(first)
        rest = []
        while self.stream.token.kind in ("and", "or"):
            operator = self.stream.advance().kind
            if self.at_identifier():
                operand = self.identifier(carried)
            else:
                item, carried = self.term(carried)
                operand = self.boolean(item)
            rest.append((operator, operand))
        return ast.Chain(first, rest), carried

    def boolean(self, item: Item) -> ast.Expression:
        """The item. Raise FilterError if it is arithmetic."""
        if isinstance(item, _ARITHMETIC_TYPES):
            self.stream.unexpected("a comparison")
        return item

    def at_identifier(self) -> bool:
        """Whether the next term is an address or number without qualifiers.

        A number, in parentheses or not, may also begin a comparison.
        """
        tokens = self.stream.list
        at = start = self.stream.at
        while tokens[at].kind in ("not", "("):
            at += 1
            if tokens[at - 1].kind == "not":
                start = at
        if tokens[at].kind != NUMBER:
            return tokens[at].kind in _IDENTIFIERS
        return not is_operator(tokens[self.behind_number(start)].kind)

    def behind_number(self, at: int) -> int:
        """The index behind a number and the parentheses around it."""
        tokens = self.stream.list
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
        """A primitive or a parenthesis, behind any number of `not`."""
        negations = self.negations()
        item, carried = self.operand(carried)
        if negations:
            item = self.boolean(item)
            if negations % 2:
                item = ast.Not(item)
        return item, carried

    def negations(self) -> int:
        """Skip `not`s; returns how many."""
        count = 0
        while self.stream.token.kind == "not":
            self.stream.advance()
            count += 1
        return count

    def operand(self, carried: Carried) -> tuple[Item, Carried]:
        """A primitive, a parenthesis or arithmetic."""
        token = self.stream.token
        kind = token.kind
        if kind in keywords.UNSUPPORTED:
            self.stream.unsupported(token)
        if kind == "(":
            return self.parenthesis(carried)
        if at_arithmetic(self.stream):
            return self.relation(arithmetic(self.stream, 0), token), None
        special = self.special(token)
        if special is not None:
            return self.stream.leaf(special, token), None
        return self.qualified()

    def parenthesis(self, carried: Carried) -> tuple[Item, Carried]:
        """( expression ), or a comparison that begins with ( arithmetic ).

        What follows inherits the qualifiers from before the parenthesis: 443
        in `port 80 or (arp) or 443` is a port.
        """
        opening = self.stream.advance()
        self.stream.enter()
        inner, _ = self.chain(carried)
        self.stream.nesting -= 1
        self.stream.expect(")")
        if isinstance(inner, _ARITHMETIC_TYPES):
            left = arithmetic(self.stream, 0, inner)
            return self.relation(left, opening), None
        return inner, carried

    def relation(self, left: ast.Arithmetic, token: Token) -> Item:
        """left RELATION right, or just left if a parenthesis ends here."""
        if self.stream.token.kind not in RELATIONS:
            if self.stream.token.kind == ")" and self.stream.nesting:
                return left
            self.stream.unexpected("a comparison")
        operator = self.stream.advance().kind
        right = arithmetic(self.stream, 0)
        return self.stream.leaf(ast.Relation(operator, left, right), token)

    def special(self, token: Token) -> ast.Primitive | None:
        """A primitive that takes no qualifiers. None if there is none here."""
        kind = token.kind
        if kind in _LIMITS:
            return self.encapsulation()
        if kind == "pppoed":
            self.stream.advance()
            return ast.EtherType(keywords.ETH_PPPOE_DISCOVERY)
        if kind in ("inbound", "outbound"):
            self.stream.advance()
            return ast.Direction(kind == "outbound")
        if kind == "ifindex":
            self.stream.advance()
            return ast.IfIndex(self.stream.number())
        if kind in ("less", "greater"):
            self.stream.advance()
            operator = "<=" if kind == "less" else ">="
            limit = ast.Number(self.stream.number())
            return ast.Relation(operator, ast.Length(), limit)
        if kind == "byte":
            return self.byte()
        if kind == "llc":
            return self.llc()
        return None

    def encapsulation(self) -> ast.Primitive:
        """vlan, mpls, pppoes, geneve, vxlan, with an optional number."""
        keyword = self.stream.advance()
        name, limit = _LIMITS[keyword.kind]
        number = None
        token = self.stream.token
        if token.kind in (NUMBER, "("):
            number = self.parenthesised_number()
            if number > limit:
                why = f"the greatest is {limit}"
                self.stream.invalid(
                    token._replace(text=str(number)), name, why
                )
        if keyword.kind == "vlan":
            return ast.Vlan(number)
        if keyword.kind == "mpls":
            return ast.Mpls(number)
        if keyword.kind == "pppoes":
            return ast.PppoeSession(number)
        return ast.Tunnel(keyword.kind, number)

    def parenthesised_number(self) -> int:
        """A number, perhaps in parentheses."""
        depth = 0
        while self.stream.token.kind == "(":
            self.stream.advance()
            depth += 1
        number = self.stream.number()
        for _ in range(depth):
            self.stream.expect(")")
        return number

    def llc(self) -> ast.Primitive:
        """llc [TYPE]: an IEEE 802.2 frame."""
        self.stream.advance()
        token = self.stream.token
        if token.text in keywords.LLC_TYPES:
            self.stream.advance()
            return ast.Llc(*keywords.LLC_TYPES[token.text])
        if token.kind == NAME:
            self.stream.invalid(token, "type of LLC frame")
        return ast.Llc(0, 0)

    def byte(self) -> ast.Primitive:
        """byte OFFSET OPERATOR NUMBER: a byte of the link-layer header."""
        self.stream.advance()
        access = ast.Access("ether", ast.Number(self.stream.number()), 1)
        if self.stream.token.kind not in ("=", "<", ">", "&", "|"):
            self.stream.unexpected("one of = < > & |")
        operator = self.stream.advance()
        value = ast.Number(self.stream.number())
        if operator.kind in ("=", "<", ">"):
            return ast.Relation(operator.kind, access, value)
        masked = ast.Binary(operator.kind, access, value, operator.position)
        return ast.Relation("!=", masked, ast.Number(0))

    def qualified(self) -> tuple[ast.Expression, Carried]:
        """[protocol] [direction] [kind] identifier, or a protocol alone."""
        start = self.stream.token
        protocol = None
        if start.kind in keywords.PROTOCOLS:
            protocol = self.stream.advance().kind
            if protocol in keywords.LINK_NAMES:
                protocol = "ether"
        if self.stream.token.kind in ("broadcast", "multicast"):
            return self.stream.leaf(self.cast(protocol), start), None
        direction = self.direction()
        kind = None
        if self.stream.token.kind in _KINDS:
            if self.stream.token.kind == "proto" and direction:
                self.stream.fail("'proto' cannot follow 'src' or 'dst'")
            kind = self.stream.advance().kind
        if direction or kind:
            qualifiers = Qualifiers(protocol, direction or "or", kind)
            return self.identifier(qualifiers), qualifiers
        if protocol is None:
            if self.stream.token.kind in _ADDRESSES:
                self.missing_qualifier(self.stream.token)
            self.stream.unexpected("a primitive")
        return self.stream.leaf(self.protocol(protocol, start), start), None

    def direction(self) -> str | None:
        """src, dst, or both with `or` or `and` in between."""
        if self.stream.token.kind not in ("src", "dst"):
            return None
        first = self.stream.advance().kind
        following = self.stream.peek().kind
        if (
            self.stream.token.kind in ("and", "or")
            and following in ("src", "dst")
            and following != first
        ):
            joined = self.stream.advance().kind
            self.stream.advance()
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
        self.stream.fail(
            f"{token.text!r} needs a qualifier such as 'host' or 'proto' "
            "after it",
            token,
        )

    def cast(self, protocol: str | None) -> ast.Primitive:
        """broadcast or multicast, of a layer."""
        token = self.stream.advance()
        layer = protocol or "ether"
        if token.kind == "broadcast" and layer in ("ether", "ip"):
            return ast.Broadcast(layer)
        if token.kind == "multicast" and layer in ("ether", "ip", "ip6"):
            return ast.Multicast(layer)
        self.stream.fail(f"{protocol!r} has no {token.kind} addresses", token)

    def identifier(self, qualifiers: Carried) -> ast.Expression:
        """An address, port or name, or a parenthesis of them."""
        negations = self.negations()
        if self.stream.token.kind == "(":
            result = self.identifiers(qualifiers)
        else:
            token = self.stream.token
            if token.kind not in _IDENTIFIERS and token.kind != NUMBER:
                self.missing_identifier(qualifiers)
            if qualifiers is None:
                self.missing_qualifier(token)
            self.stream.advance()
            result = self.stream.leaf(
                self.resolver.resolve(qualifiers, token), token
            )
        return ast.Not(result) if negations % 2 else result

    def missing_identifier(self, qualifiers: Carried) -> NoReturn:
        """Raise FilterError where an identifier should be."""
        token = self.stream.token
        name = token.text
        kind = qualifiers.kind if qualifiers else None
        if kind in ("proto", "port") and token.kind in keywords.KEYWORDS:
            self.stream.fail(
                f"{name!r} is a keyword: write '\\{name}' for the name"
            )
        self.stream.unexpected(
            {
                "port": "a port",
                "portrange": "a range of ports",
                "proto": "a protocol",
                "net": "a network",
            }.get(kind or "", "an address")
        )

    def missing_qualifier(self, token: Token) -> NoReturn:
        """Raise FilterError for an identifier without any qualifiers."""
        if token.kind == NAME:
            self.stream.unexpected("a primitive")
        self.stream.fail(
            f"{token.text!r} needs a qualifier such as 'host', 'net' or "
            "'port' before it",
            token,
        )

    def at_number(self) -> bool:
        """Whether the next phrase is a number in parentheses, and no more."""
        tokens = self.stream.list
        start = at = self.stream.at
        while tokens[at].kind == "(":
            at += 1
        end = at + 1 + (at - start)
        return tokens[at].kind == NUMBER and self.behind_number(start) == end

    def identifiers(self, qualifiers: Carried) -> ast.Expression:
        """( identifier and|or identifier ... )

        As in libpcap's grammar, the first one may only be in parentheses of
        its own if it is a number.
        """
        self.stream.advance()
        self.stream.enter()
        if self.stream.token.kind == "(" and not self.at_number():
            self.missing_identifier(qualifiers)
        first = self.identifier(qualifiers)
        rest = []
        while self.stream.token.kind in ("and", "or"):
            operator = self.stream.advance().kind
            rest.append((operator, self.identifier(qualifiers)))
        self.stream.nesting -= 1
        self.stream.expect(")")
        return ast.Chain(first, rest) if rest else first


def parse(
    expression: str, values: Sequence[object] = ()
) -> ast.Expression | None:
    """The parse tree of an expression. None if it is empty."""
    stream = TokenStream(expression, tokenize(expression, values))
    return _Parser(stream).parse()
