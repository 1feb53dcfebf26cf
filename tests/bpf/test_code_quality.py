"""The code is as good as libpcap's: instructions executed on the published
packets, program lengths, shape.
"""

from __future__ import annotations

import pytest
from bpfkit import corpus, machine, measure, names, packets
from bpfkit.measure import Figure
from bpfkit.names import fixed_names as fixed_names

from rawmmsg import bpf

pytestmark = pytest.mark.no_network


@pytest.fixture(scope="module")
def rows() -> list[Figure]:
    with pytest.MonkeyPatch.context() as patch:
        names.fix(patch)
        return measure.figures()


def test_the_whole_corpus_is_measured(rows: list[Figure]) -> None:
    assert len(rows) == len(corpus.compiled()), (
        "every expression of the corpus has its figures"
    )


def test_no_more_instructions_than_libpcap_in_total(
    rows: list[Figure],
) -> None:
    ratio = measure.total_ratio(rows)
    assert ratio <= 1, (
        "in total no more instructions are executed than libpcap's optimiser "
        f"gives: {ratio:.3f} times"
    )


def test_no_expression_is_far_behind(rows: list[Figure]) -> None:
    """Only programs that accept the same packets are compared: libpcap's
    optimiser may drop loads that reject packets cut short, see
    rawmmsg/bpf/cfg.py.
    """
    behind = [row for row in rows if row.ratio > 1.25]
    assert [
        row.expression for row in behind if measure.same_work(row)
    ] == [], (
        "no expression executes more than 1.25 times the instructions of a "
        "program of libpcap's that accepts the same"
    )
    assert len(behind) <= 16, (
        "libpcap's program is much shorter for few expressions"
    )
    worst = max(rows, key=lambda row: row.executed / row.executed_unoptimised)
    assert worst.executed <= 1.25 * worst.executed_unoptimised, (
        "no expression executes more than 1.25 times the instructions of "
        f"libpcap's unoptimised program: {worst.expression!r}"
    )


def test_programs_are_no_longer_on_average(rows: list[Figure]) -> None:
    ratio = measure.length_ratio(rows)
    assert ratio <= 1, (
        f"programs are on average no longer than libpcap's: {ratio:.3f} times"
    )


@pytest.mark.parametrize("live", [True, False], ids=["live", "dead"])
def test_no_instruction_is_dead(live: bool) -> None:
    for entry in corpus.compiled():
        program = bpf.compile(entry.expression, live=live).instructions
        reached = {0}
        for place, (code, jt, jf, k) in enumerate(program):
            if place in reached and code & 7 == machine.JMP:
                targets = (k,) if code & 0xF0 == machine.JA else (jt, jf)
                reached.update(place + 1 + target for target in targets)
            elif place in reached and code & 7 != machine.RET:
                reached.add(place + 1)
        assert reached == set(range(len(program))), (
            f"every instruction of {entry.expression!r} can be reached"
        )


@pytest.mark.parametrize("live", [True, False], ids=["live", "dead"])
def test_jumps_are_threaded(live: bool) -> None:
    """A short program has no reason for a jump to a jump."""
    for entry in corpus.compiled():
        program = bpf.compile(entry.expression, live=live).instructions
        for place, (code, jt, jf, _) in enumerate(program):
            if code & 7 != machine.JMP or code & 0xF0 == machine.JA:
                continue
            assert jt != jf, (
                f"no test of {entry.expression!r} is without consequence: "
                f"instruction {place}"
            )
            landings = [program[place + 1 + jump] for jump in (jt, jf)]
            assert all(
                target[0] != machine.JMP | machine.JA for target in landings
            ), (
                f"no jump of {entry.expression!r} leads to another jump: "
                f"instruction {place}"
            )


@pytest.mark.parametrize(
    ("longer", "shorter"),
    [
        ("tcp and tcp", "tcp"),
        ("ip and ip", "ip"),
        ("port 80 or port 80", "port 80"),
        ("not not tcp", "tcp"),
        ("ip and tcp port 80 and ip", "ip and tcp port 80"),
        ("(tcp port 80) and tcp", "tcp port 80"),
        ("tcp or not tcp", "tcp"),
        ("1 = 1 and tcp", "tcp"),
        ("ip[8] = 32 + 32", "ip[8] = 64"),
        ("host 10.0.0.1 and host 10.0.0.1", "host 10.0.0.1"),
    ],
)
def test_a_test_that_is_decided_is_not_repeated(
    longer: str, shorter: str
) -> None:
    frames = list(packets.published().values())
    first, second = (
        bpf.compile(text, live=False).instructions
        for text in (longer, shorter)
    )
    assert measure.executed(first, frames) <= measure.executed(
        second, frames
    ), f"{longer!r} costs no more than {shorter!r}"


def test_the_published_packets_are_those_that_bpfkit_builds() -> None:
    assert packets.published() == packets.ethernet_frames(), (
        "data/packets.txt holds what bpfkit.packets builds"
    )
