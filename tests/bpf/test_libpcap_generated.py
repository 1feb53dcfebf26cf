"""Expressions drawn from the grammar mean what they mean to libpcap.

``RAWMMSG_BPF_EXAMPLES=20000`` draws that many by hand, other ones on every
run.
"""

from __future__ import annotations

import pytest
from bpfkit import BY_HAND, compare, examples, grammar, oracle
from bpfkit.names import fixed_names as fixed_names
from bpfkit.oracle import ETHERNET, RAW_IP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.no_network


SAMPLE = [
    expression
    for link_type, expression in oracle.goldens().generated
    if link_type == ETHERNET
]
# Where libpcap can be asked, what is drawn takes the place of the rest.
STEP = 4 if oracle.live() and not BY_HAND else 1
DRAWN = grammar.expressions() if oracle.live() else st.sampled_from(SAMPLE)


def agree(expression: str, link_type: int, source: oracle.Oracle) -> None:
    answer = source.ask(expression, link_type)
    if oracle.mistaken(answer):
        return
    found = next(compare.differences(expression, answer, link_type), None)
    assert found is None, f"a filter means what libpcap says it means: {found}"


@pytest.mark.parametrize("link_type", [ETHERNET, RAW_IP])
@pytest.mark.parametrize("part", range(10))
def test_the_fixed_sample(part: int, link_type: int) -> None:
    for expression in SAMPLE[part :: 10 * STEP]:
        agree(expression, link_type, oracle.goldens())


@settings(
    max_examples=examples(200),
    derandomize=not BY_HAND,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(DRAWN, st.sampled_from([ETHERNET, ETHERNET, RAW_IP]))
def test_any_expression(expression: str, link_type: int) -> None:
    agree(expression, link_type, oracle.best())
