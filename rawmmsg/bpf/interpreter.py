"""A virtual machine for classic BPF with the kernel's semantics.

Facts from `net/core/filter.c`: a load outside the packet and a division by
zero in X end the program with 0; offsets from SKF_AD_OFF up are ancillary,
from SKF_LL_OFF and SKF_NET_OFF relative to the link and network headers;
shift counts in X are taken modulo 32.
"""

from __future__ import annotations

import random
import struct

from .program import ANCILLARY, Program

__all__ = ["Packet", "run"]

_MASK = 0xFFFFFFFF
_SOCK_FILTER = struct.Struct("=HBBI")
_NETWORK = 0xFFF00000  # SKF_NET_OFF as unsigned
_LINK = 0xFFE00000  # SKF_LL_OFF as unsigned
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}

AD_PROTOCOL = 0
AD_PKTTYPE = 4
AD_IFINDEX = 8
AD_HATYPE = 28
AD_ALU_XOR_X = 40
AD_VLAN_TAG = 44
AD_VLAN_TAG_PRESENT = 48
AD_RANDOM = 56
AD_VLAN_TPID = 60
_ETH_P_8021Q = 0x8100


class Packet:
    """The bytes of a packet and what the kernel knows beside them."""

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        *,
        wire_length: int | None = None,
        vlan: int | tuple[int, int] | None = None,
        packet_type: int | None = None,
        ifindex: int | None = None,
        network_offset: int = 14,
        ancillary: dict[int, int] | None = None,
    ) -> None:
        self.data = bytes(data)
        self.length = len(self.data) if wire_length is None else wire_length
        self.network_offset = network_offset
        self.ancillary = dict(ancillary or {})
        if packet_type is not None:
            self.ancillary[AD_PKTTYPE] = packet_type
        if ifindex is not None:
            self.ancillary[AD_IFINDEX] = ifindex
        if vlan is not None:
            tci, tpid = (vlan, _ETH_P_8021Q) if isinstance(vlan, int) else vlan
            self.ancillary[AD_VLAN_TAG] = tci
            self.ancillary[AD_VLAN_TAG_PRESENT] = 1
            self.ancillary[AD_VLAN_TPID] = tpid

    def load(self, offset: int, size: int) -> int | None:
        """The big-endian number at `offset`, None outside the packet."""
        if offset > 0x7FFFFFFF:
            if offset >= _NETWORK:
                offset += self.network_offset - _NETWORK
            elif offset >= _LINK:
                offset -= _LINK
            else:
                return None
        data = self.data[offset : offset + size]
        return int.from_bytes(data, "big") if len(data) == size else None

    def load_ancillary(self, offset: int, a: int, x: int) -> int | None:
        """SKF_AD_*; None for the index or type of no interface."""
        if offset == AD_ALU_XOR_X:
            return a ^ x
        if offset in self.ancillary:
            return self.ancillary[offset] & _MASK
        if offset == AD_PROTOCOL:
            return self.load(12, 2) or 0
        if offset == AD_RANDOM:
            return random.getrandbits(32)
        if offset in (AD_IFINDEX, AD_HATYPE):
            return 0 if AD_IFINDEX in self.ancillary else None
        return 0


def _arithmetic(operation: int, a: int, b: int) -> int | None:
    """A op B in 32 bits, None for a division by zero."""
    match operation:
        case 0x00:
            return (a + b) & _MASK
        case 0x10:
            return (a - b) & _MASK
        case 0x20:
            return (a * b) & _MASK
        case 0x30:
            return a // b if b else None
        case 0x40:
            return a | b
        case 0x50:
            return a & b
        case 0x60:
            return (a << (b & 31)) & _MASK
        case 0x70:
            return a >> (b & 31)
        case 0x80:
            return -a & _MASK
        case 0x90:
            return a % b if b else None
        case _:
            return a ^ b


def _holds(operation: int, a: int, b: int) -> bool:
    match operation:
        case 0x10:
            return a == b
        case 0x20:
            return a > b
        case 0x30:
            return a >= b
        case _:
            return a & b != 0


def _load(
    packet: Packet, code: int, k: int, a: int, x: int, scratch: list[int]
) -> int | None:
    """The value of one LD or LDX instruction, None to end the program."""
    match code & 0xE0:
        case 0x00:
            return k
        case 0x20:
            if k >= ANCILLARY:
                return packet.load_ancillary(k - ANCILLARY, a, x)
            return packet.load(k, _SIZES[code & 0x18])
        case 0x40:
            return packet.load((x + k) & _MASK, _SIZES[code & 0x18])
        case 0x60:
            return scratch[k]
        case 0x80:
            return packet.length & _MASK
        case _:
            byte = packet.load(k, 1)
            return None if byte is None else 4 * (byte & 0xF)


def run(
    program: Program, packet: Packet, trace: list[int] | None = None
) -> int:
    """The verdict of the program: bytes to accept, 0 to reject."""
    code_list = list(_SOCK_FILTER.iter_unpack(program))
    scratch = [0] * 16
    a = x = pc = 0
    while True:
        code, jt, jf, k = code_list[pc]
        if trace is not None:
            trace.append(pc)
        pc += 1
        kind = code & 7
        value: int | None
        if kind == 5:  # JMP
            if code == 0x05:
                pc += k
            else:
                other = x if code & 8 else k
                pc += jt if _holds(code & 0xF0, a, other) else jf
        elif kind == 6:  # RET
            return int(a if code & 0x18 else k)
        elif kind <= 1:  # LD, LDX
            value = _load(packet, code, k, a, x, scratch)
            if value is None:
                # convert_bpf_extensions() ends the program for want of an
                # interface, but does not clear what it returns.
                return a if code & 0xE0 == 0x20 and k >= ANCILLARY else 0
            if kind:
                x = value
            else:
                a = value
        elif kind == 4:  # ALU
            value = _arithmetic(code & 0xF0, a, x if code & 8 else k)
            if value is None:
                return 0
            a = value
        elif kind == 7:  # MISC
            if code & 0x80:
                a = x
            else:
                x = a
        else:  # ST, STX
            scratch[k] = a if kind == 2 else x
