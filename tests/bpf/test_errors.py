"""Errors say what is wrong and where, with a caret under the mistake."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from bpfkit import corpus, oracle
from bpfkit.names import fixed_names as fixed_names

from rawmmsg import bpf
from rawmmsg.bpf import FilterError, UnsupportedFilterError

pytestmark = pytest.mark.no_network

# Sections in which every expression is a mistake, whatever the packet.
MISTAKES = [
    entry
    for entry in corpus.rejected()
    if not entry.section.startswith("nothing")
]
IMPOSSIBLE = [
    entry for entry in corpus.rejected() if entry.section.startswith("nothing")
]


def error_of(expression: str, *values: object) -> FilterError:
    with pytest.raises(FilterError) as caught:
        bpf.compile(expression, *values)
    return caught.value


@pytest.mark.parametrize("entry", MISTAKES, ids=lambda entry: entry.expression)
def test_a_mistake_has_a_message_and_a_place(entry: corpus.Entry) -> None:
    error = error_of(entry.expression)
    assert error.expression == entry.expression, (
        "an error carries the expression"
    )
    assert error.position is not None, "a mistake has a position"
    assert 0 <= error.position <= len(entry.expression), (
        "the position lies in the expression or at its end"
    )
    message, shown, caret = str(error).splitlines()
    assert len(message) > 10, f"the message is for a person: {message!r}"
    assert caret.strip() == "^", "the last line is a caret"
    rest = entry.expression[error.position :][:30]
    assert shown[caret.index("^") :].startswith(rest), (
        "the caret stands under the position"
    )


@pytest.mark.parametrize(
    "entry", IMPOSSIBLE, ids=lambda entry: entry.expression
)
@pytest.mark.parametrize("live", [True, False], ids=["live", "dead"])
def test_a_filter_that_no_packet_can_pass_is_an_error(
    entry: corpus.Entry, live: bool
) -> None:
    with pytest.raises(FilterError, match=r"\w"):
        bpf.compile(entry.expression, live=live)


# The place that a person would point to: the text from there on.
PLACES = {
    "tcp prot 80": "prot",
    "tcp port": "",
    "tcp and": "",
    "(tcp": "",
    "tcp)": ")",
    "tcp port 65536": "65536",
    "host 256.0.0.1": "256.0.0.1",
    "net 10.0.0.0/33": "33",
    "ip[0": "",
    "ip[0:3] = 1": "3",
    "ether host 02:00:00:00:00": "02:00:00:00:00",
    "tcp $": "$",
    "vlan 4096": "4096",
    "host example.org": "example.org",
    "tcp port nonsense": "nonsense",
    "ip proto \\nonsense": "nonsense",
    "udp and wlan host 02:00:00:00:00:01": "wlan",
    "tcp or or udp": "or udp",
    "ip[8] / 0 = 1": "0 = 1",
    "ip[8] << 32 = 1": "32 = 1",
}


@pytest.mark.parametrize(("expression", "rest"), PLACES.items())
def test_the_caret_points_at_the_mistake(expression: str, rest: str) -> None:
    error = error_of(expression)
    assert error.position is not None, (
        f"{expression!r} has a place where it goes wrong"
    )
    found = expression[error.position :].lstrip("\\ ")
    assert found.startswith(rest) if rest else not found, (
        f"the caret of {expression!r} points at {rest or 'its end'!r}, "
        f"not at {found!r}: {error}"
    )


REASONS = {
    "arpp": "unknown word 'arpp': did you mean 'arp'?",
    "tcp and arpp": "unknown word 'arpp': did you mean 'arp'?",
    "tcp prot 80": "unknown word 'prot': did you mean 'port'?",
    "icmp[icmptyp] = 8": "unknown word 'icmptyp': did you mean 'icmptype'?",
    "tcp and xyzzy": "unknown word 'xyzzy': a name needs a qualifier such as "
    "'host' or 'port' before it",
    "tcp \\and udp": "'\\and' is a name: write 'and' for the keyword",
    "ip proto tcp": "'tcp' is a keyword: write '\\tcp' for the name",
    "tcp.port == 80": "unknown word 'tcp.port': this is Wireshark's display "
    "syntax; write 'tcp port NUMBER'",
    "ip and ip.addr == 10.0.0.1": "unknown word 'ip.addr': this is "
    "Wireshark's display syntax; write 'host ADDRESS'",
    "tcp.flags.syn == 1": "unknown word 'tcp.flags.syn': this looks like "
    "Wireshark's display syntax; filters are written as in pcap-filter(7)",
    "10.0.0.1 and tcp": "'10.0.0.1' needs a qualifier such as 'host', 'net' "
    "or 'port' before it",
    "tcp or 10.0.0.1": "'10.0.0.1' needs a qualifier such as 'host', 'net' "
    "or 'port' before it",
    "port 65536": "'65536' is not a valid port: the greatest is 65535",
    "portrange 1-65536": "'65536' is not a valid port: the greatest is 65535",
    "vlan 4096": "'4096' is not a valid VLAN id: the greatest is 4095",
    "host 256.0.0.1": "'256.0.0.1' is not a valid IPv4 address",
    "host 10.0.0.0.1": "'10.0.0.0.1' is not a valid IPv4 address",
    "host 1:2:3": "'1:2:3' is not a valid IPv6 or MAC address",
    "tcp port nonsense": "'nonsense' is not a valid port: no service has "
    "this name",
    "ip proto \\nonsense": "'nonsense' is not a valid protocol",
    "tcp @": "unexpected character '@'",
    "port {0}": "unexpected character '{': a placeholder is '{}'",
    "(tcp": "expected ')', found the end of the expression",
}


@pytest.mark.parametrize(("expression", "reason"), REASONS.items())
def test_a_fault_has_one_wording(expression: str, reason: str) -> None:
    assert error_of(expression).reason == reason, (
        f"the error for {expression!r} says what is wrong and what to write"
    )


@pytest.mark.parametrize("expression", ["tcp @", "tcp port", "tcp and udp"])
def test_the_traceback_ends_at_the_call(expression: str) -> None:
    """The frames of the compiler do not help somebody who mistyped."""
    error = error_of(expression)
    frames = traceback.extract_tb(error.__traceback__)
    assert [frame.name for frame in frames] == ["error_of", "compile"], (
        "the traceback shows the call of compile() and nothing below it"
    )
    assert error.__cause__ is None, "no other traceback is shown"
    assert error.__suppress_context__, "no other traceback is shown"


# A shift by more than 31 bits and a division by zero that were computed.
@pytest.mark.parametrize(
    "expression",
    [
        "arp or (ip and ip6 and ip6[6] >> 2 - tcp-syn - 1 = 0)",
        "arp or (ip and ip6 and ip6[6] / (2 - tcp-syn) = 0)",
        "ip6 or not udp[0:2] << 31 + 1 >= 9 or not udp port 53 or not proto 6",
        "1 >> 10 * 4 = 0 or arp",
    ],
)
@pytest.mark.parametrize("live", [True, False], ids=["live", "dead"])
def test_a_computed_mistake_that_decides_nothing_is_not_an_error(
    expression: str, live: bool
) -> None:
    """As in libpcap, whose optimiser finds the mistakes that are left."""
    program = bpf.compile(expression, live=live)
    assert len(program.instructions) < 40, f"{expression!r} is compiled"


@pytest.mark.parametrize(
    "expression",
    [
        "ip6[6] >> 2 - tcp-syn - 1 = 0",
        "ip6[6] >> -1 != 0",
        "ip[8] / (1 - 1) = 0",
        "(ip[8] << 2 - 3) * 0 = 0",
        "arp or not (ip[8] % (2 - tcp-syn) = 0)",
    ],
)
def test_a_computed_mistake_is_an_error(expression: str) -> None:
    message = str(error_of(expression))
    assert "31 bits" in message or "zero" in message, (
        f"the error of {expression!r} names the mistake: {message}"
    )


@pytest.mark.parametrize(
    "expression",
    [
        "host example.org",
        "host localhost",
        "src host www",
        "net example",
        "net loopback",
        "ether host gateway1",
    ],
)
def test_host_names_are_not_looked_up(expression: str) -> None:
    message = str(error_of(expression))
    assert "name" in message, (
        f"the error says that names are not looked up: {message}"
    )


UNSUPPORTED = [entry.expression for entry in corpus.unsupported()]


@pytest.mark.parametrize("expression", UNSUPPORTED)
def test_the_error_for_an_unsupported_primitive_names_the_remedy(
    expression: str,
) -> None:
    with pytest.raises(UnsupportedFilterError) as caught:
        bpf.compile(expression)
    message = str(caught.value)
    assert "from_tcpdump" in message, (
        f"the error for {expression!r} names the remedy: {message}"
    )
    assert caught.value.position is not None, "it has a position"
    word = expression[caught.value.position :].split(maxsplit=1)[0]
    assert word.split("[")[0] in message, (
        f"the error for {expression!r} names what is left out: {message}"
    )


def test_the_two_errors_are_value_errors() -> None:
    assert issubclass(FilterError, ValueError), (
        "a mistake in an expression is a ValueError"
    )
    assert issubclass(UnsupportedFilterError, FilterError), (
        "what is left out is a kind of FilterError"
    )


@pytest.mark.parametrize("link_type", [32, 803, 0xFFFF, -1])
def test_an_unknown_link_type_is_refused(link_type: int) -> None:
    """A program for Ethernet would be wrong there, without an error."""
    with pytest.raises((FilterError, ValueError), match=r"link"):
        bpf.compile("tcp", link_type=link_type)


@pytest.mark.parametrize(
    "expression",
    [
        "broadcast",
        "ether host 02:00:00:00:00:01",
        "ether multicast",
        "vlan",
        "mpls",
    ],
)
def test_raw_ip_has_no_link_layer(expression: str) -> None:
    with pytest.raises(FilterError, match=r"\w"):
        bpf.compile(expression, link_type=oracle.RAW_IP, live=False)


def test_a_long_expression_shows_only_the_part_around_the_mistake() -> None:
    expression = (
        " or ".join(f"port {number}" for number in range(2000))
        + " or prot 5 or tcp"
    )
    error = error_of(expression)
    assert max(map(len, str(error).splitlines())) < 300, (
        "an error for a long expression fits a screen"
    )
    _, shown, caret = str(error).splitlines()
    assert shown[caret.index("^") :].startswith("prot 5"), (
        "the caret still points at the mistake"
    )


@pytest.mark.parametrize(
    "expression", ["tcp\tprot", "tcp\nprot", "tcp and\n\n  prot 5"]
)
def test_tabs_and_newlines_do_not_move_the_caret(expression: str) -> None:
    error = error_of(expression)
    lines = str(error).splitlines()
    assert len(lines) == 3, "an expression of several lines is shown on one"
    assert lines[1][lines[2].index("^") :].startswith("prot"), (
        "the caret points at the mistake"
    )


@pytest.mark.parametrize("value", [None, b"tcp", 5, ["tcp"]])
def test_an_expression_must_be_a_str(value: object) -> None:
    with pytest.raises(TypeError, match=r"str"):
        bpf.compile(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["snaplen", "link_type", "netmask"])
@pytest.mark.parametrize("value", ["1", 1.5, b"1", []])
def test_numbers_of_compile_are_ints(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(TypeError, match="object cannot be interpreted as an"):
        bpf.compile("ip broadcast", **options)


@pytest.mark.parametrize("netmask", [-1, 2**32])
def test_a_netmask_has_32_bits(netmask: int) -> None:
    with pytest.raises(ValueError, match="netmask must be from 0 to"):
        bpf.compile("ip broadcast", netmask=netmask)
