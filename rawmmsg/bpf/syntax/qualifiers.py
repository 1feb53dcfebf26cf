"""Makes primitives of qualifiers and an identifier.

Identifiers are addresses, networks, ports and protocols.
"""

from typing import NamedTuple

from . import ast, keywords
from .lexer import number as parse_number
from .tokens import IPV4, IPV6, MAC, NAME, NETWORK, NUMBER, Token, TokenStream

__all__ = ["Qualifiers", "Resolver"]

_PORT_KEYWORDS = {
    "tcp": keywords.IPPROTO_TCP,
    "udp": keywords.IPPROTO_UDP,
    "sctp": keywords.IPPROTO_SCTP,
}
_HOST_PROTOCOLS = ("ip", "arp", "rarp")


class Qualifiers(NamedTuple):
    """What stands before an identifier: [protocol] [direction] [kind]."""

    protocol: str | None
    direction: str
    kind: str | None


class Resolver:
    """Makes primitives of identifiers and their qualifiers."""

    def __init__(self, stream: TokenStream) -> None:
        self.stream = stream
        self.services: dict[str, tuple[int, tuple[int, ...]] | None] = {}

    def resolve(self, qualifiers: Qualifiers, token: Token) -> ast.Primitive:
        """The primitive for an identifier and its qualifiers."""
        kind = qualifiers.kind
        if kind == "port":
            return self.port(qualifiers, token)
        if kind == "portrange":
            return self.port_range(qualifiers, token)
        if kind == "proto":
            return self.proto(qualifiers, token)
        if token.kind == MAC:
            return self.mac(qualifiers, token)
        if token.kind == NAME:
            self.stream.fail(
                f"{token.text!r} is a name: host names are not looked up, so "
                "write the address",
                token,
            )
        if qualifiers.protocol == "ether":
            self.stream.invalid(token, "MAC address")
        address, mask, width = self.network(kind, token)
        if width == 128:
            return self.host6(qualifiers, token, address, mask)
        return self.host(qualifiers, token, address, mask)

    def network(self, kind: str | None, token: Token) -> tuple[int, int, int]:
        """The address, the mask and the width of an IP address or network."""
        value = token.value
        if token.kind == NETWORK:
            if kind != "net":
                self.stream.fail(
                    f"{token.text!r} is a network: it needs 'net' before it",
                    token,
                )
            return (
                int(value.network_address),
                int(value.netmask),
                value.max_prefixlen,
            )
        if token.kind == NUMBER:
            slashed = self.stream.token.kind in ("/", "mask")
            if kind == "net" or slashed:
                address, bits = _number_as_network(value)
            else:
                address, bits = value, 32
        else:
            address, bits = value
        width = 128 if token.kind == IPV6 else 32
        mask = self.mask(width)
        if mask is None:
            return address, _mask(bits, width), width
        if kind != "net" and mask != _mask(128, 128):
            self.stream.fail(
                "an address with a mask needs 'net' before it", token
            )
        if address & ~mask:
            self.stream.fail(
                f"{token.text!r} has bits set outside its mask", token
            )
        return address, mask, width

    def mask(self, width: int) -> int | None:
        """The mask of /LENGTH or `mask ADDRESS`. None without either."""
        if self.stream.token.kind == "/":
            self.stream.advance()
            token = self.stream.token
            length = self.stream.number()
            if length > width:
                why = f"the greatest is {width}"
                self.stream.invalid(token, "prefix length", why)
            return _mask(length, width)
        if self.stream.token.kind == "mask":
            if width == 128:
                self.stream.fail("write an IPv6 network as ADDRESS/LENGTH")
            self.stream.advance()
            token = self.stream.expect(IPV4)
            return int(token.value[0])
        return None

    def host(
        self, qualifiers: Qualifiers, token: Token, address: int, mask: int
    ) -> ast.Primitive:
        protocol = qualifiers.protocol
        if protocol is None:
            protocols: tuple[str, ...] = _HOST_PROTOCOLS
        elif protocol in _HOST_PROTOCOLS:
            protocols = (protocol,)
        else:
            self.stream.fail(f"{protocol!r} has no IPv4 addresses", token)
        return ast.Host(address, mask, protocols, qualifiers.direction)

    def host6(
        self, qualifiers: Qualifiers, token: Token, address: int, mask: int
    ) -> ast.Primitive:
        if qualifiers.protocol not in (None, "ip6"):
            self.stream.fail(
                f"{qualifiers.protocol!r} has no IPv6 addresses", token
            )
        return ast.Host6(address, mask, qualifiers.direction)

    def mac(self, qualifiers: Qualifiers, token: Token) -> ast.Primitive:
        if qualifiers.protocol != "ether" or qualifiers.kind == "net":
            self.stream.fail(
                "a MAC address needs 'ether host', 'ether src' or "
                "'ether dst' before it",
                token,
            )
        return ast.EtherHost(token.value, qualifiers.direction)

    def port_protocols(
        self, qualifiers: Qualifiers, token: Token
    ) -> tuple[int, ...]:
        """The protocols that the qualifiers allow."""
        protocol = qualifiers.protocol
        if protocol is None:
            return keywords.PORT_PROTOCOLS
        if protocol not in _PORT_KEYWORDS:
            self.stream.fail(f"{protocol!r} has no ports", token)
        return (_PORT_KEYWORDS[protocol],)

    def port(self, qualifiers: Qualifiers, token: Token) -> ast.Primitive:
        allowed = self.port_protocols(qualifiers, token)
        port, protocols = self.port_number(token, token.text, allowed)
        return ast.Port(port, None, protocols, qualifiers.direction)

    def service(self, name: str) -> tuple[int, tuple[int, ...]] | None:
        """A service by name, looked up once for each name."""
        if name not in self.services:
            self.services[name] = keywords.service_port(name)
        return self.services[name]

    def port_number(
        self, token: Token, text: str, allowed: tuple[int, ...]
    ) -> tuple[int, tuple[int, ...]]:
        """A port, by its number or its service's name, and its protocols."""
        if token.kind == NUMBER:
            if token.value > 0xFFFF:
                why = "the greatest is 65535"
                self.stream.invalid(token._replace(text=text), "port", why)
            return token.value, allowed
        if token.kind != NAME:
            self.stream.invalid(token, "port")
        found = self.service(text)
        if found is None:
            first, hyphen, last = text.partition("-")
            if hyphen and first.isdecimal() and last.isdecimal():
                why = f"write 'portrange {text}' for a range"
                self.stream.invalid(token, "port", why)
            why = "no service has this name"
            self.stream.invalid(token._replace(text=text), "port", why)
        port, known = found
        return port, self.common(token, text, allowed, known)

    def common(
        self,
        token: Token,
        text: str,
        allowed: tuple[int, ...],
        implied: tuple[int, ...],
    ) -> tuple[int, ...]:
        """The protocols that both the qualifiers and a name allow."""
        protocols = tuple(item for item in allowed if item in implied)
        if not protocols:
            self.stream.fail(
                f"{text!r} is the name of a service of another protocol", token
            )
        return protocols

    def port_range(
        self, qualifiers: Qualifiers, token: Token
    ) -> ast.Primitive:
        allowed = self.port_protocols(qualifiers, token)
        if token.kind == NUMBER and self.at_bound_range():
            self.stream.advance()
            low, protocols = self.port_number(token, token.text, allowed)
            last = self.stream.token
            if last.kind != NUMBER:
                self.stream.invalid(token, "range", "write FIRST-LAST")
            self.stream.advance()
            high, _ = self.port_number(last, last.text, allowed)
        elif token.kind == NAME:
            low, high, protocols = self.named_range(token, allowed)
        else:
            low, protocols = self.port_number(token, token.text, allowed)
            high = low
        low, high = min(low, high), max(low, high)
        return ast.Port(low, high, protocols, qualifiers.direction)

    def at_bound_range(self) -> bool:
        """Whether the current token is the hyphen of "{}-{}".

        Without placeholders, a range is one word.
        """
        token = self.stream.token
        around = self.stream.expression[token.position - 1 :][:3]
        return token.kind == "-" and ("}" in around or "{" in around)

    def named_range(
        self, token: Token, allowed: tuple[int, ...]
    ) -> tuple[int, int, tuple[int, ...]]:
        """FIRST-LAST in one word, each a number or the name of a service."""
        first, hyphen, last = token.text.partition("-")
        if not hyphen:
            self.stream.invalid(token, "range", "write FIRST-LAST")
        low, one = self.range_end(token, first)
        high, other = self.range_end(token, last)
        # The range implies a protocol only if both names imply the same.
        if one != other:
            return low, high, allowed
        return low, high, self.common(token, token.text, allowed, one)

    def range_end(
        self, token: Token, text: str
    ) -> tuple[int, tuple[int, ...]]:
        """One end of a range, and the protocols that its name implies."""
        number = parse_number(text)
        if number is None and text.isascii() and text.isdecimal():
            number = int(text[:20])  # 080 cannot be an octal number
        if number is not None:
            token = token._replace(kind=NUMBER, value=number)
        return self.port_number(token, text, keywords.PORT_PROTOCOLS)

    def proto(self, qualifiers: Qualifiers, token: Token) -> ast.Primitive:
        """proto NUMBER or NAME, at the layer of the qualifier."""
        protocol = qualifiers.protocol
        if protocol == "ether":
            number = self.proto_number(token, keywords.ETHER_TYPE_NAMES)
            return ast.EtherType(number)
        if protocol in ("isis", "is-is"):
            self.stream.unsupported(token, f"'{protocol} proto' (IS-IS)")
        if protocol == "iso":
            return ast.IsoProtocol(
                self.proto_number(token, keywords.ISO_PROTOCOLS)
            )
        if protocol not in (None, "ip", "ip6"):
            self.stream.fail(f"{protocol!r} has no protocol numbers", token)
        versions = ("ip", "ip6") if protocol is None else (protocol,)
        return ast.IpProtocol(self.proto_number(token, None), versions)

    def proto_number(self, token: Token, table: dict[str, int] | None) -> int:
        """A protocol by number, or by name in a table or the database."""
        if token.kind == NUMBER:
            return int(token.value)
        number = None
        if token.kind == NAME:
            if table is None:
                number = keywords.protocol_number(token.text)
            else:
                number = table.get(token.text)
        if number is None:
            self.stream.invalid(token, "protocol")
        return number


def _mask(bits: int, width: int) -> int:
    """A mask of `width` bits, the first `bits` of them set."""
    return ((1 << bits) - 1) << (width - bits)


def _number_as_network(number: int) -> tuple[int, int]:
    """A network given as one number: `net 10` is 10.0.0.0/8."""
    bits = 32
    while number and not number & 0xFF000000:
        number <<= 8
        bits -= 8
    return number, bits
