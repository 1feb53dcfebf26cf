"""A guest that rewrites its frames all the time: what was decided about is
what is sent, because it was copied first."""

import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from support.calls import eventually
from support.child import fork
from support.frames import LOCAL_EXPERIMENTAL, OTHER_EXPERIMENTAL, frame
from support.guest_cards import Card, card, header_of
from support.guest_driver import NEGOTIATED, TRANSMIT, OffloadHeader
from support.guest_queue import Part
from support.programs import (
    JEQ,
    LD_H_ABS,
    LD_IMM,
    RET,
    keep_ethertype,
    program,
)

from rawmmsg import (
    GSO_TCPV4,
    SUPER_FRAME,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg._rawmmsg import _GuestRings
from rawmmsg.vhost import Feature

FRAMES: Final = 32
ENOUGH: Final = 2000

GOOD: Final = frame(bytes(50), ethertype=LOCAL_EXPERIMENTAL)
BAD: Final = frame(b"\xff" * 50, ethertype=OTHER_EXPERIMENTAL)
NO_HEADER: Final = OffloadHeader().pack(12)

# With an indirect load, the program may look at any byte.
INDIRECT: Final = program(
    (LD_IMM, 0, 0, 12),
    (0x07, 0, 0, 0),  # tax
    (0x48, 0, 0, 0),  # ldh [x + 0]
    (JEQ, 0, 1, LOCAL_EXPERIMENTAL),
    (RET, 0, 0, 0xFFFF),
    (RET, 0, 0, 0),
)
# Nothing but the last byte tells the frames apart for this one.
LAST: Final = program(
    (LD_H_ABS, 0, 0, 62),
    (JEQ, 0, 1, 0),
    (RET, 0, 0, 0xFFFF),
    (RET, 0, 0, 0),
)
# Each with the bytes that it decides on.
PROGRAMS: Final = {
    "constant offset": (keep_ethertype(LOCAL_EXPERIMENTAL), slice(12, 14)),
    "indirect load": (INDIRECT, slice(12, 14)),
    "last bytes": (LAST, slice(62, 64)),
}

Seen = tuple[OffloadHeader, bytes]
Move = Callable[[Card, RawSocket, RawSocket], list[Seen]]


def by_socket(made: Card, near: RawSocket, end: RawSocket) -> list[Seen]:
    """Moves what the guest sends over the link. The kernel refuses some."""
    left = True
    while left:
        try:
            left = made.rings.send(near) > 0
        except OSError:
            made.rings.refuse()
    return taken(end)


def by_batch(made: Card, near: RawSocket, end: RawSocket) -> list[Seen]:
    return taken(made.rings)


MOVES: Final[dict[str, Move]] = {"socket": by_socket, "batch": by_batch}


def taken(source: RawSocket | _GuestRings) -> list[Seen]:
    """All that can be received now."""
    batch = PacketBatch(64, SUPER_FRAME)
    seen: list[Seen] = []
    try:
        while True:
            count = source.recvmmsg_into(batch)
            seen += [
                (header_of(batch, i), bytes(batch[i])) for i in range(count)
            ]
    except BlockingIOError:
        return seen


@contextmanager
def rewriting(made: Card, one: bytes, other: bytes) -> Iterator[list[Part]]:
    """Buffers with the one content, which another processor changes to the
    other one and back all the time."""
    memory = made.guest.memory
    block = memory.allocate(len(one) * FRAMES)
    memory.write(block, one * FRAMES)
    where = memory.where(block, len(one) * FRAMES)
    pid = fork()
    if pid == 0:
        _rewrite(memory.bytes, where, one * FRAMES, other * FRAMES)
    try:
        yield [Part(block + i * len(one), len(one)) for i in range(FRAMES)]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _rewrite(
    memory: mmap.mmap, where: slice, one: bytes, other: bytes
) -> None:
    """Never returns."""
    parent = os.getppid()
    while os.getppid() == parent:
        for _ in range(10_000):
            memory[where] = other
            memory[where] = one
    os._exit(0)


def attack(
    made: Card,
    parts: list[Part],
    move: Callable[[], list[Seen]],
    is_enough: Callable[[list[Seen]], bool],
) -> None:
    """Sends the buffers again and again, until what was seen of them is
    enough."""

    def is_done() -> bool:
        for part in parts:
            made.guest.transmit.add([part])
        made.guest.flush(TRANSMIT)
        seen = move()
        assert len(list(made.guest.transmit.take_used())) == len(parts)
        return is_enough(seen)

    eventually(is_done, "it is never enough")


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_nothing_gets_past_a_filter(
    near: RawSocket, end: RawSocket, kind: str, move: str
) -> None:
    end.setblocking(False)
    instructions, decided = PROGRAMS[kind]
    with (
        card(filter=instructions) as made,
        rewriting(made, NO_HEADER + GOOD, NO_HEADER + BAD) as parts,
    ):

        def is_enough(seen: list[Seen]) -> bool:
            for _, content in seen:
                assert content[decided] == GOOD[decided]
            counts = made.rings.statistics()
            return min(counts["received"], counts["rejected"]) > ENOUGH

        attack(made, parts, lambda: MOVES[move](made, near, end), is_enough)


@pytest.mark.parametrize("move", MOVES)
def test_without_a_filter_both_are_sent(
    near: RawSocket, end: RawSocket, move: str
) -> None:
    """This shows that the test above would see a frame that was changed."""
    end.setblocking(False)
    types: set[bytes] = set()
    with (
        card() as made,
        rewriting(made, NO_HEADER + GOOD, NO_HEADER + BAD) as parts,
    ):

        def is_enough(seen: list[Seen]) -> bool:
            types.update(content[12:14] for _, content in seen)
            return types == {GOOD[12:14], BAD[12:14]}

        attack(made, parts, lambda: MOVES[move](made, near, end), is_enough)


@pytest.mark.parametrize("move", MOVES)
def test_no_header_that_was_not_negotiated_is_used(
    near: RawSocket, end: RawSocket, move: str
) -> None:
    end.setblocking(False)
    forbidden = OffloadHeader(VNET_NEEDS_CSUM, GSO_TCPV4, 54, 9, 34, 16)
    features = NEGOTIATED & ~(Feature.CSUM | Feature.HOST_TSO4)
    with (
        card(features) as made,
        rewriting(made, NO_HEADER + GOOD, forbidden.pack(12) + GOOD) as parts,
    ):

        def is_enough(seen: list[Seen]) -> bool:
            for header, content in seen:
                assert content == GOOD
                assert header.flags == header.gso_type == 0
            counts = made.rings.statistics()
            return (
                counts["malformed"] > ENOUGH
                and counts["received"] - counts["malformed"] > ENOUGH
            )

        attack(made, parts, lambda: MOVES[move](made, near, end), is_enough)
