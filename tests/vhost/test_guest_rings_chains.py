"""Chains of descriptors that are as long as allowed, or that lie in several
regions of memory."""

from typing import Final

import pytest
from support.frames import held, numbered, receive
from support.guest_cards import card
from support.guest_driver import RECEIVE, TRANSMIT
from support.guest_memory import GuestMemory, GuestRegion
from support.guest_queue import DESCRIPTOR, INDIRECT, NEXT, Part

from rawmmsg import RawSocket

BUFFER: Final = 1536
MOST_PARTS: Final = 1022
PAGE: Final = 4096


def pages() -> GuestMemory:
    """Regions that follow each other in the guest's addresses, but not in the
    file."""
    return GuestMemory(
        (
            GuestRegion(0, PAGE, 0x7F0000000000, 3 * PAGE),
            GuestRegion(PAGE, PAGE, 0x7F5000000000, PAGE),
            GuestRegion(2 * PAGE, 1 << 20, 0x7F1000000000, 5 * PAGE),
        )
    )


def test_a_chain_may_have_1022_parts(
    near: RawSocket, far: RawSocket, end: RawSocket
) -> None:
    """The header and the end of a frame need two more, and a message has at
    most 1,024 (UIO_MAXIOV)."""
    sizes = [1] * (MOST_PARTS - 1)
    with card(size=1024) as made:
        for indirect in (False, True):
            made.guest.send(numbered(1, 1500), layout=sizes, indirect=indirect)
            assert made.rings.send(near) == 1
            assert made.guest.finish_sent() == 1
            made.guest.post([[*sizes, 600]], indirect=indirect)
            end.sendmmsg_all([numbered(2, 1500)])
            made.give_once(near, [numbered(2, 1500)])
        assert receive(far, 2) == [numbered(1, 1500)] * 2


def test_many_long_chains_go_through(
    near: RawSocket, far: RawSocket, end: RawSocket
) -> None:
    """More parts than a batch has room for."""
    sizes = [1] * (MOST_PARTS - 1)
    frames = [numbered(i, 1400) for i in range(12)]
    with card() as made:
        for frame in frames:
            made.guest.send(frame, layout=sizes, indirect=True)
        made.guest.post([[*sizes, 600]] * 12, indirect=True)
        assert made.send(near) == 12
        assert receive(far, 12) == frames
        end.sendmmsg_all(frames)
        made.give_once(near, frames)


@pytest.mark.parametrize("size", [300, 1200])
def test_a_frame_may_fill_several_buffers_of_many_parts(
    near: RawSocket, end: RawSocket, size: int
) -> None:
    """They do not all fit into a batch's memory for parts."""
    frames = [numbered(i, size) for i in range(30)]
    with card() as made:
        made.guest.post([[1] * 400] * 120, indirect=True)
        end.sendmmsg_all(frames[:10])
        made.give_once(near, frames[:10])
        assert made.rings.sendmmsg(held(*frames[10:])) == 20
        got = made.guest.received(again=False)
        assert [one.frame for one in got] == frames[10:]


def test_a_frame_that_needs_more_parts_than_a_batch_has_is_dropped(
    jumbo: tuple[RawSocket, RawSocket],
) -> None:
    """8,192 parts of one byte; the frames around it arrive."""
    near, far = jumbo
    with card() as made:
        made.guest.post([[1] * 1000] * 40, indirect=True)
        far.sendmmsg_all([numbered(1), numbered(2, 9000), numbered(3)])
        made.until_queued(near, 3)
        got = made.guest.received(again=False)
        assert [one.frame for one in got] == [numbered(1), numbered(3)]
        assert made.count("no_room") == 1


def test_a_table_may_follow_descriptors(
    near: RawSocket, far: RawSocket
) -> None:
    frame = numbered(1, 500)
    with card() as made:
        memory, queue = made.guest.memory, made.guest.transmit
        block = memory.allocate(512)
        memory.write(block, bytes(12) + frame)
        table = memory.allocate(32, 16)
        memory.write(
            table,
            DESCRIPTOR.pack(block + 12, 400, NEXT, 1)
            + DESCRIPTOR.pack(block + 412, 100, 0, 0),
        )
        queue.write_descriptor(0, block, 12, NEXT, 1)
        queue.write_descriptor(1, table, 32, INDIRECT)
        queue.put_available(0)
        queue.publish()
        assert made.rings.send(near) == 1
        assert receive(far, 1) == [frame]


def test_a_buffer_may_lie_in_several_regions(
    near: RawSocket, far: RawSocket, end: RawSocket
) -> None:
    with card(memory=pages) as made:
        frame = numbered(1, 1500)
        at = PAGE - 700
        made.guest.memory.write(at, bytes(12) + frame)
        made.guest.transmit.add([Part(at, 1512)])
        made.guest.flush(TRANSMIT)
        assert made.rings.send(near) == 1
        assert receive(far, 1) == [frame]
        made.guest.memory.write(at, bytes(1512))
        made.guest.receive.add([Part(at, BUFFER)], writable=True)
        made.guest.flush(RECEIVE)
        end.sendmmsg_all([frame])
        made.until_queued(near, 1)
        ((_, length),) = made.guest.receive.take_used()
        assert length == 12 + 1500
        assert made.guest.memory.read(at + 12, 1500) == frame


def test_a_descriptor_of_a_table_may_lie_in_two_regions(
    near: RawSocket, far: RawSocket
) -> None:
    with card(memory=pages) as made:
        frame = numbered(1, 500)
        memory = made.guest.memory
        block = memory.allocate(512)
        memory.write(block, bytes(12) + frame)
        memory.write(PAGE - 8, DESCRIPTOR.pack(block, 512, 0, 0))
        queue = made.guest.transmit
        queue.write_descriptor(0, PAGE - 8, 16, INDIRECT)
        queue.put_available(0)
        queue.publish()
        assert made.rings.send(near) == 1
        assert receive(far, 1) == [frame]
