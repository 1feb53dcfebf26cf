"""Packets aimed at given programs: compared fields get the values around the
constant that they are compared with, and packets are cut short at loads.

:func:`machine.trace` runs a program and records which field of the packet each
comparison tests, and the constant. The field is rewritten so that the
comparison has the other outcome, or is at the boundary. The new packets are
traced in turn, as long as they take jumps that no other packet has taken. So
some packets reach every part of the program, whatever the traffic was at the
start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from . import machine
from .machine import Ancillary, Compared, Instruction

# About how many whole packets a set of programs gets.
LIMIT = 60
MOST = 400

Edge = tuple[int, int, bool]


def boundary_values(comparison: Compared, size: int) -> set[int]:
    """The constant, one less and one more. For a bit test also 0, the lowest
    bit of the mask, and all bits outside it.
    """
    k = comparison.constant
    values = {k - 1, k, k + 1}
    if comparison.operation == machine.JSET:
        values |= {0, k & -k, ~k & (256**size - 1)}
    return values


def rewritten(packet: bytes, comparison: Compared) -> Iterator[bytes]:
    """``packet`` with each boundary value in the bits that were compared."""
    origin = comparison.origin
    if origin is None or origin.offset + origin.size > len(packet):
        return
    offset, size, mask, shift = origin
    field_mask = mask & (256**size - 1)
    old = int.from_bytes(packet[offset : offset + size], "big")
    for value in boundary_values(comparison, size):
        new = (old & ~field_mask) | ((value << shift) & field_mask)
        if new != old:
            yield (
                packet[:offset]
                + new.to_bytes(size, "big")
                + packet[offset + size :]
            )


def truncations(
    packet: bytes, loads: Iterable[tuple[int, int]]
) -> Iterator[bytes]:
    """``packet`` ending just before, inside and just after each load."""
    ends = {
        offset + part
        for offset, size in loads
        for part in (0, size - 1, size)
        if offset + part < len(packet)
    }
    return (packet[:end] for end in ends)


def explore(
    programs: Sequence[Sequence[Instruction]],
    starts: Iterable[bytes],
    ancillary: Ancillary | None = None,
    limit: int = LIMIT,
) -> tuple[list[bytes], list[tuple[bytes, int]]]:
    """Whole packets, and cut packets with their length on the wire, that reach
    both outcomes of every comparison if possible.
    """
    seen: set[Edge] = set()
    known: set[bytes] = set()
    queue = deque(starts)
    known.update(queue)
    whole: list[bytes] = []
    cut: dict[tuple[bytes, int], None] = {}
    while queue and len(whole) < limit:
        packet = queue.popleft()
        stories = [
            machine.trace(program, packet, None, ancillary)
            for program in programs
        ]
        edges = {
            (number, comparison.place, comparison.taken)
            for number, story in enumerate(stories)
            for comparison in story.comparisons
        }
        if edges <= seen:
            continue
        seen |= edges
        whole.append(packet)
        for story in stories:
            cut.update(
                ((piece, len(packet)), None)
                for piece in truncations(packet, story.loads)
            )
            for comparison in story.comparisons:
                for child in rewritten(packet, comparison):
                    if child not in known:
                        known.add(child)
                        whole.append(child)
                        queue.append(child)
    return whole, list(cut)
