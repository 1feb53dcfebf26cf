"""Text of any kind gives a program or a FilterError, and soon."""

from __future__ import annotations

import time

import pytest
from bpfkit import grammar, packets
from bpfkit.effort import Effort
from bpfkit.effort import effort as effort
from bpfkit.names import fixed_names as fixed_names

from rawmmsg import bpf
from rawmmsg.bpf import FilterError

pytestmark = pytest.mark.no_network

SIZE = 100_000
# The promise is a second; the limit only catches what is out of proportion, on
# any machine.
LIMIT = 20.0

HUGE = {
    "alternatives": "port 80 or " * (SIZE // 11) + "tcp",
    "different ports": " or ".join(
        f"port {number % 65536}" for number in range(SIZE // 13)
    ),
    "different hosts": " or ".join(
        f"host 10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
        for n in range(SIZE // 20)
    ),
    "carried values": "tcp port 1"
    + "".join(f" or {number % 65536}" for number in range(SIZE // 9)),
    "conjunctions": "not port 80 and " * (SIZE // 16) + "tcp",
    "tests that exclude each other": "tcp and udp or " * (SIZE // 15) + "arp",
    "parentheses": "(" * (SIZE // 2) + ")" * (SIZE // 2),
    "parentheses around something": "(" * (SIZE // 2)
    + "tcp"
    + ")" * (SIZE // 2),
    "open parentheses": "(" * SIZE,
    "brackets": "ip[" * (SIZE // 3),
    "nested accessors": "ip[" * (SIZE // 4) + "0" + "]" * (SIZE // 4) + " = 1",
    "negations": "not " * (SIZE // 4) + "tcp",
    "exclamation marks": "!" * SIZE + "tcp",
    "minus signs": "-" * SIZE + "1 = 1",
    "a sum": "ip[0]" + "+ip[1]" * (SIZE // 6) + " = 1",
    "a sum of constants": "1" + "+1" * (SIZE // 2) + " = 1",
    "a digit": "9" * SIZE,
    "a word": "a" * SIZE,
    "a hyphenated word": "a-" * (SIZE // 2),
    "colons": ":" * SIZE,
    "hexadecimal and colons": "a:" * (SIZE // 2),
    "dots": "1." * (SIZE // 2),
    "a backslash": "\\" * SIZE,
    "blanks": " " * SIZE,
    "blanks between": "tcp" + " " * SIZE + "or udp",
    "a bad end": "tcp or " * (SIZE // 7) + "$",
    "tags": "vlan and " * (SIZE // 9) + "ip",
    "labels": "mpls and " * (SIZE // 9) + "ip",
    "tunnels": "geneve and " * (SIZE // 11) + "ip",
    "placeholders": "{}" * (SIZE // 2),
    "letters beyond ASCII": "é" * SIZE,
    "digits beyond ASCII": "port " + "\u0663" * SIZE,
    "null characters": "\0" * SIZE,
    "mixed groups": "(tcp or (udp and not " * (SIZE // 23)
    + "arp"
    + "))" * (SIZE // 23),
}


def outcome(expression: str) -> bpf.Program | FilterError:
    try:
        return bpf.compile(expression)
    except FilterError as error:
        return error


ODD = (
    "ip[0] = \u0663",
    "port \u00b2",
    "\ud800",
    "host \u0661\u0660.0.0.1",
    "port 0x",
    "\\",
)


def test_any_text_is_a_program_or_an_error(effort: Effort) -> None:
    effort.check(300, check_outcome, grammar.soup(), first=ODD)


def check_outcome(expression: str) -> None:
    result = outcome(expression)
    if isinstance(result, FilterError):
        assert str(result), "an error has a message"
        assert result.position is None or 0 <= result.position <= len(
            expression
        ), "the position is in the expression"
    else:
        assert len(result) >= 8, "a program has an instruction"


@pytest.mark.parametrize("expression", HUGE.values(), ids=HUGE)
def test_a_huge_expression_is_compiled_or_refused_soon(
    expression: str,
) -> None:
    start = time.perf_counter()
    result = outcome(expression)
    spent = time.perf_counter() - start
    assert isinstance(result, bpf.Program | FilterError), (
        "it ends in a program or an error"
    )
    assert spent < LIMIT, (
        f"{len(expression)} characters end soon: {spent:.1f} s"
    )


def test_a_program_longer_than_the_kernel_accepts_is_an_error() -> None:
    expression = " or ".join(
        f"host 10.0.{n >> 8}.{n & 255}" for n in range(3000)
    )
    with pytest.raises(FilterError, match=r"4,?096"):
        bpf.compile(expression)


@pytest.mark.parametrize("count", [60, 100, 150, 300])
def test_long_jumps_are_split(count: int) -> None:
    """A conditional jump can skip 255 instructions. Longer ones need another
    jump in between.
    """
    ports = range(1000, 1000 + 7 * count, 7)
    program = bpf.compile(
        "udp port " + " or ".join(map(str, ports)), live=False
    )
    for port in (*ports, 1, 1001, ports[-1] + 1):
        frame = packets.ether(
            packets.IP, packets.ipv4(packets.UDP, packets.udp(5, port))
        )
        accepted = program.matches(frame)
        assert accepted is (port in ports), (
            f"port {port} among {count} ports is decided rightly"
        )
