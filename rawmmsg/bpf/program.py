"""Classic BPF programs: check, show, read back, run, shift.

The layout and the rules are those of `linux/filter.h` and of
`net/core/filter.c:bpf_check_classic()`. The notations are tcpdump's.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from .._rawmmsg import _check_filter, _run_filter
from . import opcodes as op
from .errors import FilterError

__all__ = ["Instruction", "Program"]

_SOCK_FILTER = struct.Struct("=HBBI")
_WORD = 0xFFFFFFFF
_FAR = 255  # the longest conditional jump
_MOST_SHIFTED = 0xFFFF

# The names of SKF_AD_*, by offset, as tcpdump -d prints them.
ANCILLARY_NAMES = {
    4 * i: name
    for i, name in enumerate(
        "proto type ifidx nla nlan mark queue hatype rxhash cpu xor_x "
        "vlan_tci vlanp poff random vlan_tpid".split()
    )
}

# Opcode: (mnemonic, format of the operand), as tcpdump -d prints them.
_LD = op.BPF_LD
_LDX = op.BPF_LDX
_LD_SIZES = {op.BPF_W: "ld", op.BPF_H: "ldh", op.BPF_B: "ldb"}
_PACKET_LOADS = {
    _LD | size | op.BPF_ABS: (name, "[{k}]")
    for size, name in _LD_SIZES.items()
}
_INDEXED_LOADS = {
    _LD | size | op.BPF_IND: (name, "[x + {k}]")
    for size, name in _LD_SIZES.items()
}
_LOAD_HEADER = _LDX | op.BPF_B | op.BPF_MSH
_LOAD_LENGTH = _LD | op.BPF_W | op.BPF_LEN
# The kernel accepts it; tcpdump -d has no notation for it.
_LOAD_LENGTH_X = _LDX | op.BPF_W | op.BPF_LEN
_SCRATCH = {
    _LD | op.BPF_MEM: ("ld", "M[{k}]"),
    _LDX | op.BPF_MEM: ("ldx", "M[{k}]"),
    op.BPF_ST: ("st", "M[{k}]"),
    op.BPF_STX: ("stx", "M[{k}]"),
}
_OPERATIONS = {
    op.BPF_ADD: ("add", "#{k}"),
    op.BPF_SUB: ("sub", "#{k}"),
    op.BPF_MUL: ("mul", "#{k}"),
    op.BPF_DIV: ("div", "#{k}"),
    op.BPF_OR: ("or", "#{k:#x}"),
    op.BPF_AND: ("and", "#{k:#x}"),
    op.BPF_LSH: ("lsh", "#{k}"),
    op.BPF_RSH: ("rsh", "#{k}"),
    op.BPF_MOD: ("mod", "#{k}"),
    op.BPF_XOR: ("xor", "#{k:#x}"),
}
_TESTS = {
    op.BPF_JEQ: "jeq",
    op.BPF_JGT: "jgt",
    op.BPF_JGE: "jge",
    op.BPF_JSET: "jset",
}
_JUMPS = {op.BPF_JMP | test: (_TESTS[test], "#{k:#x}") for test in _TESTS} | {
    op.BPF_JMP | test | op.BPF_X: (_TESTS[test], "x") for test in _TESTS
}
_JUMP_ALWAYS = op.BPF_JMP | op.BPF_JA
_RETURNS = {
    op.BPF_RET | op.BPF_K: ("ret", "#{k}"),
    op.BPF_RET | op.BPF_A: ("ret", ""),
}
_OPCODES = (
    _PACKET_LOADS
    | _INDEXED_LOADS
    | _SCRATCH
    | {
        _LOAD_HEADER: ("ldxb", "4*([{k}]&0xf)"),
        _LOAD_LENGTH: ("ld", "#pktlen"),
        _LOAD_LENGTH_X: ("unimp", "{code:#x}"),
        _LD | op.BPF_IMM: ("ld", "#{k:#x}"),
        _LDX | op.BPF_IMM: ("ldx", "#{k:#x}"),
    }
    | {op.BPF_ALU | key: form for key, form in _OPERATIONS.items()}
    | {
        op.BPF_ALU | key | op.BPF_X: (name, "x")
        for key, (name, _) in _OPERATIONS.items()
    }
    | {
        op.BPF_ALU | op.BPF_NEG: ("neg", ""),
        op.BPF_MISC | op.BPF_TAX: ("tax", ""),
        op.BPF_MISC | op.BPF_TXA: ("txa", ""),
        _JUMP_ALWAYS: ("ja", "{target}"),
    }
    | _JUMPS
    | _RETURNS
)


class Instruction(NamedTuple):
    """One `struct sock_filter` (linux/filter.h)."""

    code: int
    """The opcode: BPF_ numbers, or-ed."""
    jt: int
    """How many instructions a conditional jump skips if its test is true."""
    jf: int
    """How many instructions it skips otherwise."""
    k: int
    """The operand: a number, an offset, or the length of a jump."""


class Program(bytes):
    """A checked classic BPF program: an array of `struct sock_filter`.

    It is a bytes object, so SO_ATTACH_FILTER takes it as it is. Program(data)
    takes such an array. If the kernel would refuse the program, this and the
    other constructors raise ValueError, which says why.
    """

    __slots__ = ()

    def __new__(cls, data: bytes | bytearray | memoryview = b"") -> Program:
        # memoryview() refuses an int, of which bytes() would make zeros.
        self = super().__new__(cls, memoryview(data))
        _check_filter(self)
        return self

    @classmethod
    def from_instructions(
        cls, instructions: Iterable[tuple[int, int, int, int]]
    ) -> Program:
        """Makes a program of (code, jt, jf, k) tuples."""
        pack = _SOCK_FILTER.pack
        try:
            return cls(b"".join([pack(*item) for item in instructions]))
        except struct.error as error:
            raise ValueError(
                "an instruction is a tuple (code, jt, jf, k) of unsigned "
                f"numbers of 16, 8, 8 and 32 bits ({error})"
            ) from None

    @classmethod
    def from_tcpdump(cls, text: str) -> Program:
        """Reads the output of `tcpdump -ddd` or `tcpdump -dd`, or the one line
        that iptables and tc take. Raises ValueError for anything else."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines and lines[0].startswith("{"):
            return cls.from_instructions(map(_parse_dd, lines))
        # iptables and tc write one line, with commas between instructions.
        if len(lines) == 1:
            lines = [part for part in lines[0].split(",") if part.strip()]
        numbers = [_parse_numbers(line) for line in lines]
        if not numbers or len(numbers[0]) != 1:
            raise ValueError(
                "not a program: expected the output of tcpdump -ddd or -dd"
            )
        count = numbers.pop(0)[0]
        if count != len(numbers):
            raise ValueError(
                f"the first line announces {count} instructions, but "
                f"{len(numbers)} follow"
            )
        return cls.from_instructions(map(_four, numbers))

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """The program as (code, jt, jf, k) tuples."""
        return tuple(map(Instruction._make, _SOCK_FILTER.iter_unpack(self)))

    def disassemble(self) -> str:
        """Returns the program in the notation of `tcpdump -d`."""
        return "\n".join(
            _line(index, item) for index, item in enumerate(self.instructions)
        )

    def dump(self, form: str = "d") -> str:
        """Returns the program as tcpdump prints it: "d" readable, "dd" as C,
        "ddd" as numbers. Raises ValueError for another form."""
        if form == "d":
            return self.disassemble()
        items = self.instructions
        if form == "dd":
            return "\n".join(
                f"{{ {code:#x}, {jt}, {jf}, 0x{k:08x} }},"
                for code, jt, jf, k in items
            )
        if form == "ddd":
            lines = [f"{code} {jt} {jf} {k}" for code, jt, jf, k in items]
            return "\n".join([str(len(lines)), *lines])
        raise ValueError(f'form must be "d", "dd" or "ddd", not {form!r}')

    def matches(
        self,
        packet: bytes | bytearray | memoryview,
        wire_length: int | None = None,
        vlan: int | tuple[int, int] | None = None,
        packet_type: int | None = None,
        ifindex: int | None = None,
        *,
        network_offset: int = 14,
        ancillary: dict[int, int] | None = None,
    ) -> bool:
        """Returns whether the program accepts a packet; the arguments are
        those of accept_length()."""
        length = _run_filter(
            *(self, packet, wire_length, vlan, packet_type, ifindex),
            *(network_offset, ancillary or None, None),
        )
        return length > 0

    def accept_length(
        self,
        packet: bytes | bytearray | memoryview,
        wire_length: int | None = None,
        vlan: int | tuple[int, int] | None = None,
        packet_type: int | None = None,
        ifindex: int | None = None,
        *,
        network_offset: int = 14,
        ancillary: dict[int, int] | None = None,
        trace: list[int] | None = None,
    ) -> int:
        """Runs the program over a packet in memory, as the kernel would.

        Returns the number of bytes that it accepts, 0 to reject the packet.
        The number may be greater than the length of the packet.

        wire_length     the length of the packet before it was truncated; None:
                        it was not
        vlan            the tag that the kernel moved out of the frame: its
                        TCI, or (TCI, TPID); None: no tag
        packet_type     PACKET_HOST to PACKET_OUTGOING
        ifindex         the index of the interface. None: a program that asks
                        for it returns what is in the accumulator, as in the
                        kernel
        network_offset  where the network header begins
        ancillary       values for other SKF_AD_ offsets
        trace           a list to which the index of each executed instruction
                        is appended
        """
        return _run_filter(
            *(self, packet, wire_length, vlan, packet_type, ifindex),
            *(network_offset, ancillary or None, trace),
        )

    def shifted(self, offset: int) -> Program:
        """Returns the program for the same packets behind `offset` more bytes.

        A filter on a UDP socket, for example, sees the 8-byte UDP header
        first (net/ipv4/udp.c:udp_queue_rcv_one_skb()). Raises FilterError if
        a conditional jump would have to skip more than 255 instructions, and
        ValueError unless `offset` is 0 to 65,535: a load that is moved further
        could reach the offsets that have a meaning of their own.
        """
        offset = operator.index(offset)
        if not 0 <= offset <= _MOST_SHIFTED:
            raise ValueError(
                f"offset must be 0 to {_MOST_SHIFTED}, not {offset}"
            )
        old = self.instructions
        # A subtraction follows each load of the packet's length, so that
        # instruction i moves to places[i].
        places = list(
            accumulate(
                (1 + (item.code == _LOAD_LENGTH) for item in old), initial=0
            )
        )
        new: list[tuple[int, int, int, int]] = []
        for index, (code, jt, jf, k) in enumerate(old):
            after = places[index] + 1
            if code == _LOAD_LENGTH_X:
                raise FilterError(
                    "a program that loads the length of the packet into X "
                    "cannot be shifted"
                )
            # Absolute offsets above are outside of every packet, or special.
            if code in _INDEXED_LOADS or (
                k <= 0x7FFFFFFF
                and (code in _PACKET_LOADS or code == _LOAD_HEADER)
            ):
                k = k + offset & _WORD
            elif code == _JUMP_ALWAYS:
                k = places[index + 1 + k] - after
            elif code in _JUMPS:
                jt, jf = (
                    places[index + 1 + jump] - after for jump in (jt, jf)
                )
                if max(jt, jf) > _FAR:
                    raise FilterError(
                        "the program is too long to be shifted: a conditional "
                        f"jump would skip more than {_FAR} instructions"
                    )
            new.append((code, jt, jf, k))
            if code == _LOAD_LENGTH:
                new.append((op.BPF_ALU | op.BPF_SUB, 0, 0, offset))
        return Program.from_instructions(new)

    def __repr__(self) -> str:
        count = len(self) // _SOCK_FILTER.size
        plural = "" if count == 1 else "s"
        return f"<{type(self).__name__}: {count} instruction{plural}>"

    def __reduce__(self) -> tuple[type[Program], tuple[bytes]]:
        return type(self), (bytes(self),)


def _line(index: int, item: Instruction) -> str:
    """One instruction in the notation of tcpdump -d."""
    code, jt, jf, k = item
    name, form = _OPCODES[code]
    if code in _PACKET_LOADS and k >= op.SKF_AD_OFF:
        form = f"[{ANCILLARY_NAMES[k - op.SKF_AD_OFF]}]"
    target = index + 1 + k
    # tcpdump prints decimal numbers signed.
    if "{k}" in form and k > 0x7FFFFFFF:
        k -= 1 << 32
    operand = form.format(k=k, code=code, target=target)
    if code in _JUMPS:
        jumps = f"jt {index + 1 + jt}\tjf {index + 1 + jf}"
        return f"({index:03d}) {name:<8} {operand:<16} {jumps}"
    return f"({index:03d}) {name:<8} {operand}"


def _parse_dd(line: str) -> tuple[int, int, int, int]:
    """One line of tcpdump -dd: "{ 0x28, 0, 0, 0x0000000c },"."""
    try:
        numbers = [int(word, 0) for word in line.strip("{ },").split(",")]
        return _four(numbers)
    except ValueError:
        raise ValueError(
            f"not an instruction of tcpdump -dd: {line!r}"
        ) from None


def _parse_numbers(line: str) -> list[int]:
    words = line.split()
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise ValueError(f"not an instruction of tcpdump -ddd: {line!r}")
    return [int(word) for word in words]


def _four(numbers: list[int]) -> tuple[int, int, int, int]:
    if len(numbers) != 4:
        raise ValueError(f"an instruction is four numbers, not {numbers}")
    return numbers[0], numbers[1], numbers[2], numbers[3]
