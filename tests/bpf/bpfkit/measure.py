"""Measures instructions executed on the published packets, and program
lengths, compared with libpcap's.
"""

from __future__ import annotations

from typing import NamedTuple

from rawmmsg import bpf

from . import compare, corpus, machine, oracle, packets
from .machine import Instructions
from .oracle import Pair


class Figure(NamedTuple):
    """One expression: instructions executed over all published packets, and
    program lengths; ours and libpcap's.
    """

    section: str
    expression: str
    executed: int
    executed_libpcap: int
    executed_unoptimised: int
    length: int
    length_libpcap: int
    length_unoptimised: int

    @property
    def ratio(self) -> float:
        """Instructions executed, relative to libpcap's optimised program."""
        return self.executed / self.executed_libpcap


def executed(program: Instructions, frames: list[bytes]) -> int:
    """Instructions executed over all frames."""
    return sum(machine.run(program, frame)[1] for frame in frames)


def figures() -> list[Figure]:
    """Every expression of the corpus, for bytes in memory, compared with the
    golden files.
    """
    frames = list(packets.published().values())
    rows = []
    for entry in corpus.compiled():
        answer = oracle.goldens().ask(entry.expression)
        ours = compare.compile_ours(entry.expression, oracle.ETHERNET)
        if (
            isinstance(ours, bpf.FilterError)
            or not isinstance(answer, Pair)
            or answer.optimised is None
        ):
            continue
        program = ours.instructions
        rows.append(
            Figure(
                entry.section,
                entry.expression,
                executed(program, frames),
                executed(answer.optimised, frames),
                executed(answer.unoptimised, frames),
                len(program),
                len(answer.optimised),
                len(answer.unoptimised),
            )
        )
    return rows


def same_work(row: Figure) -> bool:
    """Whether libpcap's optimised program accepts what ours accepts: the same
    as its unoptimised one.
    """
    if row.section == "libpcap's optimiser is wrong":
        return False
    answer = oracle.goldens().ask(row.expression)
    return isinstance(answer, Pair) and not compare.optimiser_changes(answer)


def total_ratio(rows: list[Figure]) -> float:
    """Instructions executed by all programs, relative to libpcap's."""
    return sum(row.executed for row in rows) / sum(
        row.executed_libpcap for row in rows
    )


def length_ratio(rows: list[Figure]) -> float:
    """The length of all programs, relative to libpcap's."""
    return sum(row.length for row in rows) / sum(
        row.length_libpcap for row in rows
    )
