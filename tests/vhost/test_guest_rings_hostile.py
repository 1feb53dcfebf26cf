"""A guest can write anything to its rings. A ring that breaks a rule is not
used any more; the other one goes on, and nothing outside the memory table is
touched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import pytest
from support.datagrams import Datagram, data, super_frame
from support.frames import numbered, numbered_frames, receive
from support.guest_cards import Card, card
from support.guest_driver import NEGOTIATED, NOTHING, RECEIVE, TRANSMIT
from support.guest_memory import (
    SMALL_REGIONS,
    small_memory,
)
from support.guest_queue import (
    DESCRIPTOR,
    INDIRECT,
    NEXT,
    WRITE,
    DriverQueue,
)

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.vhost import Feature

BUFFER: Final = 1536
MOST_PARTS: Final = 1022
PAGE: Final = 4096

FIRST, SECOND = SMALL_REGIONS
END_OF_FIRST: Final = FIRST.guest + FIRST.size
END_OF_SECOND: Final = SECOND.guest + SECOND.size


@dataclass
class Attack:
    """What a hostile guest writes to one of its rings. Its chains consist of
    the first descriptors, which nothing else uses."""

    queue: DriverQueue
    flags: int  # of a right descriptor
    block: int  # a page of memory

    def chain(
        self, *descriptors: tuple[int, int, int, int], head: int = 0
    ) -> None:
        """Makes a chain available: address, length, more flags, next."""
        for i, (address, length, flags, following) in enumerate(descriptors):
            self.queue.write_descriptor(
                i, address, length, self.flags ^ flags, following
            )
        self.queue.put_available(head)

    def one(self, address: int, length: int, flags: int = 0) -> None:
        self.chain((address, length, flags, 0))

    def table(
        self, *descriptors: tuple[int, int, int, int], length: int = -1
    ) -> None:
        """Makes an indirect table available."""
        content = b"".join(
            DESCRIPTOR.pack(address, size, self.flags ^ flags, following)
            for address, size, flags, following in descriptors
        )
        memory = self.queue.memory
        at = memory.allocate(max(16, len(content)), 16)
        memory.write(at, content)
        if length < 0:
            length = len(content)
        self.queue.write_descriptor(0, at, length, INDIRECT)
        self.queue.put_available(0)

    def jump(self, by: int) -> None:
        self.queue.next_available = (self.queue.next_available + by) & 0xFFFF


Writes = Callable[[Attack], None]

BEYOND: Final = "an index beyond its table"
LOOP: Final = "is a loop"
OUTSIDE: Final = "a buffer is not in guest memory"
HEADERLESS: Final = "offload header"  # shorter than one
NO_TABLE: Final = "an indirect table is not in guest memory"
ATTACKS: Final[dict[str, tuple[Writes, str]]] = {
    "head beyond the table": (lambda a: a.chain(head=1024), BEYOND),
    "largest head": (lambda a: a.chain(head=0xFFFF), BEYOND),
    "next beyond the table": (
        lambda a: a.chain((a.block, 100, NEXT, 1024)),
        BEYOND,
    ),
    "largest next": (lambda a: a.chain((a.block, 100, NEXT, 0xFFFF)), BEYOND),
    "itself": (lambda a: a.chain((a.block, 100, NEXT, 0)), LOOP),
    "loop of two": (
        lambda a: a.chain((a.block, 100, NEXT, 1), (a.block, 100, NEXT, 0)),
        LOOP,
    ),
    "loop behind the head": (
        lambda a: a.chain(
            (a.block, 100, NEXT, 1),
            (a.block, 100, NEXT, 2),
            (a.block, 100, NEXT, 1),
        ),
        LOOP,
    ),
    "loop in a table": (
        lambda a: a.table((a.block, 100, NEXT, 1), (a.block, 100, NEXT, 0)),
        LOOP,
    ),
    "next beyond an indirect table": (
        lambda a: a.table((a.block, 100, NEXT, 1)),
        BEYOND,
    ),
    "indirect in indirect": (
        lambda a: a.table((a.block, 16, INDIRECT, 0)),
        "in an indirect table",
    ),
    "indirect with next": (
        lambda a: a.chain(
            (a.block, 16, INDIRECT | NEXT, 1), (a.block, 9, 0, 0)
        ),
        "an indirect descriptor with a next one",
    ),
    "empty indirect table": (
        lambda a: a.table(length=0),
        "a part of a descriptor",
    ),
    "indirect table of 15 bytes": (
        lambda a: a.table((a.block, 100, 0, 0), length=15),
        "a part of a descriptor",
    ),
    "indirect table of 17 bytes": (
        lambda a: a.table((a.block, 100, NEXT, 1), length=17),
        "a part of a descriptor",
    ),
    "indirect table outside": (
        lambda a: a.one(END_OF_SECOND, 16, INDIRECT),
        NO_TABLE,
    ),
    "indirect table partly outside": (
        lambda a: a.one(END_OF_SECOND - 8, 16, INDIRECT),
        NO_TABLE,
    ),
    "indirect table beyond the last address": (
        lambda a: a.one(2**64 - 16, 32, INDIRECT),
        NO_TABLE,
    ),
    "long indirect table that ends outside": (
        lambda a: a.one(2**64 - 1, 0xFFFFFFF0, INDIRECT),
        NO_TABLE,
    ),
    "wrong direction": (lambda a: a.one(a.block, 100, WRITE), "writable"),
    "wrong direction in the second": (
        lambda a: a.chain((a.block, 100, NEXT, 1), (a.block, 100, WRITE, 0)),
        "writable",
    ),
    "wrong direction in a table": (
        lambda a: a.table((a.block, 100, WRITE, 0)),
        "writable",
    ),
    "no bytes": (lambda a: a.one(a.block, 0), "a buffer without bytes"),
    "no bytes in the second": (
        lambda a: a.chain((a.block, 100, NEXT, 1), (a.block, 0, 0, 0)),
        "a buffer without bytes",
    ),
    "outside": (lambda a: a.one(END_OF_SECOND, 100), OUTSIDE),
    "between the regions": (lambda a: a.one(END_OF_FIRST, 100), OUTSIDE),
    "last byte outside": (lambda a: a.one(END_OF_SECOND - 99, 100), OUTSIDE),
    "last byte between the regions": (
        lambda a: a.one(END_OF_FIRST - 99, 100),
        OUTSIDE,
    ),
    "from region to region": (
        lambda a: a.one(END_OF_FIRST - 50, SECOND.guest + 100),
        OUTSIDE,
    ),
    "largest address": (lambda a: a.one(2**64 - 1, 100), OUTSIDE),
    "address and length overflow": (
        lambda a: a.one(2**64 - 50, 0xFFFFFFFF),
        OUTSIDE,
    ),
    "address of the front end": (
        lambda a: a.one(SECOND.user, 100),
        OUTSIDE,
    ),
    "largest length": (lambda a: a.one(a.block, 0xFFFFFFFF), OUTSIDE),
    "shorter than a header": (
        lambda a: a.one(a.block, 11),
        HEADERLESS,
    ),
    "too many parts": (
        lambda a: a.chain(
            *((a.block, 1, NEXT, i + 1) for i in range(MOST_PARTS)),
            (a.block, 1, 0, 0),
        ),
        "a chain of more than 1,022 parts",
    ),
    "too many parts in a table": (
        lambda a: a.table(
            *((a.block, 1, NEXT, i + 1) for i in range(MOST_PARTS)),
            (a.block, 1, 0, 0),
        ),
        "a chain of more than 1,022 parts",
    ),
    "a table of 4,096 parts": (
        lambda a: a.table(
            *((a.block, 100, NEXT, i + 1) for i in range(4095)),
            (a.block, 1, 0, 0),
        ),
        "a chain of more than 1,022 parts",
    ),
    "index too far ahead": (
        lambda a: a.jump(1025),
        "the index of the available ring has jumped",
    ),
    "index half around": (
        lambda a: a.jump(0x8000),
        "the index of the available ring has jumped",
    ),
    "index back": (
        lambda a: a.jump(-1),
        "the index of the available ring has jumped",
    ),
}


@contextmanager
def hostile(
    features: Feature = NEGOTIATED, attack: str = ""
) -> Iterator[Card]:
    # A loop shorter than the longest chain is found as a loop.
    size = 1024 if attack == "too many parts" else 256
    with card(features, size=size, memory=small_memory) as made:
        yield made


def attack_on(made: Card, index: int) -> Attack:
    flags = WRITE if index == RECEIVE else 0
    block = made.guest.memory.allocate(PAGE)
    return Attack(made.guest.queues[index], flags, block)


def assert_broken(made: Card, index: int, reason: str) -> None:
    """Asserts that this ring is broken for this reason, and the other one is
    not."""
    assert reason in (made.rings.broken(index) or "it is not broken")
    assert not made.rings.is_ready(index)
    assert made.rings.broken(1 - index) is None
    assert made.rings.is_ready(1 - index)


# Each attack on each ring


@pytest.mark.parametrize("name", ATTACKS)
def test_a_transmit_ring_that_breaks_a_rule_ends(
    near: RawSocket, far: RawSocket, end: RawSocket, name: str
) -> None:
    writes, reason = ATTACKS[name]
    with hostile(attack=name) as made:
        made.guest.post([BUFFER] * 8)
        made.guest.send_all(numbered_frames(3))
        assert made.send(near) == 3
        assert made.guest.finish_sent() == 3
        writes(attack_on(made, TRANSMIT))
        made.guest.transmit.publish()
        before = bytes(made.guest.memory.bytes)
        for _ in range(3):
            assert made.rings.send(near) == 0
        assert_broken(made, TRANSMIT, reason)
        assert not made.rings.ask_for_kick(TRANSMIT)
        assert bytes(made.guest.memory.bytes) == before, "it was written to"
        assert receive(far, 3) == numbered_frames(3)
        end.sendmmsg_all([numbered(9)])
        (got,) = made.give(near, 1)
        assert got.frame == numbered(9)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_receive_ring_that_breaks_a_rule_ends(
    near: RawSocket, far: RawSocket, end: RawSocket, name: str
) -> None:
    """Frames for it are dropped and counted."""
    writes, reason = ATTACKS[name]
    with hostile(attack=name) as made:
        made.guest.post([BUFFER] * 2)
        end.sendmmsg_all(numbered_frames(2))
        made.give_once(near, numbered_frames(2))
        writes(attack_on(made, RECEIVE))
        made.guest.receive.publish()
        before = bytes(made.guest.memory.bytes)
        end.sendmmsg_all([numbered(8)])
        assert made.rings.receive(near) == 0
        assert_broken(made, RECEIVE, reason)
        assert not made.rings.ask_for_kick(RECEIVE)
        assert bytes(made.guest.memory.bytes) == before, "it was written to"
        made.until_queued(near, 1)
        assert made.count("missed") == 1
        made.guest.send(numbered(9))
        assert made.rings.send(near) == 1
        assert receive(far, 1) == [numbered(9)]


@pytest.mark.parametrize("name", ATTACKS)
def test_batches_find_the_same(name: str) -> None:
    writes, reason = ATTACKS[name]
    batch = PacketBatch(64, SUPER_FRAME)
    with hostile(attack=name) as made:
        writes(attack_on(made, TRANSMIT))
        made.guest.transmit.publish()
        with pytest.raises(BlockingIOError):
            made.rings.recvmmsg_into(batch)
        assert_broken(made, TRANSMIT, reason)
    batch.extend(numbered_frames(5))
    with hostile(attack=name) as made:
        writes(attack_on(made, RECEIVE))
        made.guest.receive.publish()
        before = bytes(made.guest.memory.bytes)
        assert made.rings.sendmmsg(batch) == 5
        assert_broken(made, RECEIVE, reason)
        assert made.counted == {"missed": 5}
        assert bytes(made.guest.memory.bytes) == before, "it was written to"


# What was not negotiated


@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT])
def test_indirect_tables_need_their_feature(
    near: RawSocket, index: int
) -> None:
    with hostile(NEGOTIATED & ~Feature.INDIRECT_DESC) as made:
        attack = attack_on(made, index)
        attack.table((attack.block, 100, 0, 0))
        attack.queue.publish()
        move(made, near)
        assert_broken(made, index, "without INDIRECT_DESC")


@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT])
@pytest.mark.parametrize(
    ("features", "size"), [(NOTHING, 10), (Feature.MRG_RXBUF, 12)]
)
def test_the_shortest_buffer_is_a_header(
    near: RawSocket, features: Feature, size: int, index: int
) -> None:
    with hostile(features) as made:
        attack = attack_on(made, index)
        attack.one(attack.block, size)
        attack.queue.publish()
        move(made, near)
        assert made.rings.broken(index) is None
    with hostile(features) as made:
        attack = attack_on(made, index)
        attack.one(attack.block, size - 1)
        attack.queue.publish()
        move(made, near)
        assert_broken(made, index, HEADERLESS)


def move(made: Card, near: RawSocket) -> None:
    made.rings.send(near)
    made.receive(near)


@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT])
def test_a_chain_has_less_than_4_gib(near: RawSocket, index: int) -> None:
    with card() as made:
        region = made.guest.memory.regions[-1]
        attack = attack_on(made, index)
        count = (4 << 30) // region.size
        attack.table(
            *((region.guest, region.size, NEXT, i + 1) for i in range(count)),
            (region.guest, 1, 0, 0),
        )
        attack.queue.publish()
        move(made, near)
        assert_broken(made, index, "a chain of 4 GiB or more")


# Around a broken chain


def test_what_was_right_before_the_chain_is_sent(
    near: RawSocket, far: RawSocket
) -> None:
    with hostile() as made:
        made.guest.send_all(numbered_frames(5))
        attack = attack_on(made, TRANSMIT)
        attack.one(0xDEAD0000, 100)
        made.guest.send(numbered(6))
        made.send(near)
        assert_broken(made, TRANSMIT, OUTSIDE)
        assert made.guest.finish_sent() == 5
        assert receive(far, 5) == numbered_frames(5)


def test_frames_are_received_into_what_was_right_before_the_chain(
    near: RawSocket, end: RawSocket
) -> None:
    with hostile() as made:
        made.guest.post([BUFFER] * 5)
        attack = attack_on(made, RECEIVE)
        attack.one(0xDEAD0000, 100)
        attack.queue.publish()
        end.sendmmsg_all(numbered_frames(8))
        made.until_queued(near, 8)
        got = [one.frame for one in made.guest.received(again=False)]
        assert got == numbered_frames(8)[: len(got)]
        assert_broken(made, RECEIVE, OUTSIDE)
        assert made.count("sent") == len(got)
        assert made.count("sent") + made.count("missed") == 8


def test_frames_that_wait_for_a_ring_that_breaks_are_missed(
    near: RawSocket, end: RawSocket
) -> None:
    with hostile(NEGOTIATED & ~Feature.GUEST_TSO4) as made:
        made.guest.post([BUFFER] * 2)
        batch = super_frame(Datagram(data(9000)), 1000)
        assert made.rings.sendmmsg(batch) == 1
        end.sendmmsg([numbered(1)])
        assert made.rings.receive(near) == 0
        assert made.rings.is_full
        assert len(made.guest.received(again=False)) == 2
        attack = attack_on(made, RECEIVE)
        attack.one(0xDEAD0000, 100)
        attack.queue.publish()
        made.until_queued(near, 1)
        assert_broken(made, RECEIVE, OUTSIDE)
        assert not made.rings.is_full
        assert made.count("missed") == 2


@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT])
def test_a_broken_ring_works_again_after_a_new_start(
    near: RawSocket, far: RawSocket, end: RawSocket, index: int
) -> None:
    """A guest that reboots."""
    with hostile() as made:
        attack = attack_on(made, index)
        attack.one(0xDEAD0000, 100)
        attack.queue.publish()
        move(made, near)
        assert_broken(made, index, OUTSIDE)
        assert made.link.stop_ring(index) == 0
        assert made.rings.broken(index) is None
        made.guest.take_back(index)
        attack.queue.reset()
        made.link.start_ring(index, 0)
        made.guest.post([BUFFER] * 4)
        made.guest.send(numbered(1))
        assert made.send(near) == 1
        assert receive(far, 1) == [numbered(1)]
        end.sendmmsg_all([numbered(2)])
        (got,) = made.give(near, 1)
        assert got.frame == numbered(2)


def test_a_guest_cannot_change_what_was_used(
    near: RawSocket, far: RawSocket
) -> None:
    """The used ring is only written."""
    with hostile() as made:
        queue = made.guest.transmit
        for i in range(3):
            made.guest.send(numbered(i))
            made.guest.memory.store(queue.used + 2, 0x7777)
            assert made.rings.send(near) == 1
            assert queue.used_index == i + 1
        assert receive(far, 3) == numbered_frames(3)


def test_a_chain_that_is_made_available_twice_is_sent_twice(
    near: RawSocket, far: RawSocket
) -> None:
    with hostile() as made:
        head = made.guest.send(numbered(1), flush=False)
        made.guest.transmit.put_available(head)
        made.guest.flush(TRANSMIT)
        assert made.send(near) == 2
        assert made.guest.transmit.used_index == 2
        assert receive(far, 2) == [numbered(1)] * 2


def test_a_buffer_that_is_made_available_twice_is_the_guests_loss(
    near: RawSocket, end: RawSocket
) -> None:
    with hostile() as made:
        made.guest.post([BUFFER], flush=False)
        queue = made.guest.receive
        head = made.guest.memory.load(queue.available + 4)
        for _ in range(7):
            queue.put_available(head)
        made.guest.flush(RECEIVE)
        end.sendmmsg_all(numbered_frames(8))
        made.until_queued(near, 8)
        assert queue.used_index == 8
        assert made.rings.is_ready(RECEIVE)


def test_one_call_does_the_work_of_one_batch(near: RawSocket) -> None:
    """A guest that never stops sending keeps nobody else from work."""
    with card(batch=8) as made:
        for i in range(made.guest.size):
            made.guest.send(numbered(i), layout=[100], flush=False)
        made.guest.flush(TRANSMIT)
        queue = made.guest.transmit
        for _ in range(50):
            assert made.rings.send(near) == 8
            queue.next_available = (queue.next_available + 8) & 0xFFFF
            queue.publish()
            assert made.rings.ask_for_kick(TRANSMIT)
