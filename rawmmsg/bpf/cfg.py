"""The control-flow graph between code generation and assembly.

A *value* is computed from the packet: a load, a constant, an operation on
values. A *node* tests a value and has two successors, or it assigns a value
to a scratch word. Both are numbered, and equal ones have the same number, so
that equal tails of the graph are one. The graph has no cycles, and a node is
made after its successors.

A load outside the packet rejects the packet. Each pass over the graph keeps
this: of packets that are cut short, a program accepts exactly what libpcap's
unoptimised program accepts. So a load whose value decides nothing stays,
unless another load on the same paths reaches as far. (Two kinds of arithmetic
are folded as in libpcap's optimiser: `x * 0`, and shifts by more than 31.)

libpcap's own optimiser drops some of these loads, and then accepts more
packets that are cut short. To imitate that, this compiler would have to know
which loads libpcap drops, and it would gain little: over the corpus in
tests/bpf, its programs execute 0.96 times as many instructions as libpcap's,
and with an imitation 0.955. 13 of 1,096 execute more than 1.25 times as many:
contradictions such as `tcp or not tcp`, and some of the form `not (A and B)`.
"""

from typing import NamedTuple

from . import arithmetic
from . import opcodes as op
from .errors import FilterError

__all__ = [
    "ACCEPT",
    "COMMUTES",
    "MAX_OFFSET",
    "OPERATIONS",
    "REJECT",
    "STATEMENTS",
    "TESTS",
    "TOO_LONG",
    "WORD",
    "Graph",
    "Node",
    "Value",
    "calculate",
    "holds",
    "is_operand",
]

REJECT = 0
ACCEPT = 1

WORD = 0xFFFFFFFF
TOO_LONG = (
    f"the expression is too long: a program has at most {op.BPF_MAXINSNS} "
    "instructions"
)
# An expression that needs far more nodes than a program has instructions is
# refused before optimisation. Each pass of the optimiser makes new nodes.
MAX_NODES = 16_000
MAX_NODES_OPTIMIZED = 500_000
MAX_OFFSET = 0x7FFFFFFF


class Value(NamedTuple):
    """One value, by kind.

    "const": the number `a`; "load": `a` bytes at offset `c`, plus the value
    `b` unless it is -1; "header": four times the low nibble of byte `c`;
    "length": of the packet; "ancillary": SKF_AD_OFF + `c`; "scratch": word
    `c`; or an operator on the values `a` and `b`.
    """

    kind: str
    a: int = 0
    b: int = -1
    c: int = 0


class Node(NamedTuple):
    """A test "value test operand", or an assignment.

    "=", ">", ">=" and "&" (any common bit) test the value against the number
    `operand`; with a trailing "x", against the value `operand`. ":=" stores
    the value in scratch word `operand`. "?" only evaluates it. These two have
    one successor: `yes` and `no` are the same.
    """

    value: int
    test: str
    operand: int
    yes: int
    no: int


# The "tests" that test nothing: the node has one successor.
STATEMENTS = frozenset({":=", "?"})


# Operators of values and tests of nodes, and their opcodes.
OPERATIONS = {
    "+": op.BPF_ADD,
    "-": op.BPF_SUB,
    "*": op.BPF_MUL,
    "/": op.BPF_DIV,
    "|": op.BPF_OR,
    "&": op.BPF_AND,
    "<<": op.BPF_LSH,
    ">>": op.BPF_RSH,
    "%": op.BPF_MOD,
    "^": op.BPF_XOR,
}
TESTS = {
    "=": op.BPF_JEQ,
    ">": op.BPF_JGT,
    ">=": op.BPF_JGE,
    "&": op.BPF_JSET,
}
COMMUTES = frozenset("+*|&^")
_ZERO_KEEPS = OPERATIONS.keys() - set("*/%&")  # x operator 0 is x


def is_operand(operator: str, number: int) -> bool:
    """Whether the kernel accepts a constant as the right operand."""
    if operator in ("/", "%"):
        return number != 0
    return number < 32 or operator not in ("<<", ">>")


def calculate(operator: str, a: int, b: int) -> int | None:
    """a operator b in 32 bits. None if the kernel does not accept b."""
    if not is_operand(operator, b):
        return None
    return arithmetic.calculate(OPERATIONS[operator], a, b)


def holds(test: str, a: int, b: int) -> bool:
    """Whether `a test b` holds."""
    return arithmetic.holds(TESTS[test], a, b)


class Graph:
    """The tables of values and nodes, and methods that add to them."""

    def __init__(self, live: bool) -> None:
        # Whether the kernel has metadata of the packet. For packets in
        # memory there is none, and loading it rejects the packet.
        self.live = live
        self.values: list[Value] = []
        self._value_numbers: dict[Value, int] = {}
        # Numbers 0 and 1 are the two ends. These entries are never read.
        self.nodes: list[Node] = [Node(-1, "", 0, 0, 0)] * 2
        self._node_numbers: dict[Node, int] = {}
        # What evaluating each value loads, for optimize.redundant_loads.
        self.reaches: dict[int, dict[int, int]] = {}
        self.max_nodes = MAX_NODES
        self.assigns = False
        # How many scratch words assignments use, from word 0 up.
        self.reserved = 0

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
        """`size` bytes at `offset`, plus the value `base` unless it is -1."""
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
            # Such offsets mean ancillary data. No packet is that long.
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

    def is_zero(self, number: int) -> bool:
        value = self.values[number]
        return value.kind == "const" and value.a == 0

    def operation(self, operator: str, a: int, b: int) -> int:
        """a operator b, simplified if that changes no load."""
        left, right = self.values[a], self.values[b]
        if right.kind == "const":
            known = right.a
            if left.kind == "const":
                result = calculate(operator, left.a, known)
                if operator in ("<<", ">>") and not self.reserved:
                    # libpcap's optimiser does the same for a shift by more
                    # than 31 bits. It does not run on programs with tunnels.
                    result = result or 0
                if result is not None:
                    return self.constant(result)
            if known == 0 and operator in _ZERO_KEEPS:
                return a
            if known == 1 and operator in "*/":
                return a
            if operator == "-":
                operator, b = "+", self.constant(-known)
                known = -known & WORD
            if operator == left.kind == "+" and self.is_constant(left.b):
                total = self.values[left.b].a + known
                return self.operation("+", left.a, self.constant(total))
        elif left.kind == "const" and operator in COMMUTES:
            return self.operation(operator, b, a)
        return self.value(Value(operator, a, b))

    def add(self, value: int, offset: int) -> int:
        return self.operation("+", value, self.constant(offset))

    def scratch_words(self, number: int) -> int:
        """The scratch words that a value depends on, as a bit set."""
        value = self.values[number]
        if value.kind == "scratch":
            return 1 << value.c
        words = 0
        for part in self.parts(number):
            words |= self.scratch_words(part)
        return words

    def parts(self, number: int) -> tuple[int, ...]:
        """The values that a value is made of."""
        kind, a, b, _ = self.values[number]
        if kind == "load":
            return (b,) if b >= 0 else ()
        if kind in ("const", "header", "length", "ancillary", "scratch"):
            return ()
        return a, b

    def may_reject(self, number: int) -> bool:
        """Whether evaluating a value may reject the packet."""
        kind = self.values[number].kind
        if kind in ("load", "header", "/", "%"):
            return True
        if kind == "ancillary":
            return not self.live
        return any(map(self.may_reject, self.parts(number)))

    # -- nodes ---------------------------------------------------------------

    def node(self, node: Node) -> int:
        """The number of a node."""
        number = self._node_numbers.get(node)
        if number is None:
            number = self._node_numbers[node] = len(self.nodes)
            if number > self.max_nodes:
                raise FilterError(TOO_LONG)
            self.nodes.append(node)
        return number

    def order(self, root: int) -> list[int]:
        """The nodes that can be reached, each before its successors."""
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
        """M[word] = value, then continue at target."""
        self.assigns = True
        return self.node(Node(value, ":=", word, target, target))

    def test(
        self, value: int, test: str, operand: int, yes: int, no: int
    ) -> int:
        """Go to yes if "value test operand" for a number, else to no.

        A test that decides nothing stays: its load may reject the packet.
        """
        kind, a, b, _ = self.values[value]
        if kind == "const":
            return yes if holds(test, a, operand) else no
        if test == "=":
            if kind == "&" and self.is_constant(b):
                mask = self.values[b].a
                if operand == 0:
                    return self.node(Node(a, "&", mask, no, yes))
                if operand == mask and mask & mask - 1 == 0:
                    return self.node(Node(a, "&", mask, yes, no))
            elif kind == "+" and self.is_constant(b):
                number = operand - self.values[b].a & WORD
                return self.test(a, "=", number, yes, no)
        return self.node(Node(value, test, operand, yes, no))

    def evaluate(self, node: Node, target: int) -> int:
        """Evaluate the values of a test, then continue at target."""
        if node.test[-1] == "x":
            target = self.evaluate_value(node.operand, target)
        return self.evaluate_value(node.value, target)

    def evaluate_value(self, value: int, target: int) -> int:
        """The same for a value. Just `target` if the value cannot reject."""
        kind, a, b, _ = self.values[value]
        while (
            kind in OPERATIONS
            and self.is_constant(b)
            and is_operand(kind, self.values[b].a)
        ):
            value = a
            kind, a, b, _ = self.values[value]
        if target == REJECT or not self.may_reject(value):
            return target
        if target > ACCEPT and self.nodes[target].value == value:
            return target
        return self.node(Node(value, "?", 0, target, target))

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
            # k > v means not v >= k, and k >= v means not v > k.
            opposite = ">=" if relation == ">" else ">"
            return self.test(right, opposite, operand, no, yes)
        return self.node(Node(left, relation + "x", right, yes, no))
