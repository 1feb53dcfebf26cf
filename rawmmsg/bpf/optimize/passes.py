"""The passes over the control-flow graph, in their order."""

from ..cfg import ACCEPT, MAX_NODES_OPTIMIZED, REJECT, Graph
from .jump_threading import JumpThreading
from .redundant_loads import eliminate_redundant_loads
from .test_reordering import reorder_tests

__all__ = ["optimize"]

_MAX_ROUNDS = 8
# The limit for graphs that are too long to become a program, most likely.
_MAX_ROUNDS_LONG = 3
_LONG = 4096


def optimize(graph: Graph, root: int) -> int:
    """The entry of a graph that accepts the same packets at less cost."""
    graph.max_nodes = MAX_NODES_OPTIMIZED
    root = _simplify(graph, root)
    reordered = reorder_tests(graph, root)
    if reordered != root:
        root = _simplify(graph, reordered)
    return _initialize_scratch_words(graph, root) if graph.assigns else root


def _simplify(graph: Graph, root: int) -> int:
    """Repeat the main passes until they change nothing."""
    for done in range(_MAX_ROUNDS):
        if done == _MAX_ROUNDS_LONG and len(graph.order(root)) > _LONG:
            break
        before = root
        if graph.assigns:
            root = _eliminate_dead_assignments(graph, root)
        root = JumpThreading(graph).run(root)
        root = eliminate_redundant_loads(graph, root)
        if root == before or root <= ACCEPT:
            break
    return root


def _eliminate_dead_assignments(graph: Graph, root: int) -> int:
    """Remove assignments to scratch words that nothing reads.

    A test that only chose between such assignments still evaluates its
    value, because that may reject a packet that is cut short.
    """
    nodes = graph.nodes
    words = graph.scratch_words
    new = {REJECT: REJECT, ACCEPT: ACCEPT}
    live = {REJECT: 0, ACCEPT: 0}
    for number in reversed(graph.order(root)):
        node = nodes[number]
        needed = live[node.yes] | live[node.no]
        yes, no = new[node.yes], new[node.no]
        if node.test == ":=":
            bit = 1 << node.operand
            if not needed & bit:
                new[number] = yes
                live[number] = needed
                continue
            needed &= ~bit
        elif node.test[-1] == "x":
            needed |= words(node.operand)
        live[number] = needed | words(node.value)
        if yes == no and node.test != ":=":
            new[number] = graph.evaluate(node, yes)
        else:
            new[number] = graph.node(node._replace(yes=yes, no=no))
    return new[root]


def _initialize_scratch_words(graph: Graph, root: int) -> int:
    """Clear the scratch words that a path reads before it writes them.

    `geneve or ip` looks for IP inside a tunnel even if there is none. What it
    reads there has no meaning, but the kernel refuses a program that reads a
    word that was never written.
    """
    words = graph.scratch_words
    written_at = {root: 0}
    missing = 0
    for number in graph.order(root):
        node = graph.nodes[number]
        written = written_at[number]
        reads = words(node.value)
        if node.test[-1] == "x":
            reads |= words(node.operand)
        missing |= reads & ~written
        if node.test == ":=":
            written |= 1 << node.operand
        for target in (node.yes, node.no):
            written_at[target] = written_at.get(target, written) & written
    for word in range(missing.bit_length()):
        if missing >> word & 1:
            root = graph.assign(word, graph.constant(0), root)
    return root
