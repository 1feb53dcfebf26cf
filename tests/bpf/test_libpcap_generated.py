"""Programs for generated expressions accept what libpcap's accept.

``pytest tests/bpf/test_libpcap_generated.py --examples 20000 --timeout 0``
compares that many, other ones on every run.
"""

from __future__ import annotations

import pytest
from bpfkit import compare, grammar, oracle
from bpfkit.effort import Effort
from bpfkit.effort import effort as effort
from bpfkit.names import fixed_names as fixed_names
from bpfkit.oracle import ETHERNET, RAW_IP
from hypothesis import strategies as st

pytestmark = pytest.mark.no_network


SAMPLE = [
    expression
    for link_type, expression in oracle.goldens().generated
    if link_type == ETHERNET
]
# If libpcap can be asked, generated expressions replace a part of the sample.
STEP = 4 if oracle.live() else 1
DRAWN = grammar.expressions() if oracle.live() else st.sampled_from(SAMPLE)


def agree(
    expression: str, link_type: int, source: oracle.Oracle, thorough: bool
) -> None:
    answer = source.ask(expression, link_type)
    if oracle.mistaken(answer):
        return
    found = next(
        compare.differences(expression, answer, link_type, thorough=thorough),
        None,
    )
    assert found is None, f"a filter means what libpcap says it means: {found}"


@pytest.mark.parametrize("link_type", [ETHERNET, RAW_IP])
@pytest.mark.parametrize("part", range(10))
def test_the_fixed_sample(effort: Effort, part: int, link_type: int) -> None:
    thorough = effort.asked is not None
    for expression in SAMPLE[part :: 10 * effort.limit(STEP, 1)]:
        agree(expression, link_type, oracle.goldens(), thorough)


def test_any_expression(effort: Effort) -> None:
    thorough = effort.asked is not None

    def check(expression: str, link_type: int) -> None:
        agree(expression, link_type, oracle.best(), thorough)

    links = st.sampled_from([ETHERNET, ETHERNET, RAW_IP])
    effort.check(200, check, DRAWN, links)
