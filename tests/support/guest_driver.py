"""A guest of the tests' own: the driver of a network card with two rings,
driven from Python as Linux drives it (drivers/net/virtio_net.c).

    with GuestMemory() as memory:
        guest = Guest(memory, NEGOTIATED)
        link = RingsLink(rings, guest)      support.guest_links
        guest.post([1536] * 256)
        guest.send(frame)
        guest.received()

The device sees nothing before flush(), which these calls make unless they get
flush=False. A link passes kicks on to the device.
"""

import random
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Final

from rawmmsg.vhost import Feature
from support.guest_memory import GuestMemory
from support.guest_queue import DriverQueue, Part

RECEIVE: Final = 0
TRANSMIT: Final = 1
RINGS: Final = (RECEIVE, TRANSMIT)

# What Linux negotiates of what a back end can offer.
OFFLOADS: Final = (
    Feature.CSUM
    | Feature.GUEST_CSUM
    | Feature.GUEST_TSO4
    | Feature.GUEST_TSO6
    | Feature.GUEST_ECN
    | Feature.HOST_TSO4
    | Feature.HOST_TSO6
    | Feature.HOST_ECN
    | Feature.GUEST_USO4
    | Feature.GUEST_USO6
    | Feature.HOST_USO
)
RINGS_OF_LINUX: Final = Feature.INDIRECT_DESC | Feature.EVENT_IDX
NEGOTIATED: Final = (
    OFFLOADS | RINGS_OF_LINUX | Feature.MRG_RXBUF | Feature.VERSION_1
)
NOTHING: Final = Feature(0)

_HEADER: Final = struct.Struct("<BBHHHHH")
_SHORT: Final = 10


@dataclass(frozen=True)
class OffloadHeader:
    """struct virtio_net_hdr_v1."""

    flags: int = 0
    gso_type: int = 0
    header_length: int = 0
    gso_size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0
    buffer_count: int = 0

    def pack(self, size: int) -> bytes:
        return _HEADER.pack(*astuple(self))[:size]

    @classmethod
    def unpack(cls, data: bytes) -> "OffloadHeader":
        """Of 10 or 12 bytes."""
        return cls(*_HEADER.unpack(data.ljust(_HEADER.size, b"\0")))


@dataclass(frozen=True)
class Received:
    """A frame that the guest was given. `buffers`: how many bytes of each
    buffer it needed, with the header."""

    header: OffloadHeader
    frame: bytes
    buffers: tuple[int, ...]


@dataclass(frozen=True)
class _Sent:
    parts: list[Part]
    content: bytes


@dataclass(frozen=True)
class _Posted:
    parts: list[Part]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(part.length for part in self.parts)


@dataclass
class Guest:
    """`size`: of each ring. `base`: where both begin. `order`: makes the order
    of descriptors random."""

    memory: GuestMemory
    features: Feature = NEGOTIATED
    size: int = 256
    base: int = 0
    order: random.Random | None = None
    notify: Callable[[int], None] = field(default=lambda index: None)
    kicks: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        self.queues = [
            DriverQueue(
                self.memory,
                self.size,
                event_index=Feature.EVENT_IDX in self.features,
                base=self.base,
                order=self.order,
            )
            for _ in RINGS
        ]

    @property
    def receive(self) -> DriverQueue:
        return self.queues[RECEIVE]

    @property
    def transmit(self) -> DriverQueue:
        return self.queues[TRANSMIT]

    @property
    def header_size(self) -> int:
        long = Feature.VERSION_1 | Feature.MRG_RXBUF
        return _HEADER.size if self.features & long else _SHORT

    def flush(self, index: int) -> bool:
        """Shows the device what was added to a ring, and kicks it if it wants
        that. Returns whether."""
        queue = self.queues[index]
        queue.publish()
        if not queue.wants_kick():
            return False
        self.kicks[index] += 1
        self.notify(index)
        return True

    # Sending

    def send(
        self,
        frame: bytes,
        header: OffloadHeader | None = None,
        *,
        layout: Sequence[int] = (),
        indirect: bool = False,
        flush: bool = True,
    ) -> int:
        """Sends a frame. `layout`: how many bytes each descriptor has, the
        header included; the last one has the rest. Without it, the header has
        a descriptor of its own. Returns the head of the chain."""
        packed = (header or OffloadHeader()).pack(self.header_size)
        parts = self.write_parts(packed + frame, layout or [len(packed)])
        head = self.transmit.add(
            parts, _Sent(parts, packed + frame), indirect=indirect
        )
        if flush:
            self.flush(TRANSMIT)
        return head

    def send_all(self, frames: Iterable[bytes]) -> None:
        """Sends frames, and kicks once."""
        for frame in frames:
            self.send(frame, flush=False)
        self.flush(TRANSMIT)

    def write_parts(self, content: bytes, layout: Sequence[int]) -> list[Part]:
        """Blocks that contain the bytes."""
        parts, at = [], 0
        for size in [*layout, len(content)]:
            size = min(size, len(content) - at)
            if size:
                part = Part(self.memory.allocate(size), size)
                self.memory.write(part.address, content[at : at + size])
                parts.append(part)
                at += size
        return parts

    def finish_sent(self, *, unchanged: bool = True) -> int:
        """Frees what the device has sent. Returns how many frames that were.
        `unchanged`: asserts that the device has only read them."""
        count = 0
        for sent, length in self.transmit.take_used():
            assert length == 0, f"the device has written {length} bytes"
            if unchanged:
                content = b"".join(
                    self.memory.read(*part) for part in sent.parts
                )
                assert content == sent.content, "a sent frame was changed"
            self._free(sent.parts)
            count += 1
        return count

    # Receiving

    def post(
        self,
        buffers: Iterable[int | Sequence[int]],
        *,
        indirect: bool = False,
        flush: bool = True,
    ) -> None:
        """Makes receive buffers available: of so many bytes, or of several
        parts."""
        for sizes in buffers:
            if isinstance(sizes, int):
                sizes = (sizes,)
            parts = [Part(self.memory.allocate(n), n) for n in sizes]
            self._post(parts, indirect)
        if flush:
            self.flush(RECEIVE)

    def _post(self, parts: list[Part], indirect: bool = False) -> None:
        self.receive.add(
            parts, _Posted(parts), writable=True, indirect=indirect
        )

    def received(
        self, *, limit: int | None = None, again: bool = True
    ) -> list[Received]:
        """Takes the frames that the device has given, at most `limit`.
        `again`: makes their buffers available again."""
        frames: list[Received] = []
        while limit is None or len(frames) < limit:
            used = self._take_frame()
            if not used:
                break
            frames.append(self._read_frame(used))
            for posted, _ in used:
                if again:
                    self._post(posted.parts)
                else:
                    self._free(posted.parts)
        if again and frames:
            self.flush(RECEIVE)
        return frames

    def _take_frame(self) -> list[tuple[_Posted, int]]:
        """The buffers of one frame, and how many bytes of each."""
        first = self.receive.take_one()
        if first is None:
            return []
        count = 1
        posted, length = first
        assert length >= self.header_size, f"a frame of {length} bytes"
        if self.header_size == _HEADER.size:
            header = OffloadHeader.unpack(self._read(posted, _HEADER.size))
            count = header.buffer_count
        mergeable = Feature.MRG_RXBUF in self.features
        assert count == 1 or (mergeable and count > 1), (
            f"the header says that the frame is in {count} buffers"
        )
        used = [first]
        while len(used) < count:
            following = self.receive.take_one()
            assert following is not None, (
                f"{len(used)} of the {count} buffers of a frame are used"
            )
            used.append(following)
        return used

    def _read_frame(self, used: list[tuple[_Posted, int]]) -> Received:
        data = b"".join(self._read(posted, n) for posted, n in used)
        size = self.header_size
        return Received(
            OffloadHeader.unpack(data[:size]),
            data[size:],
            tuple(length for _, length in used),
        )

    def _read(self, posted: _Posted, length: int) -> bytes:
        assert length <= sum(posted.sizes), (
            f"the device says it has written {length} bytes to a buffer of"
            f" {sum(posted.sizes)}"
        )
        data = b""
        for part in posted.parts:
            here = min(part.length, length - len(data))
            data += self.memory.read(part.address, here)
        return data

    def _free(self, parts: Iterable[Part]) -> None:
        for part in parts:
            self.memory.free(part.address)

    def take_back(self, index: int) -> int:
        """Takes everything back from a device that has stopped; the guest
        begins anew. Returns how many chains the device had."""
        queue = self.queues[index]
        tokens = queue.forget()
        for token in tokens:
            self._free(token.parts)
        return len(tokens)
