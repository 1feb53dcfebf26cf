"""Values for ``{}``: bound, never pasted into the expression."""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Network,
)

import pytest
from bpfkit.names import fixed_names as fixed_names

from rawmmsg import bpf
from rawmmsg.bpf import FilterError

pytestmark = pytest.mark.no_network

SAME = [
    (("host {}", IPv4Address("10.0.0.1")), "host 10.0.0.1"),
    (("src host {}", IPv4Address("10.0.0.1")), "src host 10.0.0.1"),
    (("host {}", IPv6Address("2001:db8::1")), "host 2001:db8::1"),
    (("net {}", IPv4Network("10.0.0.0/8")), "net 10.0.0.0/8"),
    (("dst net {}", IPv6Network("2001:db8::/32")), "dst net 2001:db8::/32"),
    (("port {}", 443), "port 443"),
    (("tcp dst port {} or {}", 80, 443), "tcp dst port 80 or 443"),
    (
        ("host {} and port {}", IPv4Address("10.0.0.1"), 80),
        "host 10.0.0.1 and port 80",
    ),
    (
        ("host {} or {}", IPv4Address("10.0.0.1"), IPv6Address("::1")),
        "host 10.0.0.1 or ::1",
    ),
    (
        ("ether host {}", bytes.fromhex("020000000001")),
        "ether host 02:00:00:00:00:01",
    ),
    (
        ("ether src {} and ether dst {}", bytes(6), b"\xff" * 6),
        "ether src 0:0:0:0:0:0 and ether dst ff:ff:ff:ff:ff:ff",
    ),
    (("ip[{}] = {}", 8, 64), "ip[8] = 64"),
    (("ip[8] & {} != 0", 0xFFFFFFFF), "ip[8] & 0xffffffff != 0"),
    (("less {}", 100), "less 100"),
    (("vlan {} and ip", 100), "vlan 100 and ip"),
    (("ip proto {}", 47), "ip proto 47"),
    (("ether proto {}", 0x88CC), "ether proto 0x88cc"),
    (("({}) = 5 or tcp", 6), "(6) = 5 or tcp"),
]


@pytest.mark.parametrize(
    ("bound", "written"), SAME, ids=[written for _, written in SAME]
)
def test_a_bound_value_means_what_it_means_written_out(
    bound: tuple[str, *tuple[object, ...]], written: str
) -> None:
    expression, *values = bound
    assert bpf.compile(expression, *values) == bpf.compile(written), (
        f"{bound} is {written!r}"
    )


REFUSED = [
    ("host {}", "10.0.0.1 or tcp"),
    ("host {}", "10.0.0.1"),
    ("port {}", "80"),
    ("port {}", 65536),
    ("port {}", -1),
    ("port {}", True),
    ("port {}", 80.0),
    ("port {}", None),
    ("ip[8] = {}", 1 << 32),
    ("ether host {}", bytes(5)),
    ("ether host {}", bytes(7)),
    ("port {}", IPv4Address("10.0.0.1")),
    ("ether host {}", IPv4Address("10.0.0.1")),
    ("host {}", IPv4Network("10.0.0.0/8")),
    ("host {}", IPv6Address("fe80::1%eth0")),
    ("{}", "tcp"),
    ("tcp {} 80", "port"),
]


@pytest.mark.parametrize(("expression", "value"), REFUSED)
def test_a_value_that_does_not_fit_is_refused(
    expression: str, value: object
) -> None:
    with pytest.raises((FilterError, TypeError), match=r"\w"):
        bpf.compile(expression, value)


@pytest.mark.parametrize(
    ("expression", "values"),
    [("host {}", ()), ("tcp", (5,)), ("port {} or {}", (1, 2, 3))],
)
def test_the_number_of_values_must_be_that_of_the_placeholders(
    expression: str, values: tuple[object, ...]
) -> None:
    with pytest.raises(FilterError, match="value"):
        bpf.compile(expression, *values)


class Text(int):
    """A number whose text is not that number."""

    def __str__(self) -> str:
        return "80 or tcp"


class Six(bytes):
    """Bytes that claim a length of 6."""

    def __len__(self) -> int:
        return 6


def test_the_text_of_a_value_has_no_effect() -> None:
    assert bpf.compile("port {}", Text(80)) == bpf.compile("port 80"), (
        "the text of a value is never part of the expression"
    )
    with pytest.raises(FilterError, match="6 bytes"):
        bpf.compile("ether host {}", Six(b"\1\2"))


@pytest.mark.parametrize(
    "expression",
    ["port 8{}", "port {}0", "port {}{}", "port {0}", "port {{}}"],
)
def test_a_placeholder_is_a_word_of_its_own(expression: str) -> None:
    with pytest.raises(FilterError, match=r"expected|valid|placeholder"):
        bpf.compile(expression, 8, 0)


def test_an_interface_address_is_an_address() -> None:
    """IPv4Interface is an IPv4Address that has a network as well."""
    assert bpf.compile("host {}", IPv4Interface("10.0.0.1/8")) == bpf.compile(
        "host 10.0.0.1"
    ), "an interface's address is taken as its address"
