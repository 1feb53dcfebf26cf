"""Random traffic in both directions: every frame arrives once, in order and
unchanged, whatever its buffers."""

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import pytest
from support.calls import eventually
from support.datagrams import KINDS, Datagram, data
from support.frames import numbered
from support.guest_cards import (
    NEGOTIATIONS,
    Card,
    Received,
    arrived,
    card,
    header_of,
    offload_header,
    same_offload,
    write_header_of,
)
from support.guest_driver import RECEIVE, TRANSMIT, OffloadHeader
from support.guest_memory import split_regions

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.vhost import Feature

STEPS: Final = 500
TRAFFIC: Final = NEGOTIATIONS | {
    "received frames without offloads": Feature.MRG_RXBUF
    | Feature.VERSION_1
    | Feature.INDIRECT_DESC
    | Feature.CSUM
    | Feature.HOST_TSO4,
    "two indexes": Feature.MRG_RXBUF | Feature.EVENT_IDX | Feature.VERSION_1,
}
ALL_KINDS: Final = Feature.HOST_TSO4 | Feature.HOST_TSO6 | Feature.HOST_USO
UNKNOWN: Final = OffloadHeader(gso_type=0x77)


# What the receive buffer of a socket holds, even without privilege.
ROOM: Final = 150_000


class Frame(NamedTuple):
    content: bytes
    header: OffloadHeader = OffloadHeader()
    segments: tuple[bytes, ...] = ()


def is_crowded(frames: Iterable[Frame]) -> bool:
    """Whether no other frame should be sent. The kernel counts more memory for
    a frame than it has bytes."""
    return sum(2 * len(one.content) + 2048 for one in frames) > ROOM


def super_frame(rng: random.Random, number: int, kind: str) -> Frame:
    one = KINDS[kind]
    datagram = Datagram(
        numbered(number, 26) + data(rng.randrange(9000, 60_000)),
        protocol=one.protocol,
        version=one.version,
    )
    gso_size = rng.choice((1000, 1448, 8000))
    return Frame(
        datagram.build(whole=False),
        offload_header(datagram, gso_size),
        tuple(datagram.segments(gso_size)),
    )


class Exchange:
    """What is under way between a guest, its rings, and the packet sockets on
    both ends of a link."""

    def __init__(
        self, made: Card, near: RawSocket, end: RawSocket, rng: random.Random
    ) -> None:
        self.made, self.near, self.end, self.rng = made, near, end, rng
        self.guest, self.rings = made.guest, made.rings
        self.number = self.malformed = self.no_room = 0
        # Frames that the guest has sent, that are on the link to it, and that
        # the rings have taken for it, in the form in which it gets them.
        self.sent: deque[Frame] = deque()
        self.on_link: deque[Frame] = deque()
        self.taken: deque[Frame] = deque()
        # The bytes of each receive buffer.
        self.posted: deque[int] = deque()

    def step(self) -> None:
        (step,) = self.rng.choices(
            (
                *(self.send_from_guest, self.send, self.send_by_batch),
                *(self.send_to_guest, self.receive, self.give_batch),
                *(self.post, self.take, self.share),
                *(self.restart_transmit, self.restart_receive),
            ),
            (9, 9, 3, 9, 9, 3, 9, 9, 1, 1, 1),
        )
        step()

    def frame(self, kinds: Feature) -> Frame:
        """A numbered frame, or a super-frame of one of the kinds."""
        self.number += 1
        possible = [
            kind
            for kind, feature in (
                ("tcp4", Feature.HOST_TSO4),
                ("tcp6", Feature.HOST_TSO6),
                ("udp4", Feature.HOST_USO),
            )
            if feature in kinds
        ]
        if possible and self.rng.random() < 0.3:
            kind = self.rng.choice(possible)
            return super_frame(self.rng, self.number, kind)
        size = self.rng.choice((60, 1514, 9014, self.rng.randrange(26, 9000)))
        return Frame(numbered(self.number, size))

    # From the guest

    def send_from_guest(self) -> None:
        for _ in range(self.rng.randrange(1, 20)):
            frame = self.frame(self.guest.features)
            if self.guest.transmit.room < 14 or is_crowded(self.sent):
                break
            if self.rng.random() < 0.05:
                self.malformed += 1
                frame = frame._replace(header=UNKNOWN)
            else:
                self.sent.append(frame)
            self.guest.send(
                frame.content,
                frame.header,
                layout=self.layout(),
                indirect=self.may_be_indirect(),
                flush=False,
            )
        self.guest.flush(TRANSMIT)

    def layout(self) -> list[int]:
        header = self.guest.header_size
        kind = self.rng.randrange(4)
        if kind < 2:
            return [(header, SUPER_FRAME + header)[kind]]
        return [
            self.rng.choice((1, 2, header, 100, 1500))
            for _ in range(self.rng.randrange(1, 12))
        ]

    def may_be_indirect(self) -> bool:
        return (
            Feature.INDIRECT_DESC in self.guest.features
            and self.rng.random() < 0.5
        )

    def send(self) -> None:
        for header, content in arrived(self.end, self.rings.send(self.near)):
            self.check_sent(content, header)
        self.guest.finish_sent()

    def send_by_batch(self) -> None:
        batch = PacketBatch(self.rng.randrange(1, 9), SUPER_FRAME)
        try:
            count = self.rings.recvmmsg_into(batch)
        except BlockingIOError:
            return
        for i in range(count):
            self.check_sent(bytes(batch[i]), header_of(batch, i))
        self.guest.finish_sent()

    def check_sent(self, content: bytes, header: OffloadHeader) -> None:
        wanted = self.sent.popleft()
        assert content == wanted.content
        assert same_offload(header, wanted.header)

    # To the guest

    def batch(self) -> tuple[PacketBatch, list[Frame]]:
        frames: list[Frame] = []
        batch = PacketBatch(20, SUPER_FRAME)
        for i in range(self.rng.randrange(20)):
            if is_crowded([*self.on_link, *frames]):
                break
            frames.append(self.frame(ALL_KINDS))
            batch.append(frames[i].content)
            write_header_of(batch, i, frames[i].header)
        return batch, frames

    def send_to_guest(self) -> None:
        batch, frames = self.batch()
        self.end.sendmmsg_all(batch)
        self.on_link += frames

    def receive(self) -> None:
        for _ in range(self.made.receive(self.near)):
            self.add_taken(self.on_link.popleft())

    def give_batch(self) -> None:
        batch, frames = self.batch()
        try:
            count = self.rings.sendmmsg(batch)
        except BlockingIOError:
            return
        for frame in frames[:count]:
            self.add_taken(frame)

    def add_taken(self, frame: Frame) -> None:
        """A guest that has negotiated no offloads gets segments."""
        if Feature.GUEST_TSO4 in self.guest.features or not frame.segments:
            self.taken.append(frame)
        else:
            self.taken += map(Frame, frame.segments)

    def post(self) -> None:
        queue = self.guest.receive
        for _ in range(min(queue.room, self.rng.randrange(1, 100))):
            size = self.buffer_size()
            cut = self.rng.randrange(1, size)
            if self.may_be_indirect():
                parts = [cut, size - cut]
                self.guest.post([parts], indirect=True, flush=False)
            else:
                self.guest.post([size], flush=False)
            self.posted.append(size)
        self.guest.flush(RECEIVE)

    def buffer_size(self) -> int:
        """All buffers of the ring together hold the longest frame. Without
        mergeable buffers, some of them are too small."""
        if Feature.MRG_RXBUF in self.guest.features:
            return self.rng.choice((300, 1536, 4096, 9100))
        if Feature.GUEST_TSO4 in self.guest.features:
            return self.rng.choice((1536, 65_562, 65_562, 65_562))
        return self.rng.choice((600, 1536, 9100, 9100))

    def take(self) -> None:
        limit = self.rng.choice((None, 1, 10))
        for got in self.guest.received(limit=limit, again=False):
            self.skip_what_has_no_room()
            self.check_received(got)

    def check_received(self, got: Received) -> None:
        wanted = self.taken.popleft()
        assert got.frame == wanted.content
        assert same_offload(got.header, wanted.header)
        *full, last = got.buffers
        assert full == [self.posted.popleft() for _ in full], (
            "a buffer was not filled before the next one was used"
        )
        assert last <= self.posted.popleft()

    def skip_what_has_no_room(self) -> None:
        """Forgets frames that do not fit into the next buffer."""
        if Feature.MRG_RXBUF in self.guest.features:
            return
        while (
            self.taken
            and self.posted
            and (
                self.guest.header_size + len(self.taken[0].content)
                > self.posted[0]
            )
        ):
            self.taken.popleft()
            self.no_room += 1

    # The rings

    def share(self) -> None:
        regions = self.guest.memory.regions
        split = split_regions(regions, self.rng.choice((0x28000, 0x51000)))
        self.made.link.share(self.rng.choice((split, regions)))

    def restart_transmit(self) -> None:
        base = self.made.link.stop_ring(TRANSMIT)
        assert base == self.guest.transmit.used_index
        self.made.link.start_ring(TRANSMIT, base)

    def restart_receive(self) -> None:
        """Frames that are held would be missed."""
        if not self.rings.is_full:
            base = self.made.link.stop_ring(RECEIVE)
            assert base == self.guest.receive.used_index
            self.made.link.start_ring(RECEIVE, base)

    # The end

    def finish(self) -> None:
        """Everything that is under way arrives."""

        def is_done() -> bool:
            self.send()
            self.receive()
            self.post()
            self.take()
            self.skip_what_has_no_room()
            return not (
                self.sent
                or self.on_link
                or self.taken
                or self.guest.transmit.in_flight
            )

        eventually(is_done, "frames are lost")
        assert self.guest.received() == [], "a frame arrived twice"
        counts = self.rings.statistics()
        assert counts["malformed"] == self.malformed
        assert counts["no_room"] == self.no_room
        assert counts["bad"] == counts["missed"] == 0


@pytest.mark.parametrize("traffic", TRAFFIC)
@pytest.mark.parametrize("seed", range(2))
def test_random_frames_arrive_in_order_and_unchanged(
    jumbo: tuple[RawSocket, RawSocket],
    scaled: Callable[[int], int],
    traffic: str,
    seed: int,
) -> None:
    rng = random.Random(f"{traffic} {seed}")
    base = rng.randrange(65_536)
    batch = rng.choice((1, 16, 64, 1024))
    with card(TRAFFIC[traffic], batch=batch, base=base, order=rng) as made:
        exchange = Exchange(made, *jumbo, rng)
        for _ in range(scaled(STEPS)):
            exchange.step()
        exchange.finish()
        assert exchange.number > STEPS
