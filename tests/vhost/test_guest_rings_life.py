"""How the rings of a guest begin, go on elsewhere, and end: nothing is lost or
sent twice."""

import errno
import gc
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.calls import Call, eventually, raises
from support.child import in_child
from support.datagrams import Datagram, data, super_frame
from support.frames import held, numbered, numbered_frames, receive
from support.guest_cards import Card, Received, card
from support.guest_driver import (
    NEGOTIATED,
    NOTHING,
    RECEIVE,
    RINGS,
    TRANSMIT,
    Guest,
)
from support.guest_links import RingsLink
from support.guest_memory import GuestMemory, split_regions

from rawmmsg import PacketBatch, RawSocket
from rawmmsg._rawmmsg import _GuestRings
from rawmmsg.vhost import Feature

BUFFER = 1536
WITHOUT_EVENTS = NEGOTIATED & ~Feature.EVENT_IDX


@pytest.fixture
def guest() -> Iterator[Card]:
    with card() as made:
        made.guest.post([BUFFER] * 64)
        yield made


def refused_after(made: Card, near: RawSocket, count: int) -> None:
    """Sends so many frames, and then one that the kernel refuses and one more:
    these two are pending."""
    made.guest.send_all(
        [*numbered_frames(count), numbered(count, 3000), numbered(count + 1)]
    )
    assert made.rings.send(near) == count
    with raises(errno.EMSGSIZE, "3,000 bytes"):
        made.rings.send(near)
    assert made.rings.pending == 2


# Stopping and starting again


@pytest.mark.parametrize("base", [0, 7, 65_530])
def test_a_ring_goes_on_where_it_was_stopped(
    near: RawSocket, far: RawSocket, base: int
) -> None:
    """The frames that were not sent are sent then, in order."""
    frames = numbered_frames(50)
    with card(batch=10, base=base) as made:
        made.guest.send_all(frames)
        sent = 0
        for _ in range(5):
            assert made.rings.send(near) == 10
            sent += 10
            answer = made.link.stop_ring(TRANSMIT)
            assert answer == (base + sent) % 65_536
            assert made.link.stop_ring(TRANSMIT) == answer
            assert made.rings.send(near) == 0
            made.link.start_ring(TRANSMIT, answer)
        assert receive(far, 50) == frames
        assert made.guest.finish_sent() == 50


def test_frames_that_are_pending_stay_with_the_guest(
    near: RawSocket, far: RawSocket, guest: Card
) -> None:
    refused_after(guest, near, 3)
    assert guest.link.stop_ring(TRANSMIT) == 3
    assert guest.rings.pending == 0
    guest.link.start_ring(TRANSMIT, 3)
    with raises(errno.EMSGSIZE, "3,000 bytes"):
        guest.rings.send(near)
    guest.rings.refuse()
    assert guest.rings.send(near) == 1
    assert receive(far, 4) == [*numbered_frames(3), numbered(4)]


@pytest.mark.parametrize("base", [0, 65_530])
def test_the_receive_ring_goes_on_where_it_was_stopped(
    near: RawSocket, end: RawSocket, base: int
) -> None:
    with card(base=base) as made:
        made.guest.post([BUFFER] * 64)
        for i in range(10):
            end.sendmmsg([numbered(i)])
            (got,) = made.give(near, 1)
            assert got.frame == numbered(i)
            answer = made.link.stop_ring(RECEIVE)
            assert answer == (base + i + 1) % 65_536
            assert made.link.stop_ring(RECEIVE) == answer
            made.link.start_ring(RECEIVE, answer)


def test_frames_held_for_a_guest_that_stops_are_counted_as_missed() -> None:
    datagram = Datagram(data(50_000))
    with card(NEGOTIATED & ~Feature.GUEST_TSO4) as made:
        made.guest.post([BUFFER] * 4)
        assert made.rings.sendmmsg(super_frame(datagram, 1000)) == 1
        assert made.rings.is_full
        assert made.link.stop_ring(RECEIVE) == 4
        assert made.count("missed") == 1
        assert not made.rings.is_full
        made.guest.received(again=False)
        made.guest.post([BUFFER] * 60)
        made.link.start_ring(RECEIVE, 4)
        assert made.rings.sendmmsg(held(numbered(1))) == 1
        (got,) = made.guest.received()
        assert got.frame == numbered(1)


def test_received_frames_that_were_held_are_missed_when_the_guest_stops(
    near: RawSocket, end: RawSocket
) -> None:
    with card() as made:
        made.guest.post([BUFFER])
        end.sendmmsg([numbered(1), numbered(2, 1500 + 14), numbered(3)])
        made.until_queued(near, 1)
        assert len(made.guest.received(again=False)) == 1
        made.guest.post([100])
        made.until_queued(near, 1)
        assert made.rings.is_full
        assert made.link.stop_ring(RECEIVE) == 1
        assert made.count("missed") == 1


def test_a_back_end_that_is_replaced_goes_on(
    near: RawSocket, far: RawSocket, end: RawSocket
) -> None:
    """A bridge that is restarted: the guest's rings stay as they are."""
    with GuestMemory() as memory:
        guest = Guest(memory)
        guest.post([BUFFER] * 64)
        bases = [0, 0]
        for i in range(5):
            rings = _GuestRings()
            with RingsLink(rings, guest, bases) as link:
                made = Card(guest, rings, link)
                guest.send(numbered(i))
                assert rings.send(near) == 1
                end.sendmmsg([numbered(i)])
                (got,) = made.give(near, 1)
                assert got.frame == numbered(i)
                bases = [link.stop_ring(index) for index in RINGS]
            assert bases == [i + 1, i + 1]
        assert receive(far, 5) == numbered_frames(5)
        assert guest.finish_sent() == 5
        memory.check()


def test_what_a_killed_back_end_has_taken_is_sent_by_the_next_one(
    near: RawSocket, far: RawSocket
) -> None:
    """The front end does not know how far it came; the used ring does."""
    with card(base=100) as made:
        refused_after(made, near, 3)
        made.guest.finish_sent()
        following = _GuestRings()
        with RingsLink(following, made.guest, [100, 105]):
            with raises(errno.EMSGSIZE, "3,000 bytes"):
                following.send(near)
            following.refuse()
            assert following.send(near) == 1
            assert made.guest.finish_sent() == 2
        assert receive(far, 4) == [*numbered_frames(3), numbered(4)]


# Memory


def test_a_new_memory_table_loses_nothing(
    near: RawSocket, far: RawSocket, end: RawSocket, guest: Card
) -> None:
    """share() unmaps the old one, which fails if it is still in use."""
    split = split_regions(guest.guest.memory.regions, 0x8000)
    for i in range(0, 40, 4):
        guest.link.share(split if i % 8 else ())
        guest.guest.send_all([numbered(i), numbered(i + 1)])
        assert guest.rings.send(near) == 2
        guest.link.share()
        guest.guest.send_all([numbered(i + 2), numbered(i + 3)])
        guest.link.share(split)
        assert guest.rings.send(near) == 2
        assert guest.guest.finish_sent() == 4
        end.sendmmsg([numbered(i)])
        (got,) = guest.give(near, 1)
        assert got.frame == numbered(i)
    assert receive(far, 40) == numbered_frames(40)


def test_a_new_memory_table_keeps_frames_that_are_pending(
    near: RawSocket, far: RawSocket, guest: Card
) -> None:
    refused_after(guest, near, 2)
    for _ in range(3):
        guest.link.share()
        with raises(errno.EMSGSIZE, "3,000 bytes"):
            guest.rings.send(near)
    guest.rings.refuse()
    assert guest.rings.send(near) == 1
    assert receive(far, 3) == [*numbered_frames(2), numbered(3)]
    assert guest.guest.finish_sent() == 4


def test_a_new_memory_table_keeps_frames_that_are_held(
    near: RawSocket, end: RawSocket
) -> None:
    datagram = Datagram(data(60_000))
    segments = datagram.segments(1000)
    with card(NEGOTIATED & ~Feature.GUEST_TSO4, size=16) as made:
        made.guest.post([BUFFER] * 16)
        end.sendmmsg(super_frame(datagram, 1000))
        end.sendmmsg([numbered(1, 1514)])
        got: list[Received] = []
        while len(got) <= len(segments):
            made.link.share()
            got += made.guest.received()
            made.link.share()
            made.receive(near)
        assert [one.frame for one in got] == [*segments, numbered(1, 1514)]


def test_a_table_without_the_rings_is_refused_and_changes_nothing(
    near: RawSocket, far: RawSocket, guest: Card
) -> None:
    first, second = guest.guest.memory.regions
    guest.guest.send(numbered(1))
    for regions in ([first], [second._replace(user=second.user + 0x1000)]):
        with pytest.raises(ValueError, match="not in one region"):
            guest.link.share(regions)
        assert guest.rings.send(near) == 1
        guest.guest.send(numbered(1))
    assert receive(far, 2) == [numbered(1)] * 2


def test_memory_cannot_go_while_rings_run(guest: Card) -> None:
    with pytest.raises(ValueError, match="running without memory"):
        guest.rings.set_memory(())


def test_an_object_that_is_deleted_gives_the_memory_back() -> None:
    with GuestMemory() as memory:
        guest = Guest(memory)
        guest.post([BUFFER] * 4)
        rings = _GuestRings()
        link = RingsLink(rings, guest)
        guest.send(numbered(1))
        rings.recvmmsg_into(PacketBatch(4, 69_632))
        link.rings = _GuestRings()
        del rings
        gc.collect()
        # Raises BufferError if the memory is still in use.
        link.close()


# Starting


def test_a_ring_must_lie_in_one_region_and_be_aligned() -> None:
    with card() as made:
        first, second = made.guest.memory.regions
        made.link.stop_ring(TRANSMIT)
        right = made.guest.transmit.addresses
        for part, step in (("descriptors", 8), ("used", 2), ("available", 1)):
            inside = getattr(right, part)
            for address in (
                inside + step,
                first.user + first.size - 16,
                first.user + first.size,
                second.user - 16,
                0,
                2**64 - 16,
            ):
                made.rings.set_addresses(
                    TRANSMIT, replace(right, **{part: address})
                )
                with pytest.raises(ValueError, match="not in one region"):
                    made.rings.start(TRANSMIT)
                assert not made.rings.is_ready(TRANSMIT)
        assert made.rings.is_ready(RECEIVE)
        made.link.start_ring(TRANSMIT, 0)
        assert made.rings.is_ready(TRANSMIT)


@pytest.mark.parametrize("size", [0, 3, 100, 255, 65_536, 0xFFFFFFFF])
def test_the_size_of_a_ring_is_a_power_of_two(size: int) -> None:
    with card() as made:
        for index in RINGS:
            made.link.stop_ring(index)
            made.rings.set_size(index, size)
            with pytest.raises(ValueError, match="power of two"):
                made.rings.start(index)


def test_a_ring_has_at_most_32768_entries(
    near: RawSocket, far: RawSocket
) -> None:
    with card(size=32_768, base=60_000) as made:
        made.guest.send_all(numbered_frames(100))
        assert made.send(near) == 100
        assert receive(far, 100) == numbered_frames(100)


def test_a_ring_that_runs_does_not_start_again(guest: Card) -> None:
    for index in RINGS:
        with pytest.raises(ValueError, match="is running"):
            guest.rings.start(index)


def test_buffers_that_were_there_before_the_start_need_no_kick(
    near: RawSocket, far: RawSocket, end: RawSocket
) -> None:
    with GuestMemory() as memory:
        guest = Guest(memory)
        guest.post([BUFFER] * 8)
        guest.send_all(numbered_frames(5))
        rings = _GuestRings()
        with RingsLink(rings, guest) as link:
            assert rings.send(near) == 5
            end.sendmmsg_all(numbered_frames(3))
            assert len(Card(guest, rings, link).give(near, 3)) == 3
        assert receive(far, 5) == numbered_frames(5)


def test_a_ring_waits_until_it_is_enabled(
    near: RawSocket, far: RawSocket
) -> None:
    """What a disabled ring's guest sends is dropped (the specification of
    vhost-user: "Ring states")."""
    with card() as made:
        made.rings.set_enabled(TRANSMIT, False)
        assert not made.rings.is_ready(TRANSMIT)
        made.guest.send_all(numbered_frames(5))
        assert made.send(near) == 0
        assert made.guest.finish_sent() == 5
        assert made.counted == {"received": 5, "batches": 1, "disabled": 5}
        made.rings.set_enabled(TRANSMIT, True)
        made.guest.send(numbered(6))
        assert made.send(near) == 1
        assert receive(far, 1) == [numbered(6)]


# Notifications


@pytest.mark.parametrize("features", [NEGOTIATED, WITHOUT_EVENTS, NOTHING])
def test_a_batch_notifies_once(
    near: RawSocket, end: RawSocket, features: Feature
) -> None:
    with card(features) as made:
        made.guest.post([2000] * 64)
        queue = made.guest.transmit
        for _ in range(5):
            made.guest.send_all(numbered_frames(20))
            queue.ask_for_call()
            assert made.rings.send(near) == 20
            assert made.link.calls(TRANSMIT) == 1
            assert made.guest.finish_sent() == 20
        assert made.link.calls(RECEIVE) == 0
        made.guest.receive.ask_for_call()
        end.sendmmsg([numbered(1)])
        made.give(near, 1)
        assert made.link.calls(RECEIVE) == 1


@pytest.mark.parametrize("features", [NEGOTIATED, WITHOUT_EVENTS, NOTHING])
def test_a_guest_that_does_not_ask_is_not_notified(
    near: RawSocket, features: Feature
) -> None:
    with card(features) as made:
        made.guest.send(numbered(1))
        made.guest.transmit.ask_for_call()
        made.rings.send(near)
        assert made.link.calls(TRANSMIT) == 1
        for _ in range(5):
            made.guest.transmit.refuse_calls()
            made.guest.send_all(numbered_frames(20))
            assert made.rings.send(near) == 20
            assert made.guest.finish_sent() >= 20
        assert made.link.calls(TRANSMIT) == 0
        made.guest.send(numbered(1))
        made.guest.transmit.ask_for_call()
        made.rings.send(near)
        assert made.link.calls(TRANSMIT) == 1


def test_a_ring_that_starts_notifies_even_if_nobody_asks(
    near: RawSocket,
) -> None:
    """With EVENT_IDX, the guest may have asked a back end that has ended, and
    only once."""
    with card() as made:
        for i in range(3):
            made.guest.transmit.refuse_calls()
            for expected in (1, 0):
                made.guest.send(numbered(i))
                assert made.rings.send(near) == 1
                assert made.link.calls(TRANSMIT) == expected
            base = made.link.stop_ring(TRANSMIT)
            made.link.start_ring(TRANSMIT, base)


def test_with_event_index_the_guest_names_the_entry_it_waits_for(
    near: RawSocket,
) -> None:
    with card(batch=1) as made:
        queue = made.guest.transmit
        made.guest.send(numbered(0))
        made.rings.send(near)
        made.link.calls(TRANSMIT)
        made.guest.finish_sent()
        made.guest.send_all(numbered_frames(10))
        queue.set_used_event(queue.next_used + 4)
        called = []
        for _ in range(10):
            assert made.rings.send(near) == 1
            called.append(made.link.calls(TRANSMIT))
        assert called == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_without_an_eventfd_the_guest_polls(
    near: RawSocket, far: RawSocket, guest: Card
) -> None:
    guest.rings.set_call(TRANSMIT, None)
    guest.guest.send(numbered(1))
    assert guest.rings.send(near) == 1
    assert guest.guest.finish_sent() == 1
    assert guest.link.calls(TRANSMIT) == 0


def test_a_refused_frame_notifies(near: RawSocket, guest: Card) -> None:
    refused_after(guest, near, 1)
    guest.guest.finish_sent()
    guest.guest.transmit.ask_for_call()
    guest.link.calls(TRANSMIT)
    guest.rings.refuse()
    assert guest.link.calls(TRANSMIT) == 1


def test_a_notification_never_waits(near: RawSocket, guest: Card) -> None:
    """The front end has filled the counter, and write(2) would wait."""
    full = os.eventfd(0)
    try:
        os.eventfd_write(full, 2**64 - 2)
        assert os.get_blocking(full)
        guest.rings.set_call(TRANSMIT, full)
        for i in range(200):
            guest.guest.send(numbered(i))
            guest.guest.transmit.ask_for_call()
            with Call(guest.rings.send, near) as call:
                assert call.result() == 1
            guest.guest.finish_sent()
        guest.rings.set_call(TRANSMIT, None)
    finally:
        os.close(full)


# Kicks


@pytest.mark.parametrize("features", [NEGOTIATED, WITHOUT_EVENTS])
def test_kicks_come_only_when_they_are_asked_for(
    near: RawSocket, features: Feature
) -> None:
    with card(features) as made:
        kicks = made.guest.kicks
        made.guest.send(numbered(1))
        assert made.rings.send(near) == 1
        before = kicks[TRANSMIT]
        for i in range(10):
            made.guest.send(numbered(i))
        assert kicks[TRANSMIT] == before
        assert made.rings.ask_for_kick(TRANSMIT)
        assert made.rings.send(near) == 10
        assert made.rings.send(near) == 0
        assert not made.rings.ask_for_kick(TRANSMIT)
        made.guest.send(numbered(1))
        assert kicks[TRANSMIT] == before + 1


def test_frames_that_a_batch_had_no_room_for_are_work_without_a_kick(
    near: RawSocket,
) -> None:
    with card(batch=4) as made:
        made.guest.send_all(numbered_frames(6))
        assert made.rings.send(near) == 4
        assert made.rings.ask_for_kick(TRANSMIT)
        assert made.rings.send(near) == 2
        assert not made.rings.ask_for_kick(TRANSMIT)


@pytest.mark.parametrize("features", [NEGOTIATED, WITHOUT_EVENTS])
def test_a_full_ring_asks_for_a_kick(
    near: RawSocket, end: RawSocket, features: Feature
) -> None:
    with card(features) as made:
        end.sendmmsg_all(numbered_frames(6))
        for i in range(3):
            eventually(
                lambda: made.receive(near) == 0 and made.rings.is_full,
                "the ring is never full",
            )
            before = made.guest.kicks[RECEIVE]
            made.guest.post([BUFFER] * 2)
            assert made.guest.kicks[RECEIVE] == before + 1
            made.until_queued(near, 2)
            got = [one.frame for one in made.guest.received(again=False)]
            assert got == [numbered(2 * i), numbered(2 * i + 1)]


def test_kicked_says_whether_there_is_anything_new(guest: Card) -> None:
    """A guest that kicks for nothing can be told from one that kicks for each
    buffer, even if its buffers were found before the kick."""
    guest.rings.kicked(RECEIVE)
    assert not guest.rings.kicked(RECEIVE)
    guest.guest.notify = lambda index: None
    guest.guest.post([BUFFER])
    assert guest.rings.kicked(RECEIVE)
    assert not guest.rings.kicked(RECEIVE)
    guest.guest.send(numbered(1))
    guest.rings.recvmmsg_into(PacketBatch(1, 69_632))
    assert guest.rings.kicked(TRANSMIT)
    assert not guest.rings.kicked(TRANSMIT)


def test_kicks_of_a_stopped_ring_are_for_nothing(guest: Card) -> None:
    for index in RINGS:
        guest.link.stop_ring(index)
        assert not guest.rings.kicked(index)
        assert not guest.rings.ask_for_kick(index)


# Threads and processes


def test_a_process_that_was_forked_may_use_the_rings(
    near: RawSocket, far: RawSocket, end: RawSocket, guest: Card
) -> None:
    """As a daemon does. Notifications work there, too."""

    def work() -> None:
        guest.guest.transmit.ask_for_call()
        assert guest.rings.send(near) == 20
        guest.guest.receive.ask_for_call()
        end.sendmmsg([numbered(1)])
        guest.until_queued(near, 1)

    guest.guest.send_all(numbered_frames(20))
    in_child(work)
    assert guest.link.calls(TRANSMIT) == guest.link.calls(RECEIVE) == 1
    assert guest.guest.finish_sent() == 20
    (got,) = guest.guest.received()
    assert got.frame == numbered(1)
    assert receive(far, 20) == numbered_frames(20)


def test_a_process_that_was_forked_may_make_rings(near: RawSocket) -> None:
    """The kernel does not know the contexts of the parent there, neither those
    of rings that the parent has deleted, nor those of rings that the child
    deletes."""

    def notify() -> None:
        called = os.eventfd(0)
        with card() as made:
            made.guest.transmit.ask_for_call()
            made.guest.send(numbered(1))
            made.rings.set_call(TRANSMIT, called)
            assert made.rings.send(near) == 1
            made.rings.set_call(TRANSMIT, None)
        assert os.eventfd_read(called) == 1
        assert os.get_blocking(called), "io_submit(2) was refused"
        os.close(called)

    rings = [_GuestRings(1), _GuestRings(1)]
    notify()

    def work() -> None:
        notify()
        rings.clear()
        for _ in range(3):
            notify()

    in_child(work)
    notify()


@pytest.mark.usefixtures("busy_threads")
def test_threads_that_use_the_rings_at_the_same_time_lose_nothing(
    near: RawSocket, far: RawSocket
) -> None:
    """A call fails while another one uses the rings. No frame is sent
    twice."""
    frames = numbered_frames(4000)
    with card(batch=8, size=4096) as made:
        for frame in frames:
            made.guest.send(frame, layout=[100], flush=False)
        made.guest.flush(TRANSMIT)

        def work() -> int:
            total = 0
            while made.guest.transmit.used_index < len(frames):
                try:
                    total += made.rings.send(near)
                except RuntimeError as error:
                    assert "another call" in str(error)
            return total

        calls = [Call(work) for _ in range(3)]
        assert sum(call.result() for call in calls) == len(frames)
        assert receive(far, len(frames)) == frames
