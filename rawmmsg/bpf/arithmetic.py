"""What the instructions of classic BPF compute, for code that looks at a
program without running it.
"""

from . import opcodes as op

__all__ = ["calculate", "holds"]

_WORD = 0xFFFFFFFF


def calculate(operation: int, a: int, b: int) -> int | None:
    """a operation b in 32 bits. None for a division by zero."""
    match operation:
        case op.BPF_ADD:
            return (a + b) & _WORD
        case op.BPF_SUB:
            return (a - b) & _WORD
        case op.BPF_MUL:
            return (a * b) & _WORD
        case op.BPF_DIV:
            return a // b if b else None
        case op.BPF_OR:
            return a | b
        case op.BPF_AND:
            return a & b
        case op.BPF_LSH:
            return (a << (b & 31)) & _WORD
        case op.BPF_RSH:
            return a >> (b & 31)
        case op.BPF_NEG:
            return -a & _WORD
        case op.BPF_MOD:
            return a % b if b else None
        case _:
            return a ^ b


def holds(operation: int, a: int, b: int) -> bool:
    """Whether the test of a jump holds for a and b."""
    if operation == op.BPF_JEQ:
        return a == b
    if operation == op.BPF_JGT:
        return a > b
    if operation == op.BPF_JGE:
        return a >= b
    return a & b != 0
