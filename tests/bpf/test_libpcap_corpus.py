"""Programs for expressions written by hand accept what libpcap's accept, for
Ethernet and for raw IP.
"""

from __future__ import annotations

import pytest
from bpfkit import compare, corpus, leftovers, machine, oracle
from bpfkit.names import fixed_names as fixed_names
from bpfkit.oracle import ETHERNET, LOOPBACK, RAW_IP, Pair

from rawmmsg import bpf

pytestmark = pytest.mark.no_network

BOTH_LINKS = pytest.mark.parametrize("link_type", [ETHERNET, RAW_IP])
# Names were resolved once, when the goldens were written: see bpfkit.names.
GOLDEN_SECTIONS = ("names",)


def ask(entry: corpus.Entry, link_type: int) -> oracle.Answer:
    source = (
        oracle.goldens() if entry.section in GOLDEN_SECTIONS else oracle.best()
    )
    return source.ask(entry.expression, link_type)


@BOTH_LINKS
@pytest.mark.parametrize(
    "entry", corpus.compiled(), ids=lambda entry: entry.expression
)
def test_accepts_what_libpcap_accepts(
    entry: corpus.Entry, link_type: int
) -> None:
    found = next(
        compare.differences(
            entry.expression, ask(entry, link_type), link_type
        ),
        None,
    )
    assert found is None, f"a filter means what libpcap says it means: {found}"


@BOTH_LINKS
@pytest.mark.parametrize(
    "entry", corpus.rejected(), ids=lambda entry: entry.expression
)
def test_compiles_nothing_that_libpcap_refuses(
    entry: corpus.Entry, link_type: int
) -> None:
    answer = oracle.best().ask(entry.expression, link_type)
    found = next(
        compare.differences(entry.expression, answer, link_type), None
    )
    assert found is None, f"what libpcap refuses accepts no packet: {found}"


def test_accepts_what_the_unoptimised_program_accepts_cut_short() -> None:
    """A load may only be dropped if another one reaches as far."""
    folded = {
        "1 << 30 + 2 = 0 and tcp",
        "mpls 100000 or ((20 & 8) * (5 / udp[4:2]) <= 0x1fff and "
        "(20 & 8) * (5 / udp[4:2]) <= 0x1fff)",
    }
    for entry in corpus.compiled():
        answer = oracle.goldens().ask(entry.expression)
        ours = compare.compile_ours(entry.expression, ETHERNET)
        assert isinstance(answer, Pair)
        assert isinstance(ours, bpf.Program)
        if entry.expression in folded or leftovers.reads_leftovers(
            answer.unoptimised
        ):
            continue
        programs = [ours.instructions, answer.unoptimised]
        for packet, length in compare.feed(programs, ETHERNET, limit=20):
            got, wanted = (
                machine.run(program, packet, length)[0] for program in programs
            )
            assert got == wanted, (
                f"{entry.expression!r} accepts what libpcap's unoptimised "
                f"program accepts: {len(packet)} of {length} bytes, "
                f"{packet.hex()}"
            )


@pytest.mark.parametrize(("ours", "theirs"), corpus.extensions())
def test_an_extension_means_its_long_form(ours: str, theirs: str) -> None:
    found = next(compare.differences(ours, oracle.best().ask(theirs)), None)
    assert found is None, f"{ours!r} is short for {theirs!r}: {found}"


def test_the_loopback_is_compiled_as_ethernet() -> None:
    """lo has an Ethernet header of zeros on a packet socket."""
    for entry in corpus.compiled()[::20]:
        loopback = compare.compile_ours(entry.expression, LOOPBACK)
        ethernet = compare.compile_ours(entry.expression, ETHERNET)
        assert loopback == ethernet, (
            f"{entry.expression!r} is one program for link types 772 and 1"
        )


def test_the_corpus_is_large_and_compiles() -> None:
    answers = [
        oracle.goldens().ask(entry.expression) for entry in corpus.compiled()
    ]
    assert len(answers) >= 400, "the corpus holds at least 400 expressions"
    assert all(
        isinstance(answer, Pair) and answer.optimised for answer in answers
    ), "libpcap compiles every expression of the corpus for Ethernet"
