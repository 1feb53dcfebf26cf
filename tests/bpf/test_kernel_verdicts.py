"""The kernel accepts every program, and its verdict on a packet is that of
``Program.accept_length()``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bpfkit import compare, corpus, kernel, mutations, oracle, packets
from bpfkit.effort import Effort
from bpfkit.effort import effort as effort
from bpfkit.names import fixed_names as fixed_names
from bpfkit.oracle import ETHERNET, RAW_IP, Pair
from support.programs import program as assemble

from rawmmsg import bpf

pytestmark = pytest.mark.no_network

SECTIONS = sorted({entry.section for entry in corpus.compiled()})
# The longest datagram that a socketpair takes whole under the default limits.
LONGEST = 65536
# About how many packets a program gets: usually, and with --examples.
LIMIT, MOST = 40, 400


@pytest.fixture
def filtered() -> Iterator[kernel.Filtered]:
    with kernel.Filtered() as filtered:
        yield filtered


def expressions(section: str) -> list[str]:
    return [
        entry.expression
        for entry in corpus.compiled()
        if entry.section == section
    ]


def check(
    filtered: kernel.Filtered,
    effort: Effort,
    program: bpf.Program,
    link_type: int,
    what: str,
) -> None:
    filtered.attach(program)
    starts = [
        packet
        for packet in packets.traffic(link_type).values()
        if len(packet) < LONGEST
    ]
    whole, cut = mutations.explore(
        [program.instructions], starts, limit=effort.limit(LIMIT, MOST)
    )
    for packet in (*starts[::7], *whole, *(piece for piece, _ in cut)):
        accepted = program.accept_length(packet)
        delivered = filtered.delivered(packet)
        foretold = packet[:accepted] if accepted else None
        assert delivered == foretold, (
            f"the kernel's verdict is that of accept_length() for {what}: it "
            f"accepts {accepted} bytes of {packet.hex()}, the kernel "
            f"delivered {delivered if delivered is None else len(delivered)}"
        )


@pytest.mark.parametrize("live", [True, False], ids=["live", "dead"])
@pytest.mark.parametrize("section", SECTIONS)
def test_verdict_on_our_programs(
    filtered: kernel.Filtered, effort: Effort, section: str, live: bool
) -> None:
    for expression in expressions(section):
        program = bpf.compile(expression, live=live)
        if not live and program == bpf.compile(expression):
            continue  # checked as the live program
        check(
            filtered, effort, program, ETHERNET, f"{expression!r}, live={live}"
        )


@pytest.mark.parametrize("section", SECTIONS)
def test_verdict_on_our_programs_for_raw_ip(
    filtered: kernel.Filtered, effort: Effort, section: str
) -> None:
    for expression in expressions(section):
        program = compare.compile_ours(expression, RAW_IP)
        if isinstance(program, bpf.Program):
            check(
                filtered, effort, program, RAW_IP, f"{expression!r} for raw IP"
            )


@pytest.mark.parametrize("section", SECTIONS)
def test_verdict_on_programs_of_libpcap(
    filtered: kernel.Filtered, effort: Effort, section: str
) -> None:
    """libpcap uses instructions that our compiler does not emit, above all
    those for scratch memory.
    """
    for expression in expressions(section)[:: effort.limit(3, 1)]:
        answer = oracle.goldens().ask(expression)
        assert isinstance(answer, Pair)
        what = f"libpcap's unoptimised program for {expression!r}"
        try:
            filtered.attach(assemble(*answer.unoptimised))
        except OSError:
            with pytest.raises(ValueError, match="instruction"):
                bpf.Program.from_instructions(answer.unoptimised)
        else:
            check(
                filtered,
                effort,
                bpf.Program.from_instructions(answer.unoptimised),
                ETHERNET,
                what,
            )


def test_a_short_snaplen_cuts_the_packet(filtered: kernel.Filtered) -> None:
    program = bpf.compile("ip", snaplen=40)
    packet = packets.ethernet_frames()["ip-tcp-http"]
    filtered.attach(program)
    assert program.accept_length(packet) == 40, (
        "an accepted packet is accepted up to the snap length"
    )
    assert filtered.delivered(packet) == packet[:40], (
        "the kernel delivers no more than the snap length"
    )


def test_division_by_zero_in_a_register_rejects(
    filtered: kernel.Filtered,
) -> None:
    for operator in "/%":
        program = bpf.compile(f"ip[8] {operator} ip[1] = 0 or tcp", live=False)
        packet = packets.ethernet_frames()["ip-tcp-http"]
        filtered.attach(program)
        assert program.accept_length(packet) == 0, (
            f"{operator} by a field that is zero rejects the packet"
        )
        assert filtered.delivered(packet) is None, (
            f"the kernel rejects at {operator} by zero too"
        )


# Each is refused by net/core/filter.c:bpf_check_classic(), with EINVAL and no
# word about why.
REFUSED = {
    "no instruction": (),
    "no return at the end": ((0x28, 0, 0, 12),),
    "an opcode that does not exist": ((0xFFFF, 0, 0, 0), (6, 0, 0, 1)),
    "a conditional jump behind the end": ((0x15, 0, 5, 1), (6, 0, 0, 1)),
    "a jump behind the end": ((0x05, 0, 0, 1), (6, 0, 0, 1)),
    "a jump that wraps around": ((0x05, 0, 0, 0xFFFFFFFF), (6, 0, 0, 1)),
    "division by the constant zero": ((0x34, 0, 0, 0), (6, 0, 0, 1)),
    "remainder by the constant zero": ((0x94, 0, 0, 0), (6, 0, 0, 1)),
    "a shift by 32": ((0x64, 0, 0, 32), (6, 0, 0, 1)),
    "scratch memory that does not exist": ((0x02, 0, 0, 16), (6, 0, 0, 1)),
    "scratch memory read before it is written": (
        (0x60, 0, 0, 3),
        (6, 0, 0, 1),
    ),
    "scratch memory written on one path only": (
        (0x28, 0, 0, 12),
        (0x15, 0, 1, 0x800),
        (0x02, 0, 0, 3),
        (0x60, 0, 0, 3),
        (0x16, 0, 0, 0),
    ),
    "scratch memory read after a return, which nothing reaches": (
        (6, 0, 0, 1),
        (0x60, 0, 0, 3),
        (6, 0, 0, 1),
    ),
    "an ancillary field that does not exist": (
        (0x20, 0, 0, 0xFFFFF001),
        (6, 0, 0, 1),
    ),
    "too many instructions": ((0x28, 0, 0, 12),) * 4096 + ((6, 0, 0, 1),),
}


@pytest.mark.parametrize("instructions", REFUSED.values(), ids=REFUSED)
def test_a_program_that_the_kernel_refuses_is_a_value_error(
    filtered: kernel.Filtered,
    instructions: tuple[tuple[int, int, int, int], ...],
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        bpf.Program.from_instructions(instructions)
    with pytest.raises(OSError, match="Invalid argument"):
        filtered.attach(assemble(*instructions))


TAKEN = {
    "a return of the accumulator": ((0x80, 0, 0, 0), (0x16, 0, 0, 0)),
    "a jump over nothing": ((0x05, 0, 0, 0), (6, 0, 0, 1)),
    "scratch memory written on both paths": (
        (0x28, 0, 0, 12),
        (0x15, 0, 2, 0x800),
        (0x02, 0, 0, 3),
        (0x05, 0, 0, 1),
        (0x02, 0, 0, 3),
        (0x60, 0, 0, 3),
        (0x16, 0, 0, 0),
    ),
    "the largest program": ((0x00, 0, 0, 12),) * 4095 + ((6, 0, 0, 1),),
}


@pytest.mark.parametrize("instructions", TAKEN.values(), ids=TAKEN)
def test_a_program_that_the_kernel_accepts_is_accepted(
    filtered: kernel.Filtered,
    instructions: tuple[tuple[int, int, int, int], ...],
) -> None:
    packet = packets.ethernet_frames()["ip-tcp-http"]
    filtered.attach(assemble(*instructions))
    program = bpf.Program.from_instructions(instructions)
    accepted = program.accept_length(packet)
    assert filtered.delivered(packet) == packet[:accepted], (
        "a program that the kernel takes is one for Program, too"
    )


def test_a_program_is_the_array_that_the_kernel_expects(
    filtered: kernel.Filtered,
) -> None:
    program = bpf.compile("udp port 53")
    assert bytes(program) == assemble(*program.instructions), (
        "the bytes of a Program are an array of struct sock_filter"
    )
    filtered.attach(program)
    dns, web = (
        packets.ethernet_frames()["ip-udp-dns"],
        packets.ethernet_frames()["ip-tcp-http"],
    )
    assert filtered.delivered(dns) == dns, (
        "the attached program accepts its packets"
    )
    assert filtered.delivered(web) is None, (
        "the attached program rejects all others"
    )
