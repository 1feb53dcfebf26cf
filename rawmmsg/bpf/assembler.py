"""A control-flow graph to instructions.

Each node becomes the statements that bring its value into the accumulator
A, and a jump. What A and X hold already on every way that leads to a node
is not loaded again.
"""

from __future__ import annotations

from .cfg import ACCEPT, REJECT, STATEMENTS, Graph, Node, Value, is_operand
from .errors import FilterError
from .program import ANCILLARY, MAX_INSTRUCTIONS, SCRATCH_WORDS

__all__ = ["assemble"]

_Statement = tuple[int, int]
_Registers = tuple[int, int]

_NONE = -1

_LOAD = {4: 0x20, 2: 0x28, 1: 0x30}
_LOAD_INDEXED = {4: 0x40, 2: 0x48, 1: 0x50}
_LOAD_CONSTANT = 0x00
_LOAD_SCRATCH = 0x60
_LOAD_LENGTH = 0x80
_LOADX_CONSTANT = 0x01
_LOADX_SCRATCH = 0x61
_LOADX_HEADER = 0xB1
_STORE = 0x02
_TAX = 0x07
_TXA = 0x87
_NEGATE = 0x84
_BY_X = 0x08
_OPERATIONS = {
    "+": 0x04,
    "-": 0x14,
    "*": 0x24,
    "/": 0x34,
    "|": 0x44,
    "&": 0x54,
    "<<": 0x64,
    ">>": 0x74,
    "%": 0x94,
    "^": 0xA4,
}
_COMMUTES = frozenset("+*|&^")
_JUMP = 0x05
_JUMPS = {"=": 0x15, ">": 0x25, ">=": 0x35, "&": 0x45}
_RETURN = 0x06
_FAR = 255
# What X can be loaded with directly.
_EASY = frozenset({"header", "const", "scratch"})
# The sizes with which ancillary data are usually loaded; any would do.
_ANCILLARY_SIZES = {4: 2, 44: 2, 48: 1}


class _Block:
    """The statements of one node, given what the registers hold."""

    def __init__(self, graph: Graph, registers: _Registers) -> None:
        self.graph = graph
        self.values = graph.values
        self.a, self.x = registers
        self.statements: list[_Statement] = []
        self.free = SCRATCH_WORDS - 1

    def put(self, code: int, k: int = 0) -> None:
        self.statements.append((code, k))

    def to_a(self, number: int) -> None:
        """Bring a value into A."""
        if self.a == number:
            return
        if self.x == number:
            self.put(_TXA)
            self.a = number
            return
        value = self.values[number]
        kind = value.kind
        if kind == "load":
            self.load(value)
        elif kind == "const":
            self.put(_LOAD_CONSTANT, value.a)
        elif kind == "header":
            self.to_x(number)
            self.put(_TXA)
        elif kind == "length":
            self.put(_LOAD_LENGTH)
        elif kind == "ancillary":
            size = _ANCILLARY_SIZES.get(value.c, 4)
            self.put(_LOAD[size], ANCILLARY + value.c)
        elif kind == "scratch":
            self.put(_LOAD_SCRATCH, value.c)
        else:
            self.operation(value)
        self.a = number

    def load(self, value: Value) -> None:
        if value.b < 0:
            self.put(_LOAD[value.a], value.c)
        else:
            self.to_x(value.b)
            self.put(_LOAD_INDEXED[value.a], value.c)

    def to_x(self, number: int) -> None:
        """Bring a value into X."""
        if self.x == number:
            return
        value = self.values[number]
        if self.a == number:
            self.put(_TAX)
        elif value.kind == "header":
            self.put(_LOADX_HEADER, value.c)
        elif value.kind == "const":
            self.put(_LOADX_CONSTANT, value.a)
        elif value.kind == "scratch":
            self.put(_LOADX_SCRATCH, value.c)
        else:
            self.to_a(number)
            self.put(_TAX)
        self.x = number

    def operation(self, value: Value) -> None:
        operator, left, right, _ = value
        code = _OPERATIONS[operator]
        operand = self.values[right]
        if operand.kind == "const" and is_operand(operator, operand.a):
            self.to_a(left)
            self.put(code, operand.a)
        elif operator == "-" and self.is_zero(left):
            self.to_a(right)
            self.put(_NEGATE)
        else:
            self.pair(left, right, operator in _COMMUTES)
            self.put(code | _BY_X)

    def is_zero(self, number: int) -> bool:
        value = self.values[number]
        return value.kind == "const" and value.a == 0

    def pair(self, left: int, right: int, commutes: bool) -> None:
        """Bring left into A and right into X, or the reverse."""
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
        """A pair of which both sides need X."""
        word = self.free
        self.free -= 1
        if word < self.graph.reserved:
            raise FilterError("the arithmetic is too deep")
        self.to_a(right)
        self.put(_STORE, word)
        self.to_a(left)
        self.put(_LOADX_SCRATCH, word)
        self.x = right
        self.free += 1

    def easy_x(self, number: int) -> bool:
        """Whether X can be loaded with a value without use of A."""
        return self.values[number].kind in _EASY

    def keeps_x(self, number: int) -> bool:
        """Whether bringing a value into A leaves X as it is."""
        return self.a == number or not self.uses_x(number)

    def uses_x(self, number: int) -> bool:
        """Whether to compute a value takes X."""
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
        """All of a node but the jump."""
        value, test, operand, _, _, _ = node
        if test == ":=":
            self.to_a(value)
            self.put(_STORE, operand)
            self.forget(1 << operand)
            self.a = self.graph.scratch(operand)
        elif test[-1] == "x":
            self.pair(value, operand, test == "=x")
        else:
            self.to_a(value)

    def forget(self, bit: int) -> None:
        """The registers no longer hold values that depend on a word."""
        words = self.graph.scratch_words
        if self.x >= 0 and words(self.x) & bit:
            self.x = _NONE


class _Layout:
    """The program, from its last instruction to its first."""

    def __init__(self, accept: int, at_end: bool) -> None:
        self.reversed: list[tuple[int, int, int, int]] = []
        # Whether returns may stand at the end only.
        self.at_end = at_end
        # How far from the end of the program each target begins.
        self.begins: dict[int, int] = {}
        self.returns = {REJECT: 0, ACCEPT: accept}

    def end(self, target: int) -> None:
        """An instruction that returns, for the jumps before it."""
        self.put(_RETURN, 0, 0, self.returns[target])
        self.begins[target] = len(self.reversed)

    def put(self, code: int, jt: int, jf: int, k: int) -> None:
        self.reversed.append((code, jt, jf, k))
        if len(self.reversed) > MAX_INSTRUCTIONS:
            raise FilterError(
                "the program would have more than "
                f"{MAX_INSTRUCTIONS} instructions"
            )

    def distance(self, target: int) -> int:
        return len(self.reversed) - self.begins[target]

    def reach(self, target: int, room: int) -> None:
        """Make sure that a jump of 8 bits can reach a target.

        Where it is too far, a step is put on the way: another return, or
        a long jump. It serves the jumps before as well.
        """
        if target in self.begins and self.distance(target) + room <= _FAR:
            return
        if target in self.returns and not self.at_end:
            self.end(target)
        else:
            self.put(_JUMP, 0, 0, self.distance(target))
            self.begins[target] = len(self.reversed)

    def go(self, target: int) -> None:
        """Go on at a target: fall into it, or return, or jump."""
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
            self.jump(_JUMPS[test[:-1]] | _BY_X, 0, node.yes, node.no)
        else:
            self.jump(_JUMPS[test], node.operand, node.yes, node.no)
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
    """The instructions; `accept` is what an accepted packet returns."""
    # The kernel's check of scratch words walks on through a return as if
    # it were not there, so what is behind one would seem unwritten.
    layout = _Layout(accept, at_end=graph.assigns)
    sequence = graph.order(root)
    if not sequence:
        layout.end(root)
        return layout.reversed
    blocks = _blocks(graph, sequence)
    # Both successors of the last node are ends.
    first = sequence if graph.assigns else sequence[-1:]
    used = {graph.nodes[number].yes for number in first}
    used |= {graph.nodes[number].no for number in first}
    for target in (REJECT, ACCEPT):
        if target in used:
            layout.end(target)
    # Nodes that differ become equal code when a register already holds
    # what they test: then one block serves for all.
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
            same[number] = yes  # there is nothing to do
            continue
        key = (node.test, node.operand, yes, no, *statements)
        same[number] = known.setdefault(key, number)
        # The entry must stand first, whatever it is equal to.
        if same[number] == number or number == root:
            layout.block(number, statements, node)
    layout.reversed.reverse()
    return layout.reversed
