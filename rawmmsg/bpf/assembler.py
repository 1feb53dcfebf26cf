"""Turns a control-flow graph into instructions.

Each node becomes the statements that bring its value into the accumulator A,
and a jump. A value is not loaded again if A or X already holds it on every
path to the node.
"""

from . import opcodes as op
from .cfg import (
    ACCEPT,
    COMMUTES,
    OPERATIONS,
    REJECT,
    STATEMENTS,
    TESTS,
    TOO_LONG,
    Graph,
    Node,
    Value,
    is_operand,
)
from .errors import FilterError

__all__ = ["assemble"]

_Statement = tuple[int, int]
_Registers = tuple[int, int]

_NONE = -1

_SIZES = {4: op.BPF_W, 2: op.BPF_H, 1: op.BPF_B}
_JUMP = op.BPF_JMP | op.BPF_JA
_FAR = 255  # the longest conditional jump
# The kinds of value that one instruction brings into X.
_EASY = frozenset({"header", "const", "scratch"})
# libpcap loads these with other sizes than a word. The kernel accepts any.
_ANCILLARY_SIZES = {
    op.SKF_AD_PKTTYPE: op.BPF_H,
    op.SKF_AD_VLAN_TAG: op.BPF_H,
    op.SKF_AD_VLAN_TAG_PRESENT: op.BPF_B,
}


class _Block:
    """The statements of one node, given what the registers hold."""

    def __init__(self, graph: Graph, registers: _Registers) -> None:
        self.graph = graph
        self.values = graph.values
        self.a, self.x = registers
        self.statements: list[_Statement] = []
        self.free = op.BPF_MEMWORDS - 1

    def put(self, code: int, k: int = 0) -> None:
        self.statements.append((code, k))

    def to_a(self, number: int) -> None:
        """Bring a value into A."""
        if self.a == number:
            return
        if self.x == number:
            self.put(op.BPF_MISC | op.BPF_TXA)
            self.a = number
            return
        value = self.values[number]
        kind = value.kind
        if kind == "load":
            self.load(value)
        elif kind == "const":
            self.put(op.BPF_LD | op.BPF_IMM, value.a)
        elif kind == "header":
            self.to_x(number)
            self.put(op.BPF_MISC | op.BPF_TXA)
        elif kind == "length":
            self.put(op.BPF_LD | op.BPF_LEN)
        elif kind == "ancillary":
            size = _ANCILLARY_SIZES.get(value.c, op.BPF_W)
            self.put(op.BPF_LD | size | op.BPF_ABS, op.SKF_AD_OFF + value.c)
        elif kind == "scratch":
            self.put(op.BPF_LD | op.BPF_MEM, value.c)
        else:
            self.operation(value)
        self.a = number

    def load(self, value: Value) -> None:
        code = op.BPF_LD | _SIZES[value.a]
        if value.b < 0:
            self.put(code | op.BPF_ABS, value.c)
        else:
            self.to_x(value.b)
            self.put(code | op.BPF_IND, value.c)

    def to_x(self, number: int) -> None:
        """Bring a value into X."""
        if self.x == number:
            return
        value = self.values[number]
        if self.a == number:
            self.put(op.BPF_MISC | op.BPF_TAX)
        elif value.kind == "header":
            self.put(op.BPF_LDX | op.BPF_MSH | op.BPF_B, value.c)
        elif value.kind == "const":
            self.put(op.BPF_LDX | op.BPF_IMM, value.a)
        elif value.kind == "scratch":
            self.put(op.BPF_LDX | op.BPF_MEM, value.c)
        else:
            self.to_a(number)
            self.put(op.BPF_MISC | op.BPF_TAX)
        self.x = number

    def operation(self, value: Value) -> None:
        operator, left, right, _ = value
        code = op.BPF_ALU | OPERATIONS[operator]
        operand = self.values[right]
        if operand.kind == "const" and is_operand(operator, operand.a):
            self.to_a(left)
            self.put(code, operand.a)
        elif operator == "-" and self.graph.is_zero(left):
            self.to_a(right)
            self.put(op.BPF_ALU | op.BPF_NEG)
        else:
            self.pair(left, right, operator in COMMUTES)
            self.put(code | op.BPF_X)

    def pair(self, left: int, right: int, commutes: bool) -> None:
        """Bring left into A and right into X, or if commutes, vice versa."""
        if self.x == right and self.keeps_x(left):
            self.to_a(left)
        elif commutes and self.x == left and self.keeps_x(right):
            self.to_a(right)
        elif self.easy_x(right):
            self.to_a(left)
            self.to_x(right)
        elif commutes and self.easy_x(left):
            self.to_a(right)
            self.to_x(left)
        elif not self.uses_x(left):
            self.to_x(right)
            self.to_a(left)
        elif commutes and not self.uses_x(right):
            self.to_x(left)
            self.to_a(right)
        elif left == right:
            self.to_a(left)
            self.to_x(left)
        else:
            self.through_scratch(left, right)

    def through_scratch(self, left: int, right: int) -> None:
        """A pair of values that both need X to be computed."""
        word = self.free
        self.free -= 1
        if word < self.graph.reserved:
            raise FilterError(
                "the arithmetic needs more than the "
                f"{op.BPF_MEMWORDS} scratch words of a program"
            )
        self.to_a(right)
        self.put(op.BPF_ST, word)
        self.to_a(left)
        self.put(op.BPF_LDX | op.BPF_MEM, word)
        self.x = right
        self.free += 1

    def easy_x(self, number: int) -> bool:
        """Whether a value can be brought into X without using A."""
        return self.values[number].kind in _EASY

    def keeps_x(self, number: int) -> bool:
        """Whether bringing a value into A leaves X as it is."""
        return self.a == number or not self.uses_x(number)

    def uses_x(self, number: int) -> bool:
        """Whether computing a value changes X."""
        kind, a, b, _ = self.values[number]
        if kind in ("const", "length", "ancillary", "scratch"):
            return False
        if kind == "load":
            return b >= 0
        if kind == "header":
            return True
        right = self.values[b]
        if right.kind == "const" and is_operand(kind, right.a):
            return self.uses_x(a)
        return True

    def node(self, node: Node) -> None:
        """All of a node except the jump."""
        value, test, operand, _, _ = node
        if test == ":=":
            self.to_a(value)
            self.put(op.BPF_ST, operand)
            self.forget(1 << operand)
            self.a = self.graph.scratch(operand)
        elif test[-1] == "x":
            self.pair(value, operand, test == "=x")
        else:
            self.to_a(value)

    def forget(self, bit: int) -> None:
        """X no longer holds a value that depends on a scratch word."""
        words = self.graph.scratch_words
        if self.x >= 0 and words(self.x) & bit:
            self.x = _NONE


class _Layout:
    """Lays out the program, from its last instruction to its first."""

    def __init__(self, accept: int, at_end: bool) -> None:
        self.reversed: list[tuple[int, int, int, int]] = []
        # Whether returns may only stand at the end.
        self.at_end = at_end
        # The distance of each target's first instruction from the end of
        # the program.
        self.begins: dict[int, int] = {}
        self.returns = {REJECT: 0, ACCEPT: accept}

    def end(self, target: int) -> None:
        """A return, for the jumps before it."""
        self.put(op.BPF_RET | op.BPF_K, 0, 0, self.returns[target])
        self.begins[target] = len(self.reversed)

    def put(self, code: int, jt: int, jf: int, k: int) -> None:
        self.reversed.append((code, jt, jf, k))
        if len(self.reversed) > op.BPF_MAXINSNS:
            raise FilterError(TOO_LONG)

    def distance(self, target: int) -> int:
        return len(self.reversed) - self.begins[target]

    def reach(self, target: int, room: int) -> None:
        """Make sure that a conditional jump can reach a target.

        If the target is too far away, another return or a long jump is put
        in between. Earlier jumps use it as well.
        """
        if target in self.begins and self.distance(target) + room <= _FAR:
            return
        if target in self.returns and not self.at_end:
            self.end(target)
        else:
            self.put(_JUMP, 0, 0, self.distance(target))
            self.begins[target] = len(self.reversed)

    def go(self, target: int) -> None:
        """Continue at a target: fall through, return or jump."""
        if target in self.begins and not self.distance(target):
            return
        if target in self.returns and not self.at_end:
            self.end(target)
        else:
            self.put(_JUMP, 0, 0, self.distance(target))

    def jump(self, code: int, k: int, yes: int, no: int) -> None:
        """A conditional jump to both targets."""
        self.reach(yes, 1)
        self.reach(no, 0)
        self.put(code, self.distance(yes), self.distance(no), k)

    def block(
        self, number: int, statements: list[_Statement], node: Node
    ) -> None:
        """A node: its statements and its jump."""
        test = node.test
        if test in STATEMENTS:
            self.go(node.yes)
        elif test[-1] == "x":
            code = op.BPF_JMP | TESTS[test[:-1]] | op.BPF_X
            self.jump(code, 0, node.yes, node.no)
        else:
            code = op.BPF_JMP | TESTS[test]
            self.jump(code, node.operand, node.yes, node.no)
        for code, k in reversed(statements):
            self.put(code, 0, 0, k)
        self.begins[number] = len(self.reversed)


def _blocks(graph: Graph, sequence: list[int]) -> dict[int, list[_Statement]]:
    """The statements of every node."""
    blocks: dict[int, list[_Statement]] = {}
    registers: dict[int, _Registers] = {sequence[0]: (_NONE, _NONE)}
    for number in sequence:
        node = graph.nodes[number]
        block = _Block(graph, registers[number])
        block.node(node)
        blocks[number] = block.statements
        after = (block.a, block.x)
        for target in (node.yes, node.no):
            present = registers.setdefault(target, after)
            if present != after:
                registers[target] = (
                    after[0] if after[0] == present[0] else _NONE,
                    after[1] if after[1] == present[1] else _NONE,
                )
    return blocks


def assemble(
    graph: Graph, root: int, accept: int
) -> list[tuple[int, int, int, int]]:
    """The instructions; `accept` is the return value for accepted packets."""
    # check_load_and_stores() continues behind a return as if execution did.
    # Words that a path has written before it jumps there would then count as
    # unwritten.
    layout = _Layout(accept, at_end=graph.assigns)
    sequence = graph.order(root)
    if not sequence:
        layout.end(root)
        return layout.reversed
    blocks = _blocks(graph, sequence)
    # The last node jumps to returns only: they end the program. The others
    # are put where jumps need them, unless all have to be at the end.
    first = sequence if graph.assigns else sequence[-1:]
    used = {graph.nodes[number].yes for number in first}
    used |= {graph.nodes[number].no for number in first}
    for target in (REJECT, ACCEPT):
        if target in used:
            layout.end(target)
    # Different nodes become equal code if a register already holds the value
    # that they test. One block then serves all of them.
    same = {REJECT: REJECT, ACCEPT: ACCEPT}
    known: dict[tuple[object, ...], int] = {}
    for number in reversed(sequence):
        node = graph.nodes[number]
        yes, no = same[node.yes], same[node.no]
        node = node._replace(yes=yes, no=no)
        if yes == no:
            node = node._replace(test="?", operand=0)
        elif node.test[-1] == "x":
            node = node._replace(operand=0)
        statements = blocks[number]
        if node.test == "?" and not statements:
            same[number] = yes  # a register holds the value
            continue
        key = (node.test, node.operand, yes, no, *statements)
        same[number] = known.setdefault(key, number)
        # The entry must come first even if it is equal to another node.
        if same[number] == number or number == root:
            layout.block(number, statements, node)
    layout.reversed.reverse()
    return layout.reversed
