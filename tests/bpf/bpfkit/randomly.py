"""Random programs: of all opcodes, with offsets and numbers at which something
changes. What a program computes decides how much of a packet it accepts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rawmmsg.bpf import opcodes as op

Instruction = tuple[int, int, int, int]

LOADS = [
    op.BPF_LD | size | mode
    for size in (op.BPF_W, op.BPF_H, op.BPF_B)
    for mode in (op.BPF_ABS, op.BPF_IND)
]
HEADER = op.BPF_LDX | op.BPF_B | op.BPF_MSH
LENGTHS = [op.BPF_LD | op.BPF_LEN, op.BPF_LDX | op.BPF_LEN]
NUMBERS = [op.BPF_LD | op.BPF_IMM, op.BPF_LDX | op.BPF_IMM]
READS = [op.BPF_LD | op.BPF_MEM, op.BPF_LDX | op.BPF_MEM]
WRITES = [op.BPF_ST, op.BPF_STX]
DIVISIONS = [op.BPF_ALU | op.BPF_DIV, op.BPF_ALU | op.BPF_MOD]
SHIFTS = [op.BPF_ALU | op.BPF_LSH, op.BPF_ALU | op.BPF_RSH]
ARITHMETIC = [
    op.BPF_ALU | operation | source
    for operation in (
        *(op.BPF_ADD, op.BPF_SUB, op.BPF_MUL, op.BPF_DIV, op.BPF_MOD),
        *(op.BPF_OR, op.BPF_AND, op.BPF_XOR, op.BPF_LSH, op.BPF_RSH),
    )
    for source in (op.BPF_K, op.BPF_X)
]
NEGATION = op.BPF_ALU | op.BPF_NEG
MOVES = [op.BPF_MISC | op.BPF_TAX, op.BPF_MISC | op.BPF_TXA]
JUMP = op.BPF_JMP | op.BPF_JA
TESTS = [
    op.BPF_JMP | test | source
    for test in (op.BPF_JEQ, op.BPF_JGT, op.BPF_JGE, op.BPF_JSET)
    for source in (op.BPF_K, op.BPF_X)
]
RETURNS = [op.BPF_RET | op.BPF_K, op.BPF_RET | op.BPF_A]
OPCODES = [
    *(*LOADS, HEADER, *LENGTHS, *NUMBERS, *READS, *WRITES, *ARITHMETIC),
    *(NEGATION, *MOVES, JUMP, *TESTS, *RETURNS),
]

# Where a load, a shift or a comparison begins to have another result.
EDGES = (0, 1, 2, 12, 13, 14, 20, 23, 31, 60, 61, 62, 63, 64, 80, 255)
LARGE = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
SPECIAL = (
    *(op.SKF_LL_OFF + offset for offset in (0, 12, 60, 63, 64, 200)),
    *(op.SKF_NET_OFF + offset for offset in (0, 9, 45, 46, 49, 50, 200)),
    op.SKF_LL_OFF - 1,
)

# Folds A and X into a length from 1 to 64, so that it shows what they were.
FOLD = (
    (op.BPF_ALU | op.BPF_XOR | op.BPF_X, 0, 0, 0),
    (op.BPF_MISC | op.BPF_TAX, 0, 0, 0),
    (op.BPF_ALU | op.BPF_RSH, 0, 0, 16),
    (op.BPF_ALU | op.BPF_XOR | op.BPF_X, 0, 0, 0),
    (op.BPF_MISC | op.BPF_TAX, 0, 0, 0),
    (op.BPF_ALU | op.BPF_RSH, 0, 0, 6),
    (op.BPF_ALU | op.BPF_XOR | op.BPF_X, 0, 0, 0),
    (op.BPF_ALU | op.BPF_AND, 0, 0, 63),
    (op.BPF_ALU | op.BPF_ADD, 0, 0, 1),
    (op.BPF_RET | op.BPF_A, 0, 0, 0),
)


class Maker:
    """Makes programs that the kernel accepts, of a source of random numbers.

    fields   the offsets behind SKF_AD_OFF that they load
    special  whether they load at other offsets above 0x7fffffff, too
    """

    def __init__(
        self, rng: random.Random, fields: Sequence[int], special: bool
    ) -> None:
        self.rng = rng
        self.fields = fields
        self.special = special

    def program(self) -> list[Instruction]:
        """Writes each scratch word that it reads first, then does anything,
        and returns what it has computed."""
        rng = self.rng
        words = rng.sample(range(16), 3)
        start: list[Instruction] = []
        for word in words:
            start += self.load()
            start.append((rng.choice(WRITES), 0, 0, word))
        body: list[Instruction] = []
        for _ in range(rng.randrange(1, 25)):
            body += self.step(words)
        return [*start, *self.with_jumps(body), *FOLD]

    def with_jumps(self, body: list[Instruction]) -> list[Instruction]:
        """Turns some steps into jumps, to any instruction behind them."""
        rng = self.rng
        for place in range(len(body)):
            if rng.random() < 0.2:
                rest = len(body) - place
                jt, jf = rng.randrange(rest), rng.randrange(rest)
                if rng.random() < 0.2:
                    body[place] = JUMP, 0, 0, min(jt, 3)
                else:
                    test = rng.choice(TESTS)
                    body[place] = test, jt, jf, self.number()
        return body

    def number(self) -> int:
        rng = self.rng
        kind = rng.random()
        if kind < 0.5:
            return rng.choice(EDGES)
        if kind < 0.7:
            return rng.choice(LARGE)
        return rng.getrandbits(rng.choice((4, 8, 16, 32)))

    def load(self) -> list[Instruction]:
        """Of the packet or of what is beside it, mostly inside it."""
        rng = self.rng
        code = rng.choice((*LOADS, HEADER))
        indirect = code & op.BPF_MODE == op.BPF_IND
        offset = rng.randrange(60) if rng.random() < 0.95 else 63
        if self.special and rng.random() < 0.2:
            offset = rng.choice(SPECIAL)
        elif rng.random() < 0.2 and not indirect and code != HEADER:
            offset = op.SKF_AD_OFF + rng.choice(self.fields)
        if not indirect or (self.special and rng.random() < 0.1):
            return [(code, 0, 0, offset)]
        x = rng.randrange(offset + 1) if offset < 64 else 0
        return [(NUMBERS[1], 0, 0, x), (code, 0, 0, offset - x)]

    def step(self, words: Sequence[int]) -> list[Instruction]:
        rng = self.rng
        kind = rng.random()
        if kind < 0.3:
            return self.load()
        if kind < 0.4:
            return [(rng.choice(READS), 0, 0, rng.choice(words))]
        if kind < 0.5:
            return [(rng.choice(WRITES), 0, 0, rng.randrange(16))]
        if kind < 0.52:
            k = rng.choice((0, 1, 64, 65, 0xFFFFFFFF))
            return [(rng.choice(RETURNS), 0, 0, k)]
        code = rng.choice(
            (*ARITHMETIC, NEGATION, *MOVES, *LENGTHS, *NUMBERS * 2)
        )
        k = self.number()
        if code in DIVISIONS:
            k = max(k, 1)
        elif code in SHIFTS:
            k %= 32
        return [(code, 0, 0, k)]


def spoiled(
    rng: random.Random, program: list[Instruction]
) -> list[Instruction]:
    """The program with one field of one instruction changed, or cut."""
    program = list(program)
    place = rng.randrange(len(program))
    code, jt, jf, k = program[place]
    kind = rng.randrange(5)
    if kind == 0:
        code ^= 1 << rng.randrange(16)
    elif kind == 1:
        k = rng.choice((*EDGES, *LARGE, 0xFFFFF000 + rng.randrange(70), 16))
    elif kind == 2:
        jt = jf = rng.randrange(256)
    elif kind == 3:
        code = rng.choice(OPCODES)
    else:
        return program[: place + 1]
    program[place] = code, jt, jf, k
    return program
