"""Expressions that libpcap compiles wrongly. One packet shows each mistake: a
person can see the right verdict.

Only for these does a program differ from libpcap's on purpose.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from bpfkit import compare, corpus, machine, oracle
from bpfkit.leftovers import reads_leftovers
from bpfkit.names import fixed_names as fixed_names
from bpfkit.oracle import ETHERNET, RAW_IP, Pair, Refused
from bpfkit.packets import (
    IP,
    IP6,
    PPPOE_SESSION,
    SIX_A,
    SIX_B,
    TCP,
    UDP,
    ether,
    geneve,
    ipv4,
    ipv6,
    llc,
    pppoe,
    tcp,
    udp,
    vlan,
)

from rawmmsg import bpf

pytestmark = pytest.mark.no_network

FIRST_BYTES = bytes.fromhex("00000002 0000 000000000000 0800")
SIX = ipv6(TCP, tcp(1, 2), SIX_A, SIX_B)
# TTL 64 behind the first byte 0x45.
FOUR = ether(IP, ipv4(TCP, tcp(40000, 80)))
# Offset 0 is IPv4 with UDP, to a program that takes the frame for a packet
# behind the empty offsets of a tunnel.
NO_TUNNEL = bytes.fromhex("0800 0000 0000 0000 00 11") + FOUR[10:]
CLNP = llc(0xFE, 0xFE, 3, b"\x81" + bytes(20))
TUNNEL = ipv4(UDP, udp(1, 6081, geneve(11, 0x6558, CLNP)))


class Case(NamedTuple):
    """A packet, its right verdict, and the verdicts of libpcap's programs,
    optimised and not, or libpcap's error message.
    """

    packet: bytes
    right: bool
    libpcap: tuple[bool, bool] | str
    link_type: int = ETHERNET


CASES = {
    "byte 3 & 2": Case(FIRST_BYTES, True, (False, False)),
    "byte 3 | 0": Case(FIRST_BYTES, True, (False, False)),
    "pppoes 0x27 or (ip6 dst net 2001:db8::/33 and "
    "ip6 dst net 2001:db8::/33)": Case(
        ether(PPPOE_SESSION, pppoe(0x28, 0x57, SIX)), True, (False, True)
    ),
    "vlan 100 or ((src and dst net 2001:db8::/33 && "
    "src and dst net 2001:db8::/33))": Case(
        ether(*vlan(200, IP6, SIX)), True, (False, True)
    ),
    "ip[8] / ip[0] = 0": Case(FOUR, True, "division by zero"),
    "ip[8] % ip[0] = 64": Case(FOUR, True, "modulus by zero"),
    "1 << 72 - ip[0] = 8": Case(FOUR, True, "shift by more than 31 bits"),
    "ip[8] + 1 = 5 or not geneve and ip proto 17": Case(
        NO_TUNNEL, True, (False, False)
    ),
    "geneve and clnp": Case(TUNNEL, True, (False, False), RAW_IP),
}


def test_every_case_is_shown() -> None:
    listed = {entry.expression for entry in corpus.disputed()}
    assert listed == set(CASES), "data/disputed.txt lists the cases below"


@pytest.mark.parametrize(("expression", "case"), CASES.items(), ids=CASES)
def test_ours_is_right_and_libpcap_is_not(expression: str, case: Case) -> None:
    ours = compare.compile_ours(expression, case.link_type)
    assert isinstance(ours, bpf.Program), f"{expression!r} is compiled"
    assert ours.matches(case.packet) is case.right, (
        f"{expression!r} accepts what it means"
    )
    answer = oracle.goldens().ask(expression, case.link_type)
    if isinstance(answer, Refused):
        said: object = answer.message
    else:
        assert isinstance(answer, Pair)
        assert answer.optimised is not None
        said = tuple(
            bool(machine.run(program, case.packet)[0])
            for program in (answer.optimised, answer.unoptimised)
        )
    assert said == case.libpcap, f"libpcap is wrong about {expression!r}"


def test_libpcap_loses_a_packet_because_of_an_added_alternative() -> None:
    """A packet that `B` accepts, `A or B` must accept too. libpcap's program
    does not if B reads scratch words that A has written.
    """
    whole = "ip[8] + 1 = 5 or not geneve and ip proto 17"
    part = "not geneve and ip proto 17"
    without, together = (
        oracle.goldens().ask(expression) for expression in (part, whole)
    )
    assert isinstance(without, Pair)
    assert isinstance(together, Pair)
    assert machine.run(without.unoptimised, NO_TUNNEL)[0], (
        f"libpcap accepts the packet for {part!r}"
    )
    assert not machine.run(together.unoptimised, NO_TUNNEL)[0], (
        f"but not for {whole!r}"
    )
    assert reads_leftovers(together.unoptimised), "and it is known why"
    assert not reads_leftovers(without.unoptimised), "and when it is right"


def test_what_the_corpus_calls_wrong_is_shown_here() -> None:
    wrong = {
        entry.expression
        for entry in corpus.compiled()
        if entry.section == "libpcap's optimiser is wrong"
    }
    assert wrong <= set(CASES), "each mistake of libpcap's is proved"
