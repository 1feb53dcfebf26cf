"""A guest whose descriptors change all the time, many of which look right."""

import mmap
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from support import WAIT
from support.child import fork
from support.frames import numbered, numbered_frames
from support.guest_cards import Card, card
from support.guest_driver import RECEIVE, TRANSMIT
from support.guest_memory import SMALL_REGIONS, small_memory
from support.guest_queue import DESCRIPTOR

from rawmmsg import RawSocket

BUFFER: Final = 1536
FIRST, SECOND = SMALL_REGIONS
# Where no block of the guest is.
NEAR: Final = (
    FIRST.guest,
    FIRST.guest + FIRST.size - 64,
    SECOND.guest + SECOND.size - 0x8000,
    2**64 - 9,
)


@contextmanager
def scribbling(made: Card, seed: int) -> Iterator[None]:
    """Another processor writes random descriptors."""
    memory = made.guest.memory
    places = [
        memory.where(queue.descriptors, queue.size * DESCRIPTOR.size)
        for queue in made.guest.queues
    ]
    pid = fork()
    if pid == 0:
        _scribble(memory.bytes, places, random.Random(seed))
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _scribble(
    memory: mmap.mmap, places: list[slice], rng: random.Random
) -> None:
    """Never returns."""
    parent = os.getppid()
    while os.getppid() == parent:
        for _ in range(1000):
            place = rng.choice(places)
            count = (place.stop - place.start) // DESCRIPTOR.size
            at = place.start + DESCRIPTOR.size * rng.randrange(count)
            memory[at : at + DESCRIPTOR.size] = DESCRIPTOR.pack(
                rng.choice(NEAR) + rng.randrange(1 << 16) & 2**64 - 1,
                rng.choice((0, 1, 12, 16, 1500, 0x10000, 0xFFFFFFFF)),
                rng.choice((0, 1, 2, 3, 4, 5, 7)),
                rng.randrange(count) + rng.choice((0, 0, 0, 0, 7)),
            )
    os._exit(0)


def test_rings_that_change_all_the_time_harm_nobody_else(
    near: RawSocket,
    far: RawSocket,
    end: RawSocket,
    scaled: Callable[[int], int],
) -> None:
    """A ring that breaks is started again. Another guest goes on."""
    broken = count = 0
    deadline = time.monotonic() + WAIT
    with card(size=64, memory=small_memory, batch=16) as made, card() as other:
        other.guest.post([BUFFER] * 64)
        with scribbling(made, 1):
            while count < scaled(300) or not broken:
                assert broken or time.monotonic() < deadline, (
                    "no ring was ever broken"
                )
                count += 1
                for queue in made.guest.queues:
                    for head in range(16):
                        queue.put_available(head)
                    queue.publish()
                end.sendmmsg_all(numbered_frames(4))
                exchange(made, near)
                for index in (RECEIVE, TRANSMIT):
                    if made.rings.broken(index):
                        broken += 1
                        base = made.link.stop_ring(index)
                        made.guest.queues[index].restart_at(base)
                        made.link.start_ring(index, base)
                other.guest.send(numbered(count))
                assert other.rings.send(near) == 1
                assert other.guest.finish_sent() == 1


def exchange(made: Card, near: RawSocket) -> None:
    """Moves what can be moved. The kernel refuses some frames."""
    for _ in range(8):
        try:
            made.rings.send(near)
        except OSError:
            made.rings.refuse()
    made.receive(near)
