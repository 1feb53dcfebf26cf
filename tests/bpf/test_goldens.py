"""The golden files are complete and agree with libpcap."""

from __future__ import annotations

import gzip

import pytest
from bpfkit import corpus, oracle
from bpfkit.oracle import ETHERNET, RAW_IP

pytestmark = pytest.mark.no_network


def recorded_version() -> str:
    """The version of libpcap that gave the answers: their first line."""
    path = oracle.GOLDEN / "golden-corpus.txt.gz"
    return gzip.decompress(path.read_bytes()).decode().splitlines()[0][2:]


@pytest.mark.parametrize("link_type", [ETHERNET, RAW_IP])
def test_every_expression_of_the_corpora_has_its_golden(
    link_type: int,
) -> None:
    known = oracle.goldens().corpus
    for entry in (
        *corpus.compiled(),
        *corpus.rejected(),
        *corpus.disputed(),
    ):
        assert (link_type, entry.expression) in known, (
            f"{entry.expression!r} has a golden: run make_goldens.py"
        )


def test_every_live_expression_has_its_golden() -> None:
    missing = [
        entry.expression
        for entry in corpus.live()
        if (ETHERNET, entry.expression) not in oracle.goldens().live
    ]
    assert missing == [], "every live expression has a golden of tcpdump's"


def test_no_golden_is_left_over() -> None:
    entries = (*corpus.compiled(), *corpus.rejected(), *corpus.disputed())
    wanted = {entry.expression for entry in entries}
    wanted.update(theirs for _, theirs in corpus.extensions())
    left = {expression for _, expression in oracle.goldens().corpus} - wanted
    assert len(left) <= 20, f"goldens belong to the corpora: {sorted(left)}"


def test_the_goldens_are_what_libpcap_says() -> None:
    """Another version of libpcap may write equivalent programs."""
    libpcap = oracle.live()
    same = libpcap is not None and libpcap.version == recorded_version()
    source = libpcap if libpcap is not None and same else oracle.goldens()
    fixed = {
        entry.expression
        for entry in corpus.compiled()
        if entry.section == "names"
    }
    for key, answer in oracle.goldens().answers.items():
        link_type, expression = key
        if expression not in fixed:
            assert source.ask(expression, link_type) == answer, (
                f"the golden of {expression!r} is libpcap's program"
            )
