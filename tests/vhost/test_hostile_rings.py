"""Guests that break the rules: their ring ends, and nothing else does."""

from collections.abc import Iterator

import pytest
from support.frames import numbered, numbered_frames
from support.guest_cards import Card, card
from support.guest_driver import RECEIVE, RINGS, TRANSMIT

from rawmmsg import SUPER_FRAME, PacketBatch

BUFFER = 1536
JUMPED = "the index of the available ring has jumped"


@pytest.fixture
def guest() -> Iterator[Card]:
    with card() as made:
        made.guest.notify = lambda index: None
        made.guest.post([BUFFER] * 8)
        yield made


def index_of(made: Card, ring: int, change: int) -> None:
    queue = made.guest.queues[ring]
    queue.set_available_index((queue.next_available + change) & 0xFFFF)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("change", [257, 32_768, -9])
def test_an_index_that_jumps_breaks_its_ring_alone(
    guest: Card, ring: int, change: int
) -> None:
    guest.guest.send_all(numbered_frames(8))
    guest.rings.kicked(ring)
    index_of(guest, ring, change)
    guest.rings.kicked(ring)
    assert guest.rings.broken(ring) == JUMPED
    assert not guest.rings.is_ready(ring)
    assert not guest.rings.ask_for_kick(ring)
    other = TRANSMIT - ring
    assert guest.rings.broken(other) is None
    assert guest.rings.is_ready(other)


@pytest.mark.parametrize("ring", RINGS)
def test_an_index_that_goes_back_breaks_the_ring(
    guest: Card, ring: int
) -> None:
    """Even by an entry that was not taken yet. Otherwise, a guest that changes
    its index all the time would keep the back end busy for ever: each kick
    would be for a buffer, and it could never sleep."""
    guest.guest.send_all(numbered_frames(8))
    assert guest.rings.kicked(ring)
    index_of(guest, ring, -1)
    guest.rings.kicked(ring)
    assert guest.rings.broken(ring) == JUMPED
    index_of(guest, ring, 0)
    assert not guest.rings.kicked(ring)
    assert not guest.rings.ask_for_kick(ring)


def test_what_was_taken_before_a_ring_breaks_is_passed_on(
    guest: Card,
) -> None:
    guest.guest.send_all(numbered_frames(4))
    batch = PacketBatch(2, SUPER_FRAME)
    assert guest.rings.recvmmsg_into(batch) == 2
    index_of(guest, TRANSMIT, -3)
    guest.rings.kicked(TRANSMIT)
    assert guest.rings.broken(TRANSMIT) == JUMPED
    assert guest.rings.pending == 2
    assert guest.rings.recvmmsg_into(batch) == 2
    assert batch.tolist() == [numbered(2), numbered(3)]
    with pytest.raises(BlockingIOError):
        guest.rings.recvmmsg_into(batch)


def test_a_broken_ring_drops_frames_for_the_guest(guest: Card) -> None:
    index_of(guest, RECEIVE, 1000)
    batch = PacketBatch(2)
    batch.append(numbered(1))
    assert guest.rings.sendmmsg(batch) == 1
    assert guest.rings.sendmmsg(batch) == 1
    assert guest.count("missed") == 2
    assert not guest.rings.is_full


def test_a_broken_ring_can_be_stopped_and_started_again(guest: Card) -> None:
    index_of(guest, TRANSMIT, 1000)
    guest.rings.kicked(TRANSMIT)
    assert guest.rings.broken(TRANSMIT)
    assert guest.rings.stop(TRANSMIT) == 0
    assert guest.rings.broken(TRANSMIT) is None
    index_of(guest, TRANSMIT, 0)
    guest.rings.start(TRANSMIT)
    guest.guest.send(numbered(1))
    batch = PacketBatch(1, SUPER_FRAME)
    assert guest.rings.recvmmsg_into(batch) == 1
    assert batch.tolist() == [numbered(1)]
