"""Filters for the frames that enter at a port."""

from ..bpf import FilterError, Program, compile

__all__ = ["behind_udp_header", "for_datagrams", "for_interface", "for_udp"]

UDP_HEADER = 8

# <linux/bpf_common.h>: what reads the packet at a constant plus k, and what
# reads its length.
_LOADS = (0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1)
_LOAD_LENGTH = 0x80
_LOAD_LENGTH_X = 0x81
_SUBTRACT = 0x14
_JUMP_ALWAYS = 0x05
_JUMP_CLASS = 0x05
_CLASS = 0x07

# SKF_LL_OFF: constants from here on are no offsets from the packet's start.
_SPECIAL = 0xFFE00000


def for_interface(expression: str | None) -> Program | None:
    """For Ethernet frames on a packet socket. None: no filter."""
    return None if expression is None else compile(expression)


def for_datagrams(expression: str | None) -> Program | None:
    """For datagrams that each are an Ethernet frame, its tags inside."""
    return None if expression is None else compile(expression, live=False)


def for_udp(expression: str | None) -> Program | None:
    """The same for a UDP socket."""
    program = for_datagrams(expression)
    return None if program is None else behind_udp_header(program)


def behind_udp_header(program: Program) -> Program:
    """The program for a UDP socket, whose filter sees the datagram from its
    header on (net/ipv4/udp.c:udp_queue_rcv_one_skb()).

    FilterError where a jump would become too long.
    """
    old = program.instructions
    # Where each instruction comes to stand: one more follows every `len`.
    places = [0]
    for instruction in old:
        places.append(places[-1] + 1 + (instruction.code == _LOAD_LENGTH))
    moved: list[tuple[int, int, int, int]] = []
    for i, (code, jt, jf, k) in enumerate(old):
        after = places[i] + 1
        if code == _LOAD_LENGTH_X:
            raise FilterError("the program cannot be used on a UDP socket")
        if code in _LOADS and k < _SPECIAL:
            k += UDP_HEADER
        elif code == _JUMP_ALWAYS:
            k = places[i + 1 + k] - after
        elif code & _CLASS == _JUMP_CLASS:
            jt, jf = (places[i + 1 + jump] - after for jump in (jt, jf))
            if max(jt, jf) > 255:
                raise FilterError("the filter is too long for a UDP socket")
        moved.append((code, jt, jf, k))
        if code == _LOAD_LENGTH:
            moved.append((_SUBTRACT, 0, 0, UDP_HEADER))
    return Program.from_instructions(moved)
