"""Finds programs of libpcap's that read scratch words left by other code.

For tests behind ``geneve``, libpcap keeps the inner offsets in scratch words,
and stores them only if there is a tunnel. In ``ip[8] + 1 = 5 or not geneve and
ip`` the last test reads its offset from a word that still holds an operand of
the addition. Its verdict has no meaning.
"""

from __future__ import annotations

from . import machine
from .machine import Instructions

SUBTRACT_X = 0x1C


def reads_leftovers(program: Instructions) -> bool:
    """Whether a program of libpcap's may read words that arithmetic has left.

    A comparison of two values ends with a jump that tests X, or A - X. Words
    stored in its block are only meant for that block. Jumps only go forward,
    so one pass finds all.
    """
    left_at = [0] * len(program)
    left = stored = before = 0
    for place, (code, jt, jf, k) in enumerate(program):
        left |= left_at[place]
        kind = code & 7
        if kind in (machine.LD, machine.LDX) and code & 0xE0 == machine.MEM:
            if left & ~stored & 1 << k:
                return True
        elif kind in (machine.ST, machine.STX):
            stored |= 1 << k
        elif kind == machine.JMP:
            if code & machine.SOURCE_X or before == SUBTRACT_X:
                left |= stored
            else:
                left &= ~stored
            jumps = (k,) if code & 0xF0 == machine.JA else (jt, jf)
            for jump in jumps:
                left_at[place + 1 + jump] |= left
            left = stored = 0
        before = code
    return False
