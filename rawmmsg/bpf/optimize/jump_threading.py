"""Jump threading: a jump to a test whose outcome is known skips the test."""

from ..cfg import ACCEPT, REJECT, STATEMENTS, Graph, Node, calculate, holds
from .dataflow import UNKNOWN, Facts, Known, decide, learn, meet_facts

__all__ = ["JumpThreading"]

# The most facts on one path, which bounds the time for long expressions.
_MAX_FACTS = 96
# The most tests that one jump skips, for the same reason. The limit applies
# once all jumps together have skipped _FREE_STEPS tests per node.
_MAX_STEPS = 64
_FREE_STEPS = 16


class JumpThreading:
    """Walks once from the entry to the ends, collecting facts.

    A test that is left with one successor is removed. Its load stays if it
    may reject a packet that is cut short.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values = graph.values
        self.nodes = graph.nodes
        self.facts: dict[int, Facts] = {}
        self.steps = 0

    def run(self, root: int) -> int:
        """The entry of the graph without the tests that facts decide."""
        nodes = self.nodes
        facts_at = self.facts
        facts_at[root] = {}
        kept: list[tuple[int, int, int]] = []
        sequence = self.graph.order(root)
        self.steps = _FREE_STEPS * len(sequence)
        for number in sequence:
            facts = facts_at.pop(number, None)
            if facts is None:
                continue  # no path leads here any more
            node = nodes[number]
            if node.test in STATEMENTS:
                if node.test == ":=":
                    self.forget(facts, node.operand)
                yes = no = self.follow(node.yes, facts)
                self.arrive(yes, facts)
            else:
                yes, no = self.branch(node, facts)
            kept.append((number, yes, no))
        return self.rebuild(root, kept)

    def branch(self, node: Node, facts: Facts) -> tuple[int, int]:
        """Both successors of a test, behind the tests that can be skipped."""
        yes, no = node.yes, node.no
        decided = self.outcome(node, facts)
        if decided is None and node.test[-1] != "x":
            # `>= 0` holds for every packet.
            decided = decide(UNKNOWN, node.test, node.operand)
        if decided is not None:
            target = self.follow(yes if decided else no, facts)
            self.arrive(target, facts)
            return target, target
        # The ends need no facts. The last user may keep the dictionary.
        if yes > ACCEPT:
            yes_facts = dict(facts) if no > ACCEPT else facts
            self.note(yes_facts, node, True)
            yes = self.follow(yes, yes_facts)
            self.arrive(yes, yes_facts)
        if no > ACCEPT:
            self.note(facts, node, False)
            no = self.follow(no, facts)
            self.arrive(no, facts)
        return yes, no

    def note(self, facts: Facts, node: Node, outcome: bool) -> None:
        """Add the outcome of a test."""
        value, test, operand, _, _ = node
        known = facts.get(value)
        if known is None and len(facts) >= _MAX_FACTS:
            return
        if test[-1] == "x" or (test == "&" and outcome):
            facts[value, test, operand] = outcome
            return
        if not isinstance(known, Known):
            known = UNKNOWN
        facts[value] = learn(known, test, operand, outcome)

    def forget(self, facts: Facts, word: int) -> None:
        """Remove facts about values that depend on a scratch word."""
        bit = 1 << word
        words = self.graph.scratch_words
        for key in list(facts):
            value = key if isinstance(key, int) else key[0]
            depends = words(value)
            if not isinstance(key, int) and key[1][-1] == "x":
                depends |= words(key[2])
            if depends & bit:
                del facts[key]

    def follow(self, target: int, facts: Facts) -> int:
        """Where a jump to `target` ends, given the facts."""
        nodes = self.nodes
        steps = max(self.steps, _MAX_STEPS)
        while target > ACCEPT and steps:
            steps -= 1
            self.steps -= 1
            node = nodes[target]
            if node.test in STATEMENTS:
                break
            outcome = self.outcome(node, facts)
            if outcome is None:
                break
            target = node.yes if outcome else node.no
        return target

    def outcome(self, node: Node, facts: Facts) -> bool | None:
        """The outcome of a test, None if the facts do not decide it."""
        value, test, operand, _, _ = node
        fact = facts.get((value, test, operand))
        if isinstance(fact, bool):
            return fact
        if test[-1] == "x":
            return None
        known = facts.get(value)
        if isinstance(known, Known):
            return decide(known, test, operand)
        return self.derive(value, test, operand, facts)

    def derive(
        self, value: int, test: str, operand: int, facts: Facts
    ) -> bool | None:
        """The outcome of a test of "known value operator constant"."""
        kind, a, b, _ = self.values[value]
        if b < 0 or kind == "load":
            return None
        known = facts.get(a)
        right = self.values[b]
        if (
            right.kind != "const"
            or not isinstance(known, Known)
            or known.allowed is None
        ):
            return None
        results = {calculate(kind, item, right.a) for item in known.allowed}
        outcomes = {
            None if result is None else holds(test, result, operand)
            for result in results
        }
        return outcomes.pop() if len(outcomes) == 1 else None

    def arrive(self, target: int, facts: Facts) -> None:
        """Note that a path with these facts leads to `target`."""
        if target <= ACCEPT:
            return
        present = self.facts.get(target)
        if present is None:
            self.facts[target] = facts
        else:
            self.facts[target] = meet_facts(present, facts)

    def rebuild(self, root: int, kept: list[tuple[int, int, int]]) -> int:
        """Make the nodes again, last to first, with their new successors."""
        new = {REJECT: REJECT, ACCEPT: ACCEPT}
        nodes = self.nodes
        for number, old_yes, old_no in reversed(kept):
            node = nodes[number]
            yes, no = new[old_yes], new[old_no]
            if yes == no and node.test != ":=":
                new[number] = self.graph.evaluate(node, yes)
            elif yes == node.yes and no == node.no:
                new[number] = number
            else:
                new[number] = self.graph.node(node._replace(yes=yes, no=no))
        return new[root]
