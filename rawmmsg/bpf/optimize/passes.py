"""The passes over the control-flow graph, and their order.

The main pass walks the graph from its entry with all that is known about
values on every way that leads to a node: tests already decided are
jumped over, nodes that no way leads to vanish, equal tails become one.
Another brings the tests of one value in a chain together, so that the
value is loaded once.

The optimised program accepts what the graph accepts, of packets cut short
as well: a load that nothing needs but that rejects such a packet stays.
The one exception is where libpcap drops such loads for sure: then the plain
walk drops them, too, if that makes the program shorter.
"""

from __future__ import annotations

from ..cfg import ACCEPT, MAX_NODES_OPTIMIZED, REJECT, Graph, Node
from .jump_threading import Threader
from .redundant_loads import drop_covered, has_loads_only
from .test_reordering import gather

__all__ = ["optimize"]

_MAX_ROUNDS = 8
# The same for graphs that hardly become a program: of so many nodes.
_MAX_ROUNDS_LONG = 3
_LONG = 4096


def _drop_dead_assignments(graph: Graph, root: int) -> int:
    """Leave out assignments to scratch words that nothing reads.

    A test that only chose between such assignments still evaluates its
    value, as that may reject a truncated packet.
    """
    nodes = graph.nodes
    words = graph.scratch_words
    new = {REJECT: REJECT, ACCEPT: ACCEPT}
    live = {REJECT: 0, ACCEPT: 0}
    for number in reversed(graph.order(root)):
        node = nodes[number]
        value, test, operand, yes, no, copy = node
        needed = live[yes] | live[no]
        if test == ":=":
            bit = 1 << operand
            if not needed & bit:
                new[number] = new[yes]
                live[number] = needed
                continue
            needed &= ~bit
        elif test[-1] == "x":
            needed |= words(operand)
        live[number] = needed | words(value)
        yes, no = new[yes], new[no]
        if yes == no and test != ":=":
            new[number] = graph.evaluate(node, yes)
        else:
            new[number] = graph.node(Node(value, test, operand, yes, no, copy))
    return new[root]


def _merge_copies(graph: Graph, root: int) -> int:
    """Let equal nodes be one that were kept apart until now."""
    new = {REJECT: REJECT, ACCEPT: ACCEPT}
    for number in reversed(graph.order(root)):
        node = graph.nodes[number]
        new[number] = graph.node(
            node._replace(yes=new[node.yes], no=new[node.no], copy=0)
        )
    return new[root]


def _initialize(graph: Graph, root: int) -> int:
    """Clear the scratch words that are read before they are written.

    `geneve or ip` looks for IP inside a tunnel that is not there. What it
    finds is of no use, but the kernel refuses to read such a word.
    """
    words = graph.scratch_words
    written_at = {root: 0}
    missing = 0
    for number in graph.order(root):
        value, test, operand, yes, no, _ = graph.nodes[number]
        written = written_at[number]
        reads = words(value)
        if test == ":=":
            written |= 1 << operand
        elif test[-1] == "x":
            reads |= words(operand)
        missing |= reads & ~written_at[number]
        for target in (yes, no):
            written_at[target] = written_at.get(target, written) & written
    word = 0
    while missing >> word:
        if missing >> word & 1:
            root = graph.assign(word, graph.constant(0), root)
        word += 1
    return root


def _thread(graph: Graph, root: int, *, plain: bool = False) -> int:
    """Apply the main pass until it changes nothing."""
    for done in range(_MAX_ROUNDS):
        if done == _MAX_ROUNDS_LONG and len(graph.order(root)) > _LONG:
            break
        before = root
        if graph.assigns:
            root = _drop_dead_assignments(graph, root)
        root = Threader(graph, plain).run(root)
        root = drop_covered(graph, root)
        if root == before or root <= ACCEPT:
            break
    return root


def _gather(graph: Graph, root: int) -> int:
    """Bring the tests of each value together, where loads may move."""
    gathered = gather(graph, root)
    return root if gathered == root else _thread(graph, gathered)


def _apply(graph: Graph, root: int) -> int:
    """All passes but the plain walk."""
    root = _thread(graph, root)
    # Chains are longest while the copies are apart.
    root = _gather(graph, root)
    merged = _merge_copies(graph, root)
    if merged != root:
        root = _gather(graph, _thread(graph, merged))
    return root


def optimize(graph: Graph, root: int) -> int:
    """The entry of a better graph."""
    graph.max_nodes = MAX_NODES_OPTIMIZED
    source = root
    root = _apply(graph, source)
    if not graph.keeps_loads and has_loads_only(graph, root):
        # What is kept for packets cut short only may be much of it.
        plain = _apply(graph, _thread(graph, source, plain=True))
        if len(graph.order(plain)) < len(graph.order(root)):
            root = plain
    return _initialize(graph, root) if graph.assigns else root
