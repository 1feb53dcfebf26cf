"""A second, independent interpreter for classic BPF. It counts instructions,
and can record loads and comparisons.

It is written from bpf(4) and ``net/core/filter.c``, not from ``rawmmsg.bpf``,
so that the two check each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

Instruction = tuple[int, int, int, int]
Instructions = tuple[Instruction, ...]

MASK = 0xFFFFFFFF

# The fields of an opcode, as bpf(4) names them.
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
IMM, ABS, IND, MEM, LEN, MSH = range(0, 0xC0, 0x20)
SOURCE_X = 0x08
RETURN_A = 0x10
TXA = 0x80
JA, JEQ, JGT, JGE, JSET = range(0, 0x50, 0x10)
SIZES = {0x00: 4, 0x08: 2, 0x10: 1}

# SKF_AD_OFF and the fields behind it, of linux/filter.h.
ANCILLARY = 0xFFFFF000
PROTOCOL, PACKET_TYPE, INTERFACE = 0, 4, 8
VLAN_TAG, VLAN_TAG_PRESENT, VLAN_TPID = 44, 48, 60

ALU_OPERATIONS: dict[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: (a + b) & MASK,
    0x10: lambda a, b: (a - b) & MASK,
    0x20: lambda a, b: (a * b) & MASK,
    0x30: lambda a, b: a // b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: (a << (b & 31)) & MASK,
    0x70: lambda a, b: a >> (b & 31),
    0x90: lambda a, b: a % b,
    0xA0: lambda a, b: a ^ b,
}
DIVISIONS = (0x30, 0x90)


class Origin(NamedTuple):
    """Where the accumulator came from: a packet field, and the mask and shift
    since (field & mask) >> shift.
    """

    offset: int
    size: int
    mask: int = MASK
    shift: int = 0


class Compared(NamedTuple):
    """One conditional jump: its place, whether it was taken, and the field and
    the constant that it compared.
    """

    place: int
    taken: bool
    origin: Origin | None
    operation: int
    constant: int


class Trace(NamedTuple):
    """A run: the verdict, the number of instructions executed, the (offset,
    size) of loads, the comparisons.
    """

    accepted: int
    executed: int
    loads: tuple[tuple[int, int], ...]
    comparisons: tuple[Compared, ...]


class Ancillary(NamedTuple):
    """The kernel's metadata of a frame. Bytes in memory have none."""

    protocol: int = 0
    packet_type: int = 0
    interface: int | None = None
    vlan_tci: int | None = None
    vlan_tpid: int = 0x8100

    def read(self, field: int) -> int | None:
        """The value of one field. None if the kernel then ends the filter with
        the value of A.
        """
        tagged = self.vlan_tci is not None
        values = {
            PROTOCOL: self.protocol,
            PACKET_TYPE: self.packet_type,
            INTERFACE: self.interface,
            VLAN_TAG: self.vlan_tci or 0,
            VLAN_TAG_PRESENT: int(tagged),
            VLAN_TPID: self.vlan_tpid if tagged else 0,
        }
        return values.get(field)


def run(
    program: Sequence[Instruction],
    packet: bytes,
    wire_length: int | None = None,
    ancillary: Ancillary | None = None,
) -> tuple[int, int]:
    """The accept length of ``packet``, and the number of instructions executed
    to find it.
    """
    length = len(packet) if wire_length is None else wire_length
    end = len(packet)
    a = x = pc = executed = 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = program[pc]
        pc += 1
        executed += 1
        kind = code & 7
        if kind == JMP:
            operation = code & 0xF0
            if operation == JA:
                pc += k
                continue
            right = x if code & SOURCE_X else k
            if operation == JEQ:
                taken = a == right
            elif operation == JGT:
                taken = a > right
            elif operation == JGE:
                taken = a >= right
            else:
                taken = a & right != 0
            pc += jt if taken else jf
        elif kind == LD:
            mode = code & 0xE0
            if mode in (ABS, IND):
                if mode == ABS and k >= ANCILLARY and ancillary is not None:
                    value = ancillary.read(k - ANCILLARY)
                    if value is None:
                        return a, executed
                    a = value
                    continue
                start = k if mode == ABS else (x + k) & MASK
                size = SIZES[code & 0x18]
                if start + size > end:
                    return 0, executed
                a = int.from_bytes(packet[start : start + size], "big")
            elif mode == IMM:
                a = k
            elif mode == MEM:
                a = memory[k]
            else:
                a = length & MASK
        elif kind == RET:
            return (a if code & 0x18 == RETURN_A else k), executed
        elif kind == ALU:
            operation = code & 0xF0
            if operation == 0x80:
                a = -a & MASK
                continue
            right = x if code & SOURCE_X else k
            if right == 0 and operation in DIVISIONS:
                return 0, executed
            a = ALU_OPERATIONS[operation](a, right)
        elif kind == LDX:
            mode = code & 0xE0
            if mode == MSH:
                if k >= end:
                    return 0, executed
                x = (packet[k] & 15) << 2
            elif mode == IMM:
                x = k
            elif mode == MEM:
                x = memory[k]
            else:
                x = length & MASK
        elif kind == ST:
            memory[k] = a
        elif kind == STX:
            memory[k] = x
        elif code & 0xF8 == TXA:
            a = x
        else:
            x = a


def trace(
    program: Sequence[Instruction],
    packet: bytes,
    wire_length: int | None = None,
    ancillary: Ancillary | None = None,
) -> Trace:
    """Run, and record the loads and the field that each comparison tests.

    A field stays known through loads, masks by a constant, right shifts by a
    constant, registers and memory. After any other arithmetic it is unknown,
    and fewer mutations can be made of it.
    """
    length = len(packet) if wire_length is None else wire_length
    end = len(packet)
    a = x = pc = executed = 0
    of_a: Origin | None = None
    of_x: Origin | None = None
    memory: dict[int, tuple[int, Origin | None]] = {}
    loads: list[tuple[int, int]] = []
    comparisons: list[Compared] = []
    while True:
        code, jt, jf, k = program[pc]
        place = pc
        pc += 1
        executed += 1
        kind, operation, mode = code & 7, code & 0xF0, code & 0xE0
        if kind == JMP:
            if operation == JA:
                pc += k
                continue
            right = x if code & SOURCE_X else k
            if operation == JEQ:
                taken = a == right
            elif operation == JSET:
                taken = a & right != 0
            else:
                taken = a > right if operation == JGT else a >= right
            comparisons.append(Compared(place, taken, of_a, operation, right))
            pc += jt if taken else jf
        elif (
            kind == LD
            and mode == ABS
            and k >= ANCILLARY
            and ancillary is not None
        ):
            field = ancillary.read(k - ANCILLARY)
            if field is None:
                return Trace(a, executed, tuple(loads), tuple(comparisons))
            a, of_a = field, None
        elif kind <= LDX and mode in (ABS, IND, MSH):
            start = (x + k) & MASK if mode == IND else k
            size = 1 if mode == MSH else SIZES[code & 0x18]
            loads.append((start, size))
            if start + size > end:
                return Trace(0, executed, tuple(loads), tuple(comparisons))
            value = int.from_bytes(packet[start : start + size], "big")
            if mode == MSH:
                x, of_x = (value & 15) << 2, None
            else:
                a, of_a = value, Origin(start, size)
        elif kind <= LDX:
            value, origin = (
                (k, None)
                if mode == IMM
                else memory.get(k, (0, None))
                if mode == MEM
                else (length, None)
            )
            if kind == LD:
                a, of_a = value, origin
            else:
                x, of_x = value, origin
        elif kind == RET:
            accepted = a if code & 0x18 == RETURN_A else k
            return Trace(accepted, executed, tuple(loads), tuple(comparisons))
        elif kind in (ST, STX):
            memory[k] = (a, of_a) if kind == ST else (x, of_x)
        elif kind == MISC:
            if code & 0xF8 == TXA:
                a, of_a = x, of_x
            else:
                x, of_x = a, of_a
        elif operation == 0x80:
            a, of_a = -a & MASK, None
        else:
            right = x if code & SOURCE_X else k
            if right == 0 and operation in DIVISIONS:
                return Trace(0, executed, tuple(loads), tuple(comparisons))
            a = ALU_OPERATIONS[operation](a, right)
            if of_a is not None and code & SOURCE_X == 0 and operation == 0x50:
                of_a = Origin(
                    of_a.offset,
                    of_a.size,
                    of_a.mask & (k << of_a.shift) & MASK,
                    of_a.shift,
                )
            elif (
                of_a is not None and code & SOURCE_X == 0 and operation == 0x70
            ):
                of_a = of_a._replace(shift=of_a.shift + k)
            else:
                of_a = None
