"""The main pass: jumps over tests that are decided."""

from __future__ import annotations

from ..cfg import ACCEPT, REJECT, STATEMENTS, Graph, Node, calculate, holds
from .dataflow import UNKNOWN, Facts, Known, decide, learn, meet_facts

__all__ = ["Threader"]

# Bounds what is remembered on a way, for long expressions.
_MAX_FACTS = 96
# Bounds how many tests one jump leads over, for the same reason, once all
# jumps together have led over so many times the number of nodes.
_MAX_STEPS = 64
_FREE_STEPS = 16
# Sets the outcomes of opaque tests apart from those of others.
_OPAQUE = "opaque "


class Threader:
    """One walk with facts from the entry to the ends.

    A test that is left with one successor is taken out. Its load might
    have rejected a packet cut short: a full walk keeps it, for the module
    reach to decide. libpcap's optimiser drops such loads where it
    understands the tests behind them. A plain walk does so, and knows what
    libpcap knows, no more and no less: single outcomes, on the only way to
    a node, and that a field is not two numbers. With less knowledge two ways
    could look like one, and it would drop a load that libpcap keeps.
    """

    def __init__(self, graph: Graph, plain: bool) -> None:
        self.graph = graph
        self.plain = plain
        self.values = graph.values
        self.nodes = graph.nodes
        self.facts: dict[int, Facts] = {}
        self.steps = 0

    def run(self, root: int) -> int:
        """The entry of the graph without what facts decide."""
        nodes = self.nodes
        facts_at = self.facts
        facts_at[root] = {}
        kept: list[tuple[int, int, int]] = []
        sequence = self.graph.order(root)
        self.steps = _FREE_STEPS * len(sequence)
        for number in sequence:
            facts = facts_at.pop(number, None)
            if facts is None:
                continue
            node = nodes[number]
            if node.test in STATEMENTS:
                if node.test == ":=":
                    self.forget(facts, node.operand)
                yes = no = self.follow(node.yes, facts)
                self.arrive(yes, facts)
            else:
                yes, no = self.branch(number, node, facts)
            kept.append((number, yes, no))
        return self.rebuild(root, kept)

    def branch(self, number: int, node: Node, facts: Facts) -> tuple[int, int]:
        """Both successors of a test, what is decided jumped over."""
        yes, no = node.yes, node.no
        decided = self.outcome(node, facts)
        if decided is None and not self.plain and node.test[-1] != "x":
            # No packet decides `>= 0`; its load stays.
            decided = decide(UNKNOWN, node.test, node.operand)
        if decided is not None:
            target = self.follow(yes if decided else no, facts)
            self.arrive(target, facts)
            return target, target
        # An end needs no facts; the last user may have the dictionary.
        if yes > ACCEPT:
            yes_facts = dict(facts) if no > ACCEPT else facts
            self.note(yes_facts, number, node, True)
            yes = self.follow(yes, yes_facts)
            self.arrive(yes, yes_facts)
        if no > ACCEPT:
            self.note(facts, number, node, False)
            no = self.follow(no, facts)
            self.arrive(no, facts)
        return yes, no

    def note(
        self, facts: Facts, number: int, node: Node, outcome: bool
    ) -> None:
        """Add the outcome of a test."""
        value, test, operand, _, _, copy = node
        known = facts.get(value)
        if known is None and len(facts) >= _MAX_FACTS:
            return
        if self.plain:
            opaque = copy in self.graph.opaque
            key = _OPAQUE + test if opaque else test
            facts[value, key, operand] = (outcome, number)
            if not outcome or key != "=":
                return
        elif test[-1] == "x" or (test == "&" and outcome):
            facts[value, test, operand] = (outcome, number)
            return
        if not isinstance(known, Known):
            known = UNKNOWN
        facts[value] = learn(known, test, operand, outcome)

    def forget(self, facts: Facts, word: int) -> None:
        """Drop what is known of values that depend on a scratch word."""
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
        """Where a jump to `target` ends when these facts hold."""
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
        """The outcome of a test by what is known, None if it is open."""
        value, test, operand, _, _, copy = node
        opaque = self.plain and copy in self.graph.opaque
        key = _OPAQUE + test if opaque else test
        fact = facts.get((value, key, operand))
        if fact is not None:
            return bool(fact[0])
        if opaque or test[-1] == "x":
            return None
        known = facts.get(value)
        if isinstance(known, Known):
            if self.plain and test != "=":
                return None
            return decide(known, test, operand)
        return None if self.plain else self.derive(value, test, operand, facts)

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
        """A way to `target` on which these facts hold."""
        if target <= ACCEPT:
            return
        present = self.facts.get(target)
        if present is None:
            self.facts[target] = facts
        else:
            self.facts[target] = meet_facts(present, facts, self.plain)

    def rebuild(self, root: int, kept: list[tuple[int, int, int]]) -> int:
        """Make the nodes anew, from the ends, with their new successors."""
        new = {REJECT: REJECT, ACCEPT: ACCEPT}
        nodes = self.nodes
        for number, old_yes, old_no in reversed(kept):
            node = nodes[number]
            yes, no = new[old_yes], new[old_no]
            if yes == no and node.test != ":=":
                new[number] = self.single(node, yes, number == root)
            elif yes == node.yes and no == node.no:
                new[number] = number
            else:
                new[number] = self.graph.node(node._replace(yes=yes, no=no))
        return new[root]

    def single(self, node: Node, target: int, at_root: bool) -> int:
        """A test with one successor: its load only, or nothing at all.

        libpcap keeps the load of the first test of a program, unless the
        whole program goes.
        """
        drops = self.plain and node.test != "?"
        if drops and (target <= ACCEPT or not at_root):
            return target
        return self.graph.evaluate(node, target)
