"""Chains of tests that share an exit, put in a better order."""

from __future__ import annotations

from itertools import chain as joined

from ..cfg import ACCEPT, REJECT, STATEMENTS, Graph
from .redundant_loads import Reach, covers, furthest, needs

__all__ = ["gather"]


def gather(graph: Graph, root: int) -> int:
    """Put the tests of one value in a chain of tests side by side.

    In `host A or host B` the source is tested twice, with a test of the
    destination between. Only tests that nothing else jumps to may move.
    """
    nodes = graph.nodes
    sequence = graph.order(root)
    ways = {root: 1}
    for number in sequence:
        node = nodes[number]
        ways[node.yes] = ways.get(node.yes, 0) + 1
        ways[node.no] = ways.get(node.no, 0) + 1
    chained: set[tuple[int, bool]] = set()
    plans: dict[int, tuple[list[int], bool]] = {}
    for number in sequence:
        for over_no in (True, False):
            if (number, over_no) in chained:
                continue
            chain = _chain(graph, number, over_no, ways)
            chained.update((item, over_no) for item in chain)
            exit_ = nodes[number].yes if over_no else nodes[number].no
            gathered = _by_value(graph, chain, free=exit_ == REJECT)
            if gathered != chain:
                plans.setdefault(number, (gathered, over_no))
    if not plans:
        return root
    return _apply(graph, sequence, plans)


def _chain(
    graph: Graph, number: int, over_no: bool, ways: dict[int, int]
) -> list[int]:
    """The tests from `number` on that share one exit."""
    nodes = graph.nodes
    node = nodes[number]
    chain = [number]
    exit_ = node.yes if over_no else node.no
    while node.test not in STATEMENTS:
        number = node.no if over_no else node.yes
        if number <= ACCEPT or ways[number] != 1:
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

    A test that leads to the exit is not moved before a load that reaches
    further than what was loaded until then, unless the exit rejects.
    """
    if len(chain) < 3:
        return chain
    reach: Reach = {}
    gathered: list[int] = []
    groups: dict[int, list[int]] = {}
    for number in chain:
        node = graph.nodes[number]
        needed = needs(graph, node)
        if not free and not covers(reach, needed):
            reach = furthest(reach, needed)
            gathered.extend(joined.from_iterable(groups.values()))
            groups = {}
        groups.setdefault(node.value, []).append(number)
    gathered.extend(joined.from_iterable(groups.values()))
    return gathered


def _apply(
    graph: Graph,
    sequence: list[int],
    plans: dict[int, tuple[list[int], bool]],
) -> int:
    """Rebuild the graph with chains in their new order."""
    new = {REJECT: REJECT, ACCEPT: ACCEPT}
    nodes = graph.nodes
    moved: set[int] = set()
    for number in reversed(sequence):
        node = nodes[number]
        plan = plans.get(number)
        if plan is None or any(item in moved for item in plan[0]):
            new[number] = graph.node(
                node._replace(yes=new[node.yes], no=new[node.no])
            )
            continue
        gathered, over_no = plan
        moved.update(gathered)
        new[number] = _link(graph, new, number, gathered, over_no)
    return new[sequence[0]]


def _link(
    graph: Graph,
    new: dict[int, int],
    head: int,
    gathered: list[int],
    over_no: bool,
) -> int:
    """A chain from its last test to its first."""
    nodes = graph.nodes
    members = set(gathered)
    # The end of the chain is where its last test in the old order led.
    end = head
    while end in members:
        end = nodes[end].no if over_no else nodes[end].yes
    rest = new[end]
    exit_ = new[nodes[head].yes if over_no else nodes[head].no]
    for number in reversed(gathered):
        yes, no = (exit_, rest) if over_no else (rest, exit_)
        rest = graph.node(nodes[number]._replace(yes=yes, no=no))
    return rest
