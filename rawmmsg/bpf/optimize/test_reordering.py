"""Test reordering: tests of the same value are brought together.

`host A or host B` tests the source twice, with tests of the destination in
between. If the tests of the source follow each other, it is loaded once.
"""

from itertools import chain as joined
from typing import NamedTuple

from ..cfg import ACCEPT, REJECT, STATEMENTS, Graph
from .redundant_loads import Reach, covers, furthest, needs

__all__ = ["reorder_tests"]


class _Plan(NamedTuple):
    """The new order of a chain of tests that share one exit.

    The exit is their successor `yes` if `over_no`, else `no`.
    """

    tests: list[int]
    over_no: bool


def reorder_tests(graph: Graph, root: int) -> int:
    """Bring the tests of the same value in each chain together.

    A chain is a sequence of tests that share one exit, where nothing else
    jumps to any test but the first.
    """
    nodes = graph.nodes
    sequence = graph.order(root)
    jumps = {root: 1}
    for number in sequence:
        node = nodes[number]
        jumps[node.yes] = jumps.get(node.yes, 0) + 1
        jumps[node.no] = jumps.get(node.no, 0) + 1
    chained: set[tuple[int, bool]] = set()
    plans: dict[int, _Plan] = {}
    for number in sequence:
        for over_no in (True, False):
            if (number, over_no) in chained:
                continue
            chain = _chain(graph, number, over_no, jumps)
            chained.update((item, over_no) for item in chain)
            exit_ = nodes[number].yes if over_no else nodes[number].no
            tests = _by_value(graph, chain, free=exit_ == REJECT)
            if tests != chain:
                plans.setdefault(number, _Plan(tests, over_no))
    return _apply(graph, sequence, plans) if plans else root


def _chain(
    graph: Graph, number: int, over_no: bool, jumps: dict[int, int]
) -> list[int]:
    """The chain that begins with the test `number`."""
    nodes = graph.nodes
    node = nodes[number]
    chain = [number]
    exit_ = node.yes if over_no else node.no
    while node.test not in STATEMENTS:
        number = node.no if over_no else node.yes
        if number <= ACCEPT or jumps[number] != 1:
            break
        node = nodes[number]
        if (node.yes if over_no else node.no) != exit_:
            break
        if node.test in STATEMENTS:
            break
        chain.append(number)
    return chain


def _by_value(graph: Graph, chain: list[int], *, free: bool) -> list[int]:
    """The chain in the order in which its values first appear.

    Unless the exit rejects (`free`), a test does not move before a load that
    reaches further than all loads before it.
    """
    if len(chain) < 3:
        return chain
    reach: Reach = {}
    ordered: list[int] = []
    groups: dict[int, list[int]] = {}
    for number in chain:
        node = graph.nodes[number]
        needed = needs(graph, node)
        if not free and not covers(reach, needed):
            reach = furthest(reach, needed)
            ordered.extend(joined.from_iterable(groups.values()))
            groups = {}
        groups.setdefault(node.value, []).append(number)
    ordered.extend(joined.from_iterable(groups.values()))
    return ordered


def _apply(graph: Graph, sequence: list[int], plans: dict[int, _Plan]) -> int:
    """Make the graph again, with chains in their new order."""
    new = {REJECT: REJECT, ACCEPT: ACCEPT}
    nodes = graph.nodes
    moved: set[int] = set()
    for number in reversed(sequence):
        plan = plans.get(number)
        if plan is None or not moved.isdisjoint(plan.tests):
            node = nodes[number]
            new[number] = graph.node(
                node._replace(yes=new[node.yes], no=new[node.no])
            )
        else:
            moved.update(plan.tests)
            new[number] = _link(graph, new, number, plan)
    return new[sequence[0]]


def _link(graph: Graph, new: dict[int, int], head: int, plan: _Plan) -> int:
    """Make a chain in its new order, from its last test to its first."""
    nodes = graph.nodes
    # The chain ends where its last test in the old order led.
    end = head
    members = set(plan.tests)
    while end in members:
        end = nodes[end].no if plan.over_no else nodes[end].yes
    rest = new[end]
    exit_ = new[nodes[head].yes if plan.over_no else nodes[head].no]
    for number in reversed(plan.tests):
        yes, no = (exit_, rest) if plan.over_no else (rest, exit_)
        rest = graph.node(nodes[number]._replace(yes=yes, no=no))
    return rest
