"""hypothesis strategies for filter expressions: mostly valid ones, with values
that occur in the structured traffic.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Text = SearchStrategy[str]

HOSTS4 = (
    "10.0.0.1",
    "192.168.1.2",
    "172.16.5.9",
    "224.0.0.251",
    "255.255.255.255",
    "0.0.0.0",
)
HOSTS6 = ("2001:db8::1", "2001:db8::2", "fe80::1", "ff02::fb", "::", "::1")
NETS4 = (
    "10",
    "10.0",
    "192.168",
    "192.168.1",
    "172.16.0.0/12",
    "10.0.0.0/8",
    "192.168.1.2/31",
    "0.0.0.0/0",
    "10.0.0.0 mask 255.0.0.0",
    "192.168.1.0 mask 255.255.255.0",
    "224.0.0.0/4",
    "128.0.0.0/1",
)
NETS6 = (
    "2001:db8::/32",
    "2001:db8::/33",
    "fe80::/10",
    "ff00::/8",
    "::/0",
    "2001:db8::2/127",
    "2001:db8::/64",
)
MACS = (
    "02:00:00:00:00:01",
    "02:00:00:00:00:02",
    "ff:ff:ff:ff:ff:ff",
    "01:00:5e:00:00:01",
)
PORTS = (
    "80",
    "53",
    "443",
    "22",
    "0",
    "65535",
    "40000",
    "6081",
    "1024",
    "(80)",
)
RANGES = ("80-443", "0-65535", "443-80", "53-53", "6000-6008", "1024-65535")
PROTOCOLS = (
    "6",
    "17",
    "1",
    "58",
    "132",
    "44",
    "0",
    "255",
    r"\tcp",
    r"\udp",
    r"\icmp",
    r"\sctp",
)
ETHERTYPES = (
    "0x800",
    "0x806",
    "0x86dd",
    "0x8100",
    r"\ip",
    r"\arp",
    "0x8847",
    "0x88cc",
    "1500",
    "0x42",
    r"\ip6",
    "6",
    "0xfe",
    r"\stp",
)
WORDS = (
    "ip",
    "ip6",
    "arp",
    "rarp",
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "icmp6",
    "igmp",
    "esp",
    "ah",
    "pim",
    "vrrp",
    "carp",
    "broadcast",
    "multicast",
    "ether broadcast",
    "ether multicast",
    "ip multicast",
    "ip6 multicast",
    "less 60",
    "greater 60",
    "less 100",
    "greater 1000",
    "pppoed",
    "llc",
    "llc ui",
    "llc s",
    "stp",
    "iso",
    "ipx",
    "atalk",
    "aarp",
    "netbeui",
    "igrp",
    "lat",
    "inbound",
    "ifindex 3",
)
ENCAPSULATIONS = (
    "vlan",
    "vlan 100",
    "vlan 200",
    "mpls",
    "mpls 1024",
    "mpls 100000",
    "pppoes",
    "pppoes 0x27",
    "geneve",
    "geneve 11",
    "geneve 5",
)
RELATIONS = ("=", "==", "!=", "<", ">", "<=", ">=")
OPERATORS = ("+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>")
FIELDS = (
    "ip[0]",
    "ip[8]",
    "ip[9]",
    "ip[2:2]",
    "ip[6:2]",
    "ip[12:4]",
    "ip[16:4]",
    "ether[0]",
    "ether[12:2]",
    "tcp[tcpflags]",
    "tcp[13]",
    "tcp[0:2]",
    "tcp[2:2]",
    "tcp[12]",
    "udp[0:2]",
    "udp[4:2]",
    "udp[8:4]",
    "icmp[icmptype]",
    "icmp[icmpcode]",
    "icmp6[icmp6type]",
    "ip6[6]",
    "ip6[4:2]",
    "ip6[40]",
    "arp[6:2]",
    "sctp[0:2]",
    "igmp[0]",
    "len",
    "ether[14]",
    "ip[1]",
    "vrrp[0]",
    "pim[0]",
    "link[6:4]",
)
CONSTANTS = (
    "0",
    "1",
    "2",
    "5",
    "6",
    "15",
    "16",
    "17",
    "20",
    "64",
    "80",
    "255",
    "0xf",
    "0xf0",
    "0x1fff",
    "0x800",
    "1024",
    "tcp-syn",
    "tcp-ack",
    "(tcp-syn|tcp-fin)",
    "icmp-echo",
    "0x0a000001",
    "0xffffffff",
    "0x80000000",
)
SMALL = ("0", "1", "2", "4", "8", "31")


def one_of(*options: str) -> Text:
    """One of these words."""
    return st.sampled_from(options)


def _join(*parts: Text) -> Text:
    return st.tuples(*parts).map(
        lambda words: " ".join(word for word in words if word)
    )


def _direction() -> Text:
    return one_of("", "", "src", "dst", "src or dst", "src and dst")


def _operand() -> Text:
    """The right operand of a division or shift: a constant that every compiler
    accepts.
    """
    return one_of("1", "2", "3", "4", "8", "16", "31")


def arithmetic() -> Text:
    """An arithmetic expression over fields and constants."""
    fields = st.sampled_from(FIELDS)
    leaf = st.one_of(fields, fields, st.sampled_from(CONSTANTS))

    def grow(inner: Text) -> Text:
        plain = st.tuples(inner, one_of("+", "-", "*", "&", "|", "^"), inner)
        by_constant = st.tuples(inner, st.sampled_from(OPERATORS), _operand())
        by_field = st.tuples(inner, one_of("/", "%"), fields)
        joined = st.one_of(plain, by_constant, by_field).map(" ".join)
        indexed = st.tuples(
            one_of("ip", "ether", "tcp", "udp", "ip6", "icmp"),
            inner,
            one_of("", ":2", ":4", ":1"),
        ).map(lambda t: f"{t[0]}[{t[1]}{t[2]}]")
        return st.one_of(joined, joined.map("({})".format), indexed)

    return st.recursive(leaf, grow, max_leaves=4)


def relation() -> Text:
    """Two arithmetic expressions compared."""
    compared = st.one_of(
        st.sampled_from(CONSTANTS), st.sampled_from(CONSTANTS), arithmetic()
    )
    return _join(arithmetic(), st.sampled_from(RELATIONS), compared)


def primitive() -> Text:
    """One test, with all its qualifiers."""
    four = _join(
        one_of("", "ip", "arp", "rarp"),
        _direction(),
        one_of("host"),
        st.sampled_from(HOSTS4),
    )
    six = _join(
        one_of("", "ip6"),
        _direction(),
        one_of("host"),
        st.sampled_from(HOSTS6),
    )
    net4 = _join(
        one_of("", "ip", "arp"),
        _direction(),
        one_of("net"),
        st.sampled_from(NETS4),
    )
    net6 = _join(
        one_of("", "ip6"), _direction(), one_of("net"), st.sampled_from(NETS6)
    )
    transport = one_of("", "", "tcp", "udp", "sctp")
    port = _join(
        transport, _direction(), one_of("port"), st.sampled_from(PORTS)
    )
    portrange = _join(
        transport, _direction(), one_of("portrange"), st.sampled_from(RANGES)
    )
    mac = _join(
        one_of("ether"), _direction(), one_of("host"), st.sampled_from(MACS)
    )
    proto = _join(
        one_of("ip", "ip6", ""), one_of("proto"), st.sampled_from(PROTOCOLS)
    )
    ethertype = _join(one_of("ether proto"), st.sampled_from(ETHERTYPES))
    words = st.sampled_from(WORDS)
    return st.one_of(
        words,
        words,
        four,
        six,
        net4,
        net6,
        port,
        port,
        portrange,
        mac,
        proto,
        ethertype,
        relation(),
    )


def carried() -> Text:
    """Several values after one set of qualifiers."""
    kinds = st.sampled_from(
        [
            ("host", HOSTS4),
            ("port", PORTS),
            ("net", ("10.0", "192.168", "10.0.0.0/8")),
            ("portrange", RANGES),
        ]
    )

    def values(kind: tuple[str, tuple[str, ...]]) -> Text:
        name, choices = kind
        more = st.lists(
            st.sampled_from(choices), min_size=2, max_size=4, unique=True
        )
        prefixes = {
            "port": ("", "tcp", "udp"),
            "portrange": ("", "tcp"),
            "host": ("", "ip"),
            "net": ("", "ip"),
        }
        listed = st.one_of(
            more.map(" or ".join),
            more.map(" or ".join).map("({})".format),
            more.map(" and ".join),
        )
        return _join(
            one_of(*prefixes[name]),
            one_of("", "src", "dst", "src or dst"),
            one_of(name),
            listed,
        )

    return kinds.flatmap(values)


def _connected(inner: Text) -> Text:
    glue = one_of("and", "or", "and", "or", "&&", "||", "and not", "or not")
    joined = st.tuples(inner, glue, inner).map(" ".join)
    negated = st.tuples(one_of("not ", "!", "! "), inner).map(
        lambda t: f"{t[0]}({t[1]})"
    )
    return st.one_of(
        joined,
        joined,
        joined.map("({})".format),
        negated,
        inner.map("({})".format),
    )


def plain() -> Text:
    """Expressions in which no primitive moves the offsets."""
    return st.recursive(
        st.one_of(primitive(), primitive(), carried()),
        _connected,
        max_leaves=6,
    )


def encapsulated() -> Text:
    """Expressions in which ``vlan``, ``mpls``, ``pppoes`` or ``geneve`` move
    the offsets of what follows.
    """
    leaf = st.one_of(st.sampled_from(ENCAPSULATIONS), primitive())
    tail = st.recursive(leaf, _connected, max_leaves=4)
    glue = one_of("and", "and", "and", "or", "and not")
    return st.tuples(st.sampled_from(ENCAPSULATIONS), glue, tail).map(" ".join)


def expressions() -> Text:
    """Any expression."""
    return st.one_of(plain(), plain(), encapsulated())


TOKENS = (
    "ip",
    "tcp",
    "port",
    "host",
    "net",
    "src",
    "dst",
    "or",
    "and",
    "not",
    "(",
    ")",
    "[",
    "]",
    ":",
    "/",
    "mask",
    "10.0.0.1",
    "80",
    "80-90",
    "2001:db8::1",
    "02:00:00:00:00:01",
    "=",
    "!=",
    "<",
    ">",
    "&",
    "|",
    "&&",
    "||",
    "!",
    "vlan",
    "mpls",
    "pppoes",
    "geneve",
    "vxlan",
    "len",
    "less",
    "greater",
    "proto",
    r"\tcp",
    "ether",
    "broadcast",
    "tcpflags",
    "tcp-syn",
    "0x",
    "0x10",
    "-",
    "+",
    "*",
    "<<",
    ">>",
    "%",
    "^",
    "inbound",
    "ifindex",
    "wlan",
    "type",
    "protochain",
    "{}",
    "{",
    "}",
    "http",
    "\\",
    "'",
    '"',
    "@",
    "\0",
    "é",
    "\n",
    "99999999999999999999",
    "gateway",
)


def soup() -> Text:
    """Words of the language in any order, and any other text."""
    words = st.lists(st.sampled_from(TOKENS), max_size=12)
    return st.one_of(
        words.map(" ".join),
        words.map("".join),
        st.text(max_size=40),
        _damaged(),
    )


def _damaged() -> Text:
    """A valid expression with a part missing or repeated."""

    def damage(picked: tuple[str, int, int, bool]) -> str:
        text, start, length, doubled = picked
        start %= len(text) + 1
        piece = text[start : start + length]
        return (
            text[:start]
            + (piece * 2 if doubled else "")
            + text[start + length :]
        )

    number = st.integers(0, 60)
    return st.tuples(
        expressions(), number, st.integers(1, 6), st.booleans()
    ).map(damage)
