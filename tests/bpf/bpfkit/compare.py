"""Compares which packets our program and libpcap's programs accept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from rawmmsg import bpf

from . import machine, mutations, packets
from .leftovers import reads_leftovers
from .machine import Instruction, Instructions
from .oracle import ETHERNET, SNAPLEN, Answer, Pair, Refused

Feed = list[tuple[bytes, int]]


class Difference(NamedTuple):
    """One packet on which our program and libpcap's disagree: the accepted
    lengths, or the error.
    """

    expression: str
    link_type: int
    packet: bytes
    wire_length: int
    got: int | str
    optimised: int | str
    unoptimised: int | str

    def __str__(self) -> str:
        length = f"{len(self.packet)} of {self.wire_length} bytes"
        return (
            f"{self.expression!r} (link type {self.link_type}): "
            f"accepts {self.got}, libpcap {self.optimised} optimised "
            f"and {self.unoptimised} not, of {length} {self.packet.hex()}"
        )


@cache
def _starts(link_type: int) -> tuple[bytes, ...]:
    """The structured traffic without its two long frames, which test nothing
    more than shorter ones do.
    """
    return tuple(
        packet
        for packet in packets.traffic(link_type).values()
        if len(packet) < 1000
    )


def uses_length(program: Iterable[Instruction]) -> bool:
    """Whether the program asks for the length of the packet."""
    return any(
        code & 7 in (machine.LD, machine.LDX) and code & 0xE0 == machine.LEN
        for code, *_ in program
    )


def feed(
    programs: list[Instructions],
    link_type: int,
    limit: int = mutations.LIMIT,
) -> Feed:
    """(packet, wire length) aimed at the programs: structured traffic,
    boundary values, truncations.
    """
    starts = _starts(link_type)
    whole, cut = mutations.explore(programs, starts, limit=limit)
    fed = [
        (packet, len(packet)) for packet in dict.fromkeys((*starts, *whole))
    ]
    fed.extend(cut)
    if any(uses_length(program) for program in programs):
        fed.extend((packet, len(packet)) for packet, _ in cut)
        fed.extend(
            (packet, length)
            for packet, _ in cut[:40]
            for length in (0, 40, 60, 64, 100, 1500, 65536)
        )
        fed.extend(
            (bytes(length), length)
            for length in (
                59,
                60,
                61,
                63,
                64,
                65,
                99,
                100,
                101,
                576,
                1000,
                1400,
            )
        )
    return fed


def compile_ours(
    expression: str, link_type: int
) -> bpf.Program | bpf.FilterError:
    """The program for bytes in memory, or the error."""
    try:
        return bpf.compile(
            expression, link_type=link_type, snaplen=SNAPLEN, live=False
        )
    except bpf.FilterError as error:
        return error


class Side(NamedTuple):
    """One of the three programs, or its error."""

    program: Instructions | None
    error: str = ""

    def accepts(self, packet: bytes, length: int) -> int:
        """The accepted length. An error accepts nothing."""
        if self.program is None:
            return 0
        return machine.run(self.program, packet, length)[0]

    def says(self, packet: bytes, length: int) -> int | str:
        """The accepted length, or the error."""
        return self.error or self.accepts(packet, length)


def _sides(
    expression: str, answer: Answer, link_type: int
) -> tuple[Side, Side, Side]:
    """Our program, libpcap's optimised and libpcap's unoptimised one."""
    compiled = compile_ours(expression, link_type)
    if isinstance(compiled, bpf.FilterError):
        ours = Side(None, f"error: {str(compiled).splitlines()[0]}")
    else:
        ours = Side(compiled.instructions)
    if isinstance(answer, Refused):
        refused = Side(None, f"error: {answer.message}")
        return ours, refused, refused
    if answer.optimised is None:
        optimised = Side(None, "error of the optimiser")
    else:
        optimised = Side(answer.optimised)
    return ours, optimised, Side(answer.unoptimised)


def differences(
    expression: str,
    answer: Answer,
    link_type: int = ETHERNET,
    *,
    thorough: bool = False,
) -> Iterator[Difference]:
    """Every packet on which our program differs from both of libpcap's. An
    error counts as accepting nothing.

    Nothing follows from a program of libpcap's that reads leftovers. If
    libpcap's two programs differ on whole packets, its optimiser is wrong (as
    for `src net 2001:db8::/33` twice in a row). Then nothing follows from its
    verdicts on packets cut short, and only whole packets are compared.
    """
    ours, optimised, unoptimised = sides = _sides(
        expression, answer, link_type
    )
    # The unoptimised program compares nothing more that can make a
    # difference, so packets are rarely aimed at it.
    followed: tuple[Side, ...] = sides
    if not thorough and optimised.program is not None:
        followed = (ours, optimised)
    programs = [side.program for side in followed if side.program is not None]
    if not programs:
        return
    limit = mutations.MOST if thorough else mutations.LIMIT
    fed = feed(programs, link_type, limit)
    agreed: bool | None = None
    for packet, length in fed:
        got = ours.accepts(packet, length)
        if got in (
            optimised.accepts(packet, length),
            unoptimised.accepts(packet, length),
        ):
            continue
        if unoptimised.program and reads_leftovers(unoptimised.program):
            return
        if len(packet) < length:
            if agreed is None:
                agreed = _agree_on_whole_packets(optimised, unoptimised, fed)
            if not agreed:
                continue
        verdicts = [side.says(packet, length) for side in sides]
        yield Difference(expression, link_type, packet, length, *verdicts)


def optimiser_changes(answer: Pair) -> bool:
    """Whether libpcap's two programs disagree about an Ethernet frame.

    Its optimiser drops loads, and divisions, whose value decides nothing.
    The optimised program then accepts more packets that are cut short.
    """
    if answer.optimised is None:
        return True
    programs = [answer.optimised, answer.unoptimised]
    starts = _starts(ETHERNET)
    whole, _ = mutations.explore(programs, starts, limit=mutations.MOST)
    return any(
        machine.run(programs[0], packet[:end], len(packet))[0]
        != machine.run(programs[1], packet[:end], len(packet))[0]
        for packet in (*starts, *whole)
        for end in range(len(packet) + 1)
    )


def _agree_on_whole_packets(one: Side, other: Side, fed: Feed) -> bool:
    return all(
        one.accepts(packet, length) == other.accepts(packet, length)
        for packet, length in fed
        if len(packet) >= length
    )
