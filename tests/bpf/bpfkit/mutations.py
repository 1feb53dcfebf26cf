"""Packets aimed at given programs: every compared field at one below, at and
one above, and every load cut short.

A program is followed with :func:`machine.trace`; each comparison on the way
tells which field of the packet decided it and against which constant. That
field is rewritten so that the comparison falls on the other side and on the
boundary, and what comes out is followed in turn, as long as it takes a jump
nobody took before. So the packets reach the depth of the program, whatever the
starting traffic was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from . import machine
from .machine import Ancillary, Compared, Instruction

# Whole packets for a set of programs, about.
LIMIT = 60
MOST = 400

Edge = tuple[int, int, bool]


def boundary_values(comparison: Compared, size: int) -> set[int]:
    """k-1, k, k+1 in units of what was compared; for a bit test also nothing,
    all, and each bit of the mask.
    """
    k = comparison.constant
    values = {k - 1, k, k + 1}
    if comparison.operation == machine.JSET:
        values |= {0, k & -k, ~k & (256**size - 1)}
    return values


def rewritten(packet: bytes, comparison: Compared) -> Iterator[bytes]:
    """``packet`` with the compared field at each boundary value, other bits of
    the field left alone.
    """
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
    """(whole packets, (cut packet, its length on the wire)) that take every
    reachable side of every comparison.
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
