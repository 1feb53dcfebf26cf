"""The control-flow graph between code generation and assembly.

A *value* is something that the packet determines: a load, a constant, an
operation on values. A *node* is a test of a value with two successors, or
an assignment of a value to a scratch word. Both are numbered and interned:
equal means identical, so equal tails of the graph are one.
The graph has no cycles; a node is made after its successors.

Evaluating a load outside the packet rejects it, so a node is never moved
before a load that the source performs earlier, unless said so.
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import FilterError

__all__ = ["ACCEPT", "REJECT", "Graph", "Node", "Value", "is_operand"]

REJECT = 0
ACCEPT = 1

WORD = 0xFFFFFFFF
# A program has at most 4096 instructions. What needs far more nodes than
# that before optimisation is given up at once; the optimiser makes new
# ones in every pass.
MAX_NODES = 16_000
MAX_NODES_OPTIMIZED = 500_000
MAX_OFFSET = 0x7FFFFFFF


class Value(NamedTuple):
    """One value.

    kind "const": the number `a`; "load": `a` bytes at value `b` plus `c`,
    `b` negative for none; "header": four times the low nibble of byte
    `c`; "length"; "ancillary": SKF_AD_ offset `c`; "scratch": word `c`;
    otherwise an operator on the values `a` and `b`.
    """

    kind: str
    a: int = 0
    b: int = -1
    c: int = 0


class Node(NamedTuple):
    """A test "value test operand", or an assignment.

    test "=", ">", ">=", "&" (any common bit) with the number `operand`;
    the same with a trailing "x" with the value `operand`; ":=" stores the
    value in scratch word `operand`, "?" only evaluates it, and both go to
    `yes`, which is also `no`. Nodes of different `copy` stay apart.
    """

    value: int
    test: str
    operand: int
    yes: int
    no: int
    copy: int = 0


# The tests that are none: the node has one successor.
STATEMENTS = frozenset({":=", "?"})


def calculate(operator: str, a: int, b: int) -> int | None:
    """a operator b in 32 bits; None for a division by zero."""
    match operator:
        case "+":
            return (a + b) & WORD
        case "-":
            return (a - b) & WORD
        case "*":
            return (a * b) & WORD
        case "&":
            return a & b
        case "|":
            return a | b
        case "^":
            return a ^ b
        case "<<":
            return (a << b) & WORD if b < 32 else 0
        case ">>":
            return a >> b if b < 32 else 0
        case "/":
            return a // b if b else None
        case _:
            return a % b if b else None


def holds(test: str, a: int, b: int) -> bool:
    """Whether "a test b"."""
    if test == "=":
        return a == b
    if test == ">":
        return a > b
    if test == ">=":
        return a >= b
    return a & b != 0


def is_operand(operator: str, number: int) -> bool:
    """Whether the kernel takes a constant as the right operand."""
    if operator in ("/", "%"):
        return number != 0
    return number < 32 or operator not in ("<<", ">>")


# x operator 0 is x, or 0.
_ZERO_KEEPS = frozenset("+-|^") | {"<<", ">>"}
_ZERO_CLEARS = frozenset("*&")
_OPERATORS = frozenset("+-*/%&|^") | {"<<", ">>"}
_COMMUTES = frozenset("+*|&^")


class Graph:
    """The tables of values and nodes, and the ways to add to them."""

    def __init__(self, live: bool) -> None:
        # Whether there is something beside the packet. In memory there is
        # not, and to load it rejects the packet.
        self.live = live
        self.values: list[Value] = []
        self._value_numbers: dict[Value, int] = {}
        # Numbers 0 and 1 are the two ends; these entries are never read.
        self.nodes: list[Node] = [Node(-1, "", 0, 0, 0)] * 2
        self._node_numbers: dict[Node, int] = {}
        # What evaluating each value loads, for the module reach.
        self.reaches: dict[int, dict[int, int]] = {}
        self.max_nodes = MAX_NODES
        self.assigns = False
        # How many scratch words assignments use, from word 0 up.
        self.reserved = 0
        # Whether arithmetic with constants is left to the packet: libpcap
        # does not optimise programs for tunnels at all.
        self.exact = False
        # Whether to keep the loads of tests that decide nothing, because
        # it is not sure that libpcap drops them.
        self.keeps_loads = False
        # Values that the kernel would refuse, with reason and position.
        self.mistakes: dict[int, tuple[str, int]] = {}
        # Given to new tests: equal code that is to be optimised apart.
        self.copy = 0
        # The copies that test what libpcap does not recognise.
        self.opaque: set[int] = set()

    # -- values --------------------------------------------------------------

    def value(self, value: Value) -> int:
        """The number of a value."""
        number = self._value_numbers.get(value)
        if number is None:
            number = self._value_numbers[value] = len(self.values)
            self.values.append(value)
        return number

    def constant(self, number: int) -> int:
        return self.value(Value("const", number & WORD))

    def load(self, size: int, base: int, offset: int) -> int:
        """`size` bytes at `offset` behind the value `base` (-1: none)."""
        while base >= 0:
            value = self.values[base]
            if value.kind == "const":
                offset, base = offset + value.a, -1
            elif value.kind == "+" and self.is_constant(value.b):
                offset += self.values[value.b].a
                base = value.a
            else:
                break
        offset &= WORD
        if base < 0 and offset > MAX_OFFSET:
            # The kernel gives such offsets other meanings; no packet is
            # that long.
            offset = MAX_OFFSET
        return self.value(Value("load", size, base, offset))

    def header_length(self, base: int, offset: int) -> int:
        """The length of the IPv4 header that begins there."""
        if base < 0:
            return self.value(Value("header", c=offset))
        byte = self.load(1, base, offset)
        nibble = self.operation("&", byte, self.constant(0xF))
        return self.operation("<<", nibble, self.constant(2))

    def length(self) -> int:
        return self.value(Value("length"))

    def ancillary(self, offset: int) -> int:
        return self.value(Value("ancillary", c=offset))

    def scratch(self, word: int) -> int:
        return self.value(Value("scratch", c=word))

    def is_constant(self, number: int) -> bool:
        return self.values[number].kind == "const"

    def operation(self, operator: str, a: int, b: int) -> int:
        """a operator b, simplified where that changes no load."""
        left, right = self.values[a], self.values[b]
        if right.kind == "const":
            known = right.a
            shifted = operator in ("<<", ">>") and known > 31
            if left.kind == "const" and not (shifted and self.exact):
                result = calculate(operator, left.a, known)
                if result is not None:
                    return self.constant(result)
            if known == 0:
                if operator in _ZERO_KEEPS:
                    return a
                if operator in _ZERO_CLEARS and not self.keeps(a):
                    return b
            elif known == 1 and operator in "*/":
                return a
            if operator == "-":
                operator, b = "+", self.constant(-known)
                known = -known & WORD
            if operator == left.kind == "+" and self.is_constant(left.b):
                total = self.values[left.b].a + known
                return self.operation("+", left.a, self.constant(total))
        elif left.kind == "const" and operator in _COMMUTES:
            return self.operation(operator, b, a)
        return self.value(Value(operator, a, b))

    def add(self, value: int, offset: int) -> int:
        return self.operation("+", value, self.constant(offset))

    def scratch_words(self, number: int) -> int:
        """The scratch words that a value depends on, as a bit set."""
        kind, a, b, c = self.values[number]
        if kind == "scratch":
            return 1 << c
        if kind == "load":
            return self.scratch_words(b) if b >= 0 else 0
        if kind in ("const", "header", "length", "ancillary"):
            return 0
        return self.scratch_words(a) | self.scratch_words(b)

    def parts(self, number: int) -> tuple[int, ...]:
        """The values that a value is made of."""
        kind, a, b, _ = self.values[number]
        if kind == "load":
            return (b,) if b >= 0 else ()
        if kind in ("const", "header", "length", "ancillary", "scratch"):
            return ()
        return a, b

    def mistake(self, number: int) -> tuple[str, int] | None:
        """The mistake in a value, if there is one: reason and position."""
        found = self.mistakes.get(number)
        for part in self.parts(number):
            found = found or self.mistake(part)
        return found

    def keeps(self, number: int) -> bool:
        """Whether a value is computed even where the result is surely 0."""
        return self.exact or (
            bool(self.mistakes) and self.mistake(number) is not None
        )

    def may_reject(self, number: int) -> bool:
        """Whether evaluating a value may reject the packet."""
        kind, a, b, _ = self.values[number]
        if kind in ("const", "length", "scratch"):
            return False
        if kind == "ancillary":
            return not self.live
        if kind in ("load", "header", "/", "%"):
            return True
        return self.may_reject(a) or self.may_reject(b)

    # -- nodes ---------------------------------------------------------------

    def node(self, node: Node) -> int:
        """The number of a node."""
        number = self._node_numbers.get(node)
        if number is None:
            number = self._node_numbers[node] = len(self.nodes)
            if number > self.max_nodes:
                raise FilterError(
                    "the expression is too long: a program has at most "
                    "4096 instructions"
                )
            self.nodes.append(node)
        return number

    def order(self, root: int) -> list[int]:
        """The nodes that root leads to, every node before its successors."""
        nodes = self.nodes
        finished: list[int] = []
        seen = {REJECT, ACCEPT}
        stack = [root]
        while stack:
            number = stack.pop()
            if number < 0:
                finished.append(~number)
            elif number not in seen:
                seen.add(number)
                stack.append(~number)
                node = nodes[number]
                if node.yes not in seen:
                    stack.append(node.yes)
                if node.no not in seen:
                    stack.append(node.no)
        finished.reverse()
        return finished

    def assign(self, word: int, value: int, target: int) -> int:
        """M[word] = value, then go on at target."""
        self.assigns = True
        return self.node(Node(value, ":=", word, target, target))

    def test(
        self, value: int, test: str, operand: int, yes: int, no: int
    ) -> int:
        """Go to yes if "value test operand" for a number, else to no.

        A test that decides nothing is left to the optimiser, because its
        load may reject the packet.
        """
        copy = self.copy
        kind, a, b, _ = self.values[value]
        if kind == "const":
            return yes if holds(test, a, operand) else no
        if test == "=":
            if kind == "&" and self.is_constant(b):
                mask = self.values[b].a
                if operand == 0:
                    return self.node(Node(a, "&", mask, no, yes, copy))
                if operand == mask and mask & mask - 1 == 0:
                    return self.node(Node(a, "&", mask, yes, no, copy))
            elif kind == "+" and self.is_constant(b):
                number = operand - self.values[b].a & WORD
                return self.test(a, "=", number, yes, no)
        return self.node(Node(value, test, operand, yes, no, copy))

    def evaluate(self, node: Node, target: int) -> int:
        """Evaluate the values of a test, then go on at target."""
        if node.test[-1] == "x":
            target = self.evaluate_value(node.operand, target)
        return self.evaluate_value(node.value, target)

    def evaluate_value(self, value: int, target: int) -> int:
        """The same for a value; nothing if it cannot reject the packet."""
        kind, a, b, _ = self.values[value]
        while kind in _OPERATORS and self.is_constant(b):
            if not is_operand(kind, self.values[b].a) and kind in "/%":
                break
            value = a
            kind, a, b, _ = self.values[value]
        if target == REJECT or not self.may_reject(value):
            return target
        if target > ACCEPT and self.nodes[target].value == value:
            return target
        return self.node(Node(value, "?", 0, target, target, self.copy))

    def compare(
        self, left: int, relation: str, right: int, yes: int, no: int
    ) -> int:
        """Go to yes if "left relation right" for two values."""
        if relation == "!=":
            return self.compare(left, "=", right, no, yes)
        if relation in ("<", "<="):
            opposite = ">=" if relation == "<" else ">"
            return self.compare(left, opposite, right, no, yes)
        if self.is_constant(right):
            operand = self.values[right].a
            return self.test(left, relation, operand, yes, no)
        if self.is_constant(left):
            operand = self.values[left].a
            if relation == "=":
                return self.test(right, "=", operand, yes, no)
            # k > v is not v >= k; k >= v is not v > k
            opposite = ">=" if relation == ">" else ">"
            return self.test(right, opposite, operand, no, yes)
        return self.node(Node(left, relation + "x", right, yes, no))
