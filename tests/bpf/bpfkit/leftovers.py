"""Scratch words that libpcap reads although nothing put a meaning there.

Behind ``geneve`` libpcap keeps the inner offsets in scratch words, and stores
them only if there is a tunnel. In ``ip[8] + 1 = 5 or not geneve and ip`` the
last test looks for its offset where the addition left its operands: what it
finds is an accident of both programs.
"""

from __future__ import annotations

from . import machine
from .machine import Instructions

SUBTRACT_X = 0x1C


def reads_leftovers(program: Instructions) -> bool:
    """Whether a program of libpcap's may read what arithmetic left behind.

    A comparison of two values ends in a jump on X, or in one on A - X, and
    what its block stores is for that block only. Jumps go forward, so one
    pass finds all.
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
