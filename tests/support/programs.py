"""Classic BPF programs in the kernel's binary form."""

import struct
from typing import Final

# <linux/bpf_common.h>, <linux/filter.h>
LD_IMM: Final = 0x00
LD_H_ABS: Final = 0x28
LDX_MSH: Final = 0xB1
JEQ: Final = 0x15
RET: Final = 0x06


def program(*instructions: tuple[int, int, int, int]) -> bytes:
    """An array of struct sock_filter."""
    return b"".join(struct.pack("HBBI", *one) for one in instructions)


def accept(snap: int = 0xFFFF) -> bytes:
    """A program that accepts `snap` bytes of every packet; 0 rejects all."""
    return program((RET, 0, 0, snap))


def keep_ethertype(ethertype: int) -> bytes:
    """A program that accepts only frames with this EtherType."""
    return program(
        (LD_H_ABS, 0, 0, 12),
        (JEQ, 0, 1, ethertype),
        (RET, 0, 0, 0xFFFF),
        (RET, 0, 0, 0),
    )
