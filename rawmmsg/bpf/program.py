"""Classic BPF programs: assemble, check, show, read back.

The layout and the rules are those of `linux/filter.h` and of
`net/core/filter.c:bpf_check_classic()`; the notations are tcpdump's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Instruction", "Program"]

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
SCRATCH_WORDS = 16  # BPF_MEMWORDS
ANCILLARY = 0xFFFFF000  # SKF_AD_OFF as unsigned

_SOCK_FILTER = struct.Struct("=HBBI")

# Ancillary loads (SKF_AD_*) and the names that tcpdump -d prints.
ANCILLARY_NAMES = {
    0: "proto",
    4: "type",
    8: "ifidx",
    12: "nla",
    16: "nlan",
    20: "mark",
    24: "queue",
    28: "hatype",
    32: "rxhash",
    36: "cpu",
    40: "xor_x",
    44: "vlan_tci",
    48: "vlanp",
    52: "poff",
    56: "random",
    60: "vlan_tpid",
}

# code: (mnemonic, form of the operand); the form is expanded by _operation().
_LOADS = {
    0x20: ("ld", "packet"),
    0x28: ("ldh", "packet"),
    0x30: ("ldb", "packet"),
    0x40: ("ld", "[x + {k}]"),
    0x48: ("ldh", "[x + {k}]"),
    0x50: ("ldb", "[x + {k}]"),
    0x80: ("ld", "#pktlen"),
    0x00: ("ld", "#{k:#x}"),
    0x60: ("ld", "M[{k}]"),
    0x01: ("ldx", "#{k:#x}"),
    0x61: ("ldx", "M[{k}]"),
    0xB1: ("ldxb", "4*([{k}]&0xf)"),
    0x02: ("st", "M[{k}]"),
    0x03: ("stx", "M[{k}]"),
}
_ARITHMETIC = {
    0x04: ("add", "#{k}"),
    0x14: ("sub", "#{k}"),
    0x24: ("mul", "#{k}"),
    0x34: ("div", "#{k}"),
    0x44: ("or", "#{k:#x}"),
    0x54: ("and", "#{k:#x}"),
    0x64: ("lsh", "#{k}"),
    0x74: ("rsh", "#{k}"),
    0x94: ("mod", "#{k}"),
    0xA4: ("xor", "#{k:#x}"),
    0x0C: ("add", "x"),
    0x1C: ("sub", "x"),
    0x2C: ("mul", "x"),
    0x3C: ("div", "x"),
    0x4C: ("or", "x"),
    0x5C: ("and", "x"),
    0x6C: ("lsh", "x"),
    0x7C: ("rsh", "x"),
    0x9C: ("mod", "x"),
    0xAC: ("xor", "x"),
    0x84: ("neg", ""),
    0x07: ("tax", ""),
    0x87: ("txa", ""),
}
_JUMPS = {
    0x15: ("jeq", "#{k:#x}"),
    0x25: ("jgt", "#{k:#x}"),
    0x35: ("jge", "#{k:#x}"),
    0x45: ("jset", "#{k:#x}"),
    0x1D: ("jeq", "x"),
    0x2D: ("jgt", "x"),
    0x3D: ("jge", "x"),
    0x4D: ("jset", "x"),
}
_JUMP_ALWAYS = 0x05
# ldx #pktlen: the kernel takes it, tcpdump -d has no notation for it.
_LOAD_LENGTH_X = 0x81
_RETURNS = {0x06: ("ret", "#{k}"), 0x16: ("ret", "")}
_OTHERS = {
    _JUMP_ALWAYS: ("ja", ""),
    _LOAD_LENGTH_X: ("unimp", "{code:#x}"),
}
_OPCODES = _LOADS | _ARITHMETIC | _JUMPS | _RETURNS | _OTHERS

_SCRATCH_READS = (0x60, 0x61)
_SCRATCH_WRITES = (0x02, 0x03)
_DIVISIONS = (0x34, 0x94)
_SHIFTS = (0x64, 0x74)
_PACKET_LOADS = (0x20, 0x28, 0x30)


class Instruction(NamedTuple):
    """One `struct sock_filter`."""

    code: int
    jt: int
    jf: int
    k: int


class Program(bytes):
    """A classic BPF program: an array of `struct sock_filter`, checked.

    A `bytes` object, so it can be handed to SO_ATTACH_FILTER as it is.
    Program(data) takes such an array; ValueError says why the kernel
    would refuse it.
    """

    __slots__ = ()

    def __new__(cls, data: bytes | bytearray | memoryview = b"") -> Program:
        # memoryview() refuses what bytes() would make zeros of: a number.
        self = super().__new__(cls, memoryview(data))
        if len(self) % _SOCK_FILTER.size:
            raise ValueError(
                f"a program is a multiple of {_SOCK_FILTER.size} bytes, "
                f"not {len(self)}"
            )
        _check(self.instructions)
        return self

    @classmethod
    def from_instructions(
        cls, instructions: Iterable[tuple[int, int, int, int]]
    ) -> Program:
        """A program from (code, jt, jf, k) tuples."""
        pack = _SOCK_FILTER.pack
        try:
            return cls(b"".join([pack(*item) for item in instructions]))
        except struct.error as error:
            raise ValueError(
                "an instruction is (code, jt, jf, k): 16, 8, 8 and 32 bits "
                f"unsigned ({error})"
            ) from None

    @classmethod
    def from_tcpdump(cls, text: str) -> Program:
        """A program from the output of `tcpdump -ddd` or `tcpdump -dd`."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines and lines[0].startswith("{"):
            return cls.from_instructions(map(_parse_dd, lines))
        # One line, commas between instructions: iptables' and tc's form.
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
                f"the first line promises {count} instructions, "
                f"{len(numbers)} follow"
            )
        return cls.from_instructions(map(_four, numbers))

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """The program as (code, jt, jf, k) tuples."""
        return tuple(map(Instruction._make, _SOCK_FILTER.iter_unpack(self)))

    def disassemble(self) -> str:
        """The program in the notation of `tcpdump -d`."""
        return "\n".join(
            _line(index, item) for index, item in enumerate(self.instructions)
        )

    def dump(self, form: str = "d") -> str:
        """What tcpdump prints: "d" readable, "dd" C, "ddd" decimal."""
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
        raise ValueError(f'form is "d", "dd" or "ddd", not {form!r}')

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
        trace: list[int] | None = None,
    ) -> int:
        """Run the program over one packet as the kernel would, offline.

        Returns the number of bytes to accept, 0 to reject.
        `wire_length` is the length before truncation (`len`). `vlan` is
        the tag that the kernel moved out of the frame: its TCI, or (TCI,
        TPID). `packet_type` is PACKET_HOST (0) to PACKET_OUTGOING (4).
        Without `ifindex` the packet has no interface, and a program that
        asks for it ends, as in the kernel, with what is in the accumulator
        (0 at the start). `ancillary` maps further SKF_AD_* offsets to
        values. `trace` receives the index of each instruction executed.
        """
        from .interpreter import Packet, run

        meta = Packet(
            packet,
            wire_length=wire_length,
            vlan=vlan,
            packet_type=packet_type,
            ifindex=ifindex,
            network_offset=network_offset,
            ancillary=ancillary,
        )
        return run(self, meta, trace)

    def __repr__(self) -> str:
        count = len(self) // _SOCK_FILTER.size
        plural = "" if count == 1 else "s"
        return f"<{type(self).__name__}: {count} instruction{plural}>"

    def __reduce__(self) -> tuple[type[Program], tuple[bytes]]:
        return type(self), (bytes(self),)


def _line(index: int, item: Instruction) -> str:
    name, operand = _operation(index, item)
    if item.code in _JUMPS:
        return (
            f"({index:03d}) {name:<8} {operand:<16} "
            f"jt {index + 1 + item.jt}\tjf {index + 1 + item.jf}"
        )
    return f"({index:03d}) {name:<8} {operand}"


def _operation(index: int, item: Instruction) -> tuple[str, str]:
    """Mnemonic and operand, as tcpdump -d writes them."""
    code, k = item.code, item.k
    name, form = _OPCODES[code]
    if code == _JUMP_ALWAYS:
        return name, str(index + 1 + k)
    if form == "packet":
        if k >= ANCILLARY:
            return name, f"[{ANCILLARY_NAMES[k - ANCILLARY]}]"
        form = "[{k}]"
    # tcpdump prints plain decimals signed.
    if "{k}" in form and k > 0x7FFFFFFF:
        k -= 1 << 32
    return name, form.format(k=k, code=code)


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
        raise ValueError(f"four numbers make an instruction, not {numbers}")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _check(program: tuple[Instruction, ...]) -> None:
    """Raise ValueError where bpf_check_classic() would say EINVAL."""
    size = len(program)
    if not size:
        raise ValueError("the program is empty")
    if size > MAX_INSTRUCTIONS:
        raise ValueError(
            f"{size} instructions: the kernel takes at most {MAX_INSTRUCTIONS}"
        )
    uses_scratch = False
    for index, item in enumerate(program):
        code = item.code
        if code not in _OPCODES:
            raise ValueError(f"instruction {index}: unknown code {code:#x}")
        if code in _JUMPS:
            if index + 1 + max(item.jt, item.jf) >= size:
                raise ValueError(f"instruction {index}: jump past the end")
        elif code not in _RETURNS:
            _check_operand(index, code, item.k, size)
            uses_scratch = uses_scratch or code in _SCRATCH_READS
    if program[-1].code not in _RETURNS:
        raise ValueError("the last instruction is no return")
    if uses_scratch:
        _check_scratch(program)


def _check_operand(index: int, code: int, k: int, size: int) -> None:
    """The rules for one instruction that is neither jump nor return."""
    if code == _JUMP_ALWAYS and index + 1 + k >= size:
        reason = "jump past the end"
    elif code in _DIVISIONS and k == 0:
        reason = "division by zero"
    elif code in _SHIFTS and k > 31:
        reason = f"shift by {k} bits"
    elif code in _SCRATCH_READS + _SCRATCH_WRITES and k >= SCRATCH_WORDS:
        reason = f"no scratch word M[{k}]"
    elif (
        code in _PACKET_LOADS
        and k >= ANCILLARY
        and k - ANCILLARY not in ANCILLARY_NAMES
    ):
        reason = f"unknown ancillary load {k - ANCILLARY}"
    else:
        return
    raise ValueError(f"instruction {index}: {reason}")


def _check_scratch(program: tuple[Instruction, ...]) -> None:
    """Every read of M[] must follow a write, on every path.

    `net/core/filter.c:check_load_and_stores()`: jumps go forward only, so
    one pass that meets the sets of written words at each target is exact.
    """
    everything = (1 << SCRATCH_WORDS) - 1
    written_at = [everything] * len(program)
    written = 0
    for index, (code, jt, jf, k) in enumerate(program):
        written &= written_at[index]
        if code in _SCRATCH_READS and not written >> k & 1:
            raise ValueError(
                f"instruction {index}: M[{k}] is read before it is written"
            )
        if code in _SCRATCH_WRITES:
            written |= 1 << k
        elif code == _JUMP_ALWAYS:
            written_at[index + 1 + k] &= written
            written = everything
        elif code in _JUMPS:
            written_at[index + 1 + jt] &= written
            written_at[index + 1 + jf] &= written
            written = everything
