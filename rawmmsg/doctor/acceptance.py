"""What a filter can accept, without a packet to run it on."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from ..bpf import Program
from ..bpf import opcodes as op
from ..bpf.arithmetic import calculate, holds

__all__ = ["can_accept"]

# The registers A and X. None: any number
_State: TypeAlias = tuple[int | None, int | None]

_ANY: Final[_State] = (None, None)
_SIZES: Final = {op.BPF_W: 4, op.BPF_H: 2, op.BPF_B: 1}


def can_accept(program: Program, known: Mapping[int, int]) -> bool:
    """Returns whether some path through the program accepts a packet that has
    these bytes: a mapping from offset to value.

    What is not known may be anything, so a true result can be wrong, but a
    false one cannot.
    """
    states: dict[int, _State] = {0: _ANY}
    # Jumps only go forward, so one pass is enough.
    for here, instruction in enumerate(program.instructions):
        if here not in states:
            continue
        code, _, _, k = instruction
        if code & op.BPF_CLASS == op.BPF_RET:
            if code != op.BPF_RET | op.BPF_K or k:
                return True
            continue
        after = _execute(instruction, states[here], known)
        for offset in _next(instruction, after):
            there = here + 1 + offset
            states[there] = _meet(states.get(there, after), after)
    return False


def _meet(one: _State, other: _State) -> _State:
    """What holds on both of two paths."""
    a, x = (i if i == j else None for i, j in zip(one, other, strict=True))
    return a, x


def _next(instruction: tuple[int, int, int, int], state: _State) -> list[int]:
    """How many instructions can be skipped after this one."""
    code, jt, jf, k = instruction
    if code & op.BPF_CLASS != op.BPF_JMP:
        return [0]
    if code & op.BPF_OP == op.BPF_JA:
        return [k]
    a, x = state
    operand = x if code & op.BPF_X else k
    if a is None or operand is None:
        return [jt, jf]
    return [jt if holds(code & op.BPF_OP, a, operand) else jf]


def _execute(
    instruction: tuple[int, int, int, int],
    state: _State,
    known: Mapping[int, int],
) -> _State:
    """Returns the registers after an instruction that goes on."""
    code, _, _, k = instruction
    a, x = state
    match code & op.BPF_CLASS:
        case op.BPF_LD:
            return _load(code, k, known), x
        case op.BPF_LDX:
            return a, k if code & op.BPF_MODE == op.BPF_IMM else None
        case op.BPF_ALU:
            operand = x if code & op.BPF_X else k
            if a is None or operand is None:
                return None, x
            return calculate(code & op.BPF_OP, a, operand), x
        case op.BPF_MISC:
            return (x, x) if code & op.BPF_TXA else (a, a)
        case _:
            return state


def _load(code: int, k: int, known: Mapping[int, int]) -> int | None:
    mode = code & op.BPF_MODE
    if mode == op.BPF_IMM:
        return k
    if mode != op.BPF_ABS:
        return None
    value = 0
    for offset in range(k, k + _SIZES[code & op.BPF_SIZE]):
        if offset not in known:
            return None
        value = value << 8 | known[offset]
    return value
