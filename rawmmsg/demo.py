"""`rawmmsg demo`: sends, filters and receives, and compares with `socket`."""

import socket
import struct
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

from ._rawmmsg import PacketBatch, RawSocket
from .testing import Veth, enter_namespace, veth_pair

FRAME_SIZE = 64
BATCH = 64
FRAMES = 16 * 1024
SLICES = 8
SLICE_SECONDS = 0.25
# A frame that has not arrived after this time is lost. A veth pair takes some
# microseconds.
LOSS_SECONDS = 0.5

_HEADER = struct.Struct("!6s6sHI")

# Accepts frames with an even number, whose last byte is at offset 17: the
# output of `tcpdump -ddd 'ether[17] & 1 = 0'` (code, jt, jf, k).
_KEEP_EVEN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 17),  # ldb [17]
        (0x45, 1, 0, 1),  # jset #1
        (0x06, 0, 0, 262144),  # ret #262144
        (0x06, 0, 0, 0),  # ret #0
    )
)


def make_frame(number: int) -> bytes:
    """Returns a frame with its number and a checksum. The EtherType 0x88b5 is
    for experiments (IEEE 802)."""
    start = _HEADER.pack(b"\xff" * 6, b"\x02" * 6, 0x88B5, number)
    body = start + struct.pack("!I", zlib.crc32(start))
    return body.ljust(FRAME_SIZE, b"\0")


def is_kept(number: int) -> bool:
    """The same filter in Python."""
    return number % 2 == 0


class Side(ABC):
    """One method to send and receive the frames, and its counters."""

    name: str

    def __init__(self) -> None:
        self.sent = 0
        self.expected = 0
        self.received = 0
        self.wrong = 0
        self.calls = 0
        self.receipts = 0  # receiving calls that returned a frame
        self.seconds = 0.0

    @abstractmethod
    def open(self, veth: Veth) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def send(self, frames: Sequence[bytes]) -> None:
        """Sends all frames, and counts the system calls."""

    @abstractmethod
    def receive(self) -> int:
        """Makes one receiving call. Returns the number of frames received."""

    @abstractmethod
    def take(self) -> list[bytes]:
        """Returns copies of the frames received since the last take()."""

    def exchange(self, frames: Sequence[bytes], kept: list[bytes]) -> None:
        """Sends `frames` and receives those that the filter accepts, `kept`.
        The time that checking takes is not measured."""
        start = time.perf_counter()
        deadline = start + LOSS_SECONDS
        self.send(frames)
        got = 0
        while got < len(kept):
            count = self.receive()
            self.calls += 1
            self.receipts += count > 0
            got += count
            if count == 0 and time.perf_counter() > deadline:
                break
        self.seconds += time.perf_counter() - start
        self.sent += len(frames)
        self.expected += len(kept)
        self.received += got
        # The frames must come in order: the search for each one begins behind
        # the one before.
        rest = iter(kept)
        self.wrong += sum(frame not in rest for frame in self.take())


class Batched(Side):
    """rawmmsg: one call for a batch, into memory that is used again."""

    name = "rawmmsg"

    def open(self, veth: Veth) -> None:
        self.sender = RawSocket(veth.a, protocol=0)
        self.receiver = RawSocket(veth.b, filter=_KEEP_EVEN)
        self.receiver.setblocking(False)
        self.batches: list[PacketBatch] = []
        self.filled = 0

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()

    def send(self, frames: Sequence[bytes]) -> None:
        start = 0
        while start < len(frames):
            start += self.sender.sendmmsg(frames, start)
            self.calls += 1

    def receive(self) -> int:
        if self.filled == len(self.batches):
            self.batches.append(PacketBatch(BATCH))
        try:
            count = self.receiver.recvmmsg_into(self.batches[self.filled])
        except BlockingIOError:
            return 0
        self.filled += 1
        return count

    def take(self) -> list[bytes]:
        filled = self.batches[: self.filled]
        self.filled = 0
        return [frame for batch in filled for frame in batch.tolist()]


class Single(Side):
    """The socket module: one call for each packet."""

    name = "socket"

    def open(self, veth: Veth) -> None:
        self.sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.sender.bind((veth.a, 0))
        # The socket module cannot attach a filter.
        receiver = RawSocket(veth.b, filter=_KEEP_EVEN, vlan=False)
        self.receiver = socket.socket(fileno=receiver.detach())
        self.receiver.setblocking(False)
        self.memory = memoryview(bytearray(BATCH * 2048))
        self.lengths: list[int] = []

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()

    def send(self, frames: Sequence[bytes]) -> None:
        send = self.sender.send
        for frame in frames:
            send(frame)
        self.calls += len(frames)

    def receive(self) -> int:
        start = len(self.lengths) * 2048
        try:
            length = self.receiver.recv_into(self.memory[start : start + 2048])
        except BlockingIOError:
            return 0
        self.lengths.append(length)
        return 1

    def take(self) -> list[bytes]:
        taken = [
            bytes(self.memory[i * 2048 : i * 2048 + length])
            for i, length in enumerate(self.lengths)
        ]
        self.lengths.clear()
        return taken


def run_demo() -> int:
    """Prints the comparison. Returns 0 if every frame arrived unchanged."""
    enter_namespace()
    chunks = []
    for first in range(0, FRAMES, BATCH):
        numbers = range(first, first + BATCH)
        frames = [make_frame(number) for number in numbers]
        kept = [f for f, n in zip(frames, numbers, strict=True) if is_kept(n)]
        chunks.append((frames, kept))
    sides: list[Side] = [Batched(), Single()]
    with veth_pair() as veth:
        for _ in range(SLICES):
            for side in sides:
                run_slice(side, veth, chunks)
    report(sides)
    good = all(s.received == s.expected and not s.wrong for s in sides)
    print("Every frame was checked." if good else "FRAMES WERE LOST OR WRONG.")
    return 0 if good else 1


def run_slice(
    side: Side,
    veth: Veth,
    chunks: Sequence[tuple[list[bytes], list[bytes]]],
) -> None:
    """Lets one side work alone, because the kernel copies each frame for every
    open socket."""
    side.open(veth)
    end = time.perf_counter() + SLICE_SECONDS
    try:
        while time.perf_counter() < end:
            for frames, kept in chunks[:16]:
                side.exchange(frames, kept)
            chunks = [*chunks[16:], *chunks[:16]]
    finally:
        side.close()


def report(sides: Sequence[Side]) -> None:
    print(
        f"{FRAME_SIZE}-byte frames through a veth pair, {BATCH} at a time."
        " A filter in the kernel accepts every second frame."
    )
    rows = [
        ("frames sent", [f"{s.sent:,}" for s in sides]),
        ("accepted by the filter", [f"{s.expected:,}" for s in sides]),
        ("received", [f"{s.received:,}" for s in sides]),
        ("lost", [f"{s.expected - s.received:,}" for s in sides]),
        ("wrong", [f"{s.wrong:,}" for s in sides]),
        (
            "frames per receiving call",
            [f"{s.received / max(s.receipts, 1):.1f}" for s in sides],
        ),
        (
            "system calls per frame sent",
            [f"{s.calls / s.sent:.3f}" for s in sides],
        ),
        (
            "frames sent per second",
            [f"{s.sent / s.seconds:,.0f}" for s in sides],
        ),
    ]
    print(f"{'':34}" + "".join(f"{s.name:>14}" for s in sides))
    for label, values in rows:
        print(f"{label:34}" + "".join(f"{v:>14}" for v in values))
    first, second = (s.sent / s.seconds for s in sides)
    print(
        f"{sides[0].name} sends {first / second:.2f} times as many frames per"
        f" second as {sides[1].name}."
    )
