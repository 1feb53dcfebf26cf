"""Runs a classic BPF program over one packet, as the kernel does.

`net/core/filter.c`: a load outside the packet ends the program with 0, and
so does a division by X if X is 0. Shift counts in X are taken modulo 32.
An absolute offset from SKF_AD_OFF up is ancillary data; one from SKF_NET_OFF
or SKF_LL_OFF up is relative to the network or link-layer header.
"""

import os
from collections.abc import Sequence
from operator import index

from . import opcodes as op

__all__ = ["Packet", "arithmetic", "holds", "run"]

_WORD = 0xFFFFFFFF
_SIZES = {op.BPF_W: 4, op.BPF_H: 2, op.BPF_B: 1}
_ETH_P_8021Q = 0x8100


class Packet:
    """The bytes of a packet and its metadata.

    Program.accept_length() documents the parameters.
    """

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        wire_length: int | None,
        vlan: int | tuple[int, int] | None,
        packet_type: int | None,
        ifindex: int | None,
        network_offset: int,
        ancillary: dict[int, int] | None,
    ) -> None:
        # memoryview() refuses a number, of which bytes() would make zeros.
        self.data = bytes(memoryview(data))
        self.length = len(self.data) if wire_length is None else wire_length
        self.network_offset = network_offset
        self.ancillary = dict(ancillary or {})
        if packet_type is not None:
            self.ancillary[op.SKF_AD_PKTTYPE] = packet_type
        if ifindex is not None:
            self.ancillary[op.SKF_AD_IFINDEX] = ifindex
        if vlan is not None:
            tci, tpid = (
                vlan
                if isinstance(vlan, tuple)
                else (index(vlan), _ETH_P_8021Q)
            )
            self.ancillary[op.SKF_AD_VLAN_TAG] = tci
            self.ancillary[op.SKF_AD_VLAN_TAG_PRESENT] = 1
            self.ancillary[op.SKF_AD_VLAN_TPID] = tpid

    def load(self, offset: int, size: int) -> int | None:
        """The big-endian number at `offset`. None outside the packet."""
        if offset > 0x7FFFFFFF:
            if offset >= op.SKF_NET_OFF:
                offset += self.network_offset - op.SKF_NET_OFF
            elif offset >= op.SKF_LL_OFF:
                offset -= op.SKF_LL_OFF
            else:
                return None
        data = self.data[offset : offset + size]
        return int.from_bytes(data, "big") if len(data) == size else None

    def load_ancillary(self, offset: int, a: int, x: int) -> int | None:
        """The ancillary data at SKF_AD_OFF + `offset`.

        None for the index or type of the interface if there is none.
        """
        if offset == op.SKF_AD_ALU_XOR_X:
            return a ^ x
        if offset in self.ancillary:
            return self.ancillary[offset] & _WORD
        if offset == op.SKF_AD_PROTOCOL:
            return self.load(12, 2) or 0
        if offset == op.SKF_AD_RANDOM:
            return int.from_bytes(os.urandom(4))
        if offset in (op.SKF_AD_IFINDEX, op.SKF_AD_HATYPE):
            return 0 if op.SKF_AD_IFINDEX in self.ancillary else None
        return 0


def arithmetic(operation: int, a: int, b: int) -> int | None:
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


def _load(
    packet: Packet, code: int, k: int, a: int, x: int, scratch: list[int]
) -> int | None:
    """The value of an LD or LDX instruction. None ends the program."""
    match code & op.BPF_MODE:
        case op.BPF_IMM:
            return k
        case op.BPF_ABS:
            if k >= op.SKF_AD_OFF:
                return packet.load_ancillary(k - op.SKF_AD_OFF, a, x)
            return packet.load(k, _SIZES[code & op.BPF_SIZE])
        case op.BPF_IND:
            return packet.load((x + k) & _WORD, _SIZES[code & op.BPF_SIZE])
        case op.BPF_MEM:
            return scratch[k]
        case op.BPF_LEN:
            return packet.length & _WORD
        case _:
            byte = packet.load(k, 1)
            return None if byte is None else 4 * (byte & 0xF)


def run(
    instructions: Sequence[tuple[int, int, int, int]],
    packet: Packet,
    trace: list[int] | None = None,
) -> int:
    """The number of bytes that the program accepts; 0 rejects.

    The index of each executed instruction is appended to `trace`.
    """
    scratch = [0] * op.BPF_MEMWORDS
    a = x = pc = 0
    while True:
        code, jt, jf, k = instructions[pc]
        if trace is not None:
            trace.append(pc)
        pc += 1
        kind = code & op.BPF_CLASS
        operand = x if code & op.BPF_X else k
        value: int | None
        if kind == op.BPF_JMP:
            operation = code & op.BPF_OP
            if operation == op.BPF_JA:
                pc += k
            else:
                pc += jt if holds(operation, a, operand) else jf
        elif kind == op.BPF_RET:
            return a if code & op.BPF_A else k
        elif kind in (op.BPF_LD, op.BPF_LDX):
            value = _load(packet, code, k, a, x, scratch)
            if value is None:
                # convert_bpf_extensions(): if there is no interface, the
                # program returns what is in A.
                mode = code & op.BPF_MODE
                return a if mode == op.BPF_ABS and k >= op.SKF_AD_OFF else 0
            if kind == op.BPF_LD:
                a = value
            else:
                x = value
        elif kind == op.BPF_ALU:
            value = arithmetic(code & op.BPF_OP, a, operand)
            if value is None:
                return 0
            a = value
        elif kind == op.BPF_MISC:
            if code & op.BPF_TXA:
                a = x
            else:
                x = a
        else:  # BPF_ST, BPF_STX
            scratch[k] = a if kind == op.BPF_ST else x
