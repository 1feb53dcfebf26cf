"""A guest and its back end in two processes, which sleep whenever they have
nothing to do: no notification is lost in either direction."""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest
from support import WAIT
from support.child import Child
from support.frames import numbered
from support.guest_cards import Card, card
from support.guest_driver import (
    NEGOTIATED,
    NOTHING,
    RECEIVE,
    RINGS,
    TRANSMIT,
    Guest,
)

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.vhost import Feature

FRAMES: Final = 3000


def frame(number: int) -> bytes:
    return numbered(number, 60 + number * 7 % 1400)


def run_guest(guest: Guest, calls: list[int], count: int) -> None:
    """Sends numbered frames, of which each comes back, some at a time. Sleeps
    until it is notified."""
    sent = received = 0
    while received < count:
        guest.finish_sent()
        for got in guest.received():
            assert got.frame == frame(received)
            received += 1
        while sent < min(count, received + guest.size) and guest.transmit.room:
            guest.send(frame(sent), layout=[SUPER_FRAME])
            sent += 1
        found = [queue.ask_for_call() for queue in guest.queues]
        if any(found) or received == count:
            continue
        ready = select.select(calls, [], [], WAIT)[0]
        assert ready, f"no notification after {received} frames"
        for call in ready:
            os.eventfd_read(call)


class BackEnd:
    """Forwards between the rings and a link whose far end returns every frame.
    Sleeps until a kick, or until a socket is readable."""

    def __init__(
        self, made: Card, near: RawSocket, end: RawSocket, kicks: list[int]
    ) -> None:
        self.made, self.near, self.end, self.kicks = made, near, end, kicks
        self.batch = PacketBatch(64, SUPER_FRAME)
        end.setblocking(False)

    def run(self, ended: int) -> None:
        """Until this descriptor is readable."""
        while not select.select([ended], [], [], 0)[0]:
            self.return_frames()
            self.made.receive(self.near)
            self.made.rings.send(self.near)
            if not self.has_work():
                self.sleep(ended)

    def return_frames(self) -> None:
        try:
            self.end.recvmmsg_into(self.batch)
        except BlockingIOError:
            return
        self.end.sendmmsg_all(self.batch)

    def has_work(self) -> bool:
        rings = self.made.rings
        found = rings.ask_for_kick(TRANSMIT)
        return (rings.is_full and rings.ask_for_kick(RECEIVE)) or found

    def sleep(self, ended: int) -> None:
        """If the ring is full, the socket must wait."""
        readable = [ended, *self.kicks, self.end.fileno()]
        if not self.made.rings.is_full:
            readable.append(self.near.fileno())
        ready = select.select(readable, [], [], WAIT)[0]
        assert ready, "the guest has not kicked"
        for index in RINGS:
            if self.kicks[index] in ready:
                os.eventfd_read(self.kicks[index])
                self.made.rings.kicked(index)


@contextmanager
def eventfds(count: int) -> Iterator[list[int]]:
    with ExitStack() as opened:
        made = []
        for _ in range(count):
            descriptor = os.eventfd(0, os.EFD_NONBLOCK)
            opened.callback(os.close, descriptor)
            made.append(descriptor)
        yield made


@pytest.mark.parametrize("size", [1, 4, 32])
@pytest.mark.parametrize(
    "features",
    [NEGOTIATED, NEGOTIATED & ~Feature.EVENT_IDX, NOTHING],
    ids=["event index", "flags", "nothing"],
)
def test_no_notification_is_lost(
    near: RawSocket,
    end: RawSocket,
    scaled: Callable[[int], int],
    features: Feature,
    size: int,
) -> None:
    """Small rings are full and empty all the time."""
    count = scaled(FRAMES * size // (size + 8))
    with card(features, size=size) as made, eventfds(2) as kicks:
        calls = [made.link.call_descriptor(index) for index in RINGS]
        made.guest.post([1600] * size)
        made.guest.notify = lambda index: os.eventfd_write(kicks[index], 1)
        ended, running = os.pipe()
        try:
            child = Child(lambda: run_guest(made.guest, calls, count))
            os.close(running)
            BackEnd(made, near, end, kicks).run(ended)
            child.join()
        finally:
            os.close(ended)
        assert made.count("received") == made.count("sent") == count
        assert made.count("missed") == made.count("no_room") == 0
