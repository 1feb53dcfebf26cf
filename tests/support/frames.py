"""Ethernet frames: how tests make, send, receive and recognise them."""

import errno
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth
from support import WAIT

BROADCAST: Final = b"\xff" * 6
SOURCE: Final = bytes.fromhex("020000000001")
"""A locally administered address that no interface has."""
LOCAL_EXPERIMENTAL: Final = 0x88B5
OTHER_EXPERIMENTAL: Final = 0x88B6
"""EtherTypes for experiments (IEEE 802), which no kernel answers."""

HEADER_SIZE: Final = 14
NUMBERED_SIZE: Final = HEADER_SIZE + 8 + 4
"""The minimum size of a numbered frame: header, number, checksum."""

# Byte k of frame i's filler is (i + k) % 256.
_FILLER: Final = bytes(range(256)) * 258


def frame(
    payload: bytes = b"",
    dst: bytes = BROADCAST,
    src: bytes = SOURCE,
    ethertype: int = LOCAL_EXPERIMENTAL,
) -> bytes:
    """An Ethernet frame without padding."""
    return dst + src + ethertype.to_bytes(2, "big") + payload


PACKET: Final = frame(bytes(46))
"""The shortest frame that Ethernet has, without its checksum."""


def numbered(
    number: int,
    size: int = 64,
    *,
    dst: bytes = BROADCAST,
    src: bytes = SOURCE,
    ethertype: int = LOCAL_EXPERIMENTAL,
) -> bytes:
    """A frame of `size` bytes that contains its number and a checksum of the
    whole frame. Every byte between the two differs from that of the next
    frame."""
    if not NUMBERED_SIZE <= size <= NUMBERED_SIZE + 65536:
        raise ValueError(f"a numbered frame cannot have {size} bytes")
    first = number % 256
    filler = _FILLER[first : first + size - NUMBERED_SIZE]
    body = frame(number.to_bytes(8, "big") + filler, dst, src, ethertype)
    return body + zlib.crc32(body).to_bytes(4, "big")


def number_of(packet: bytes | memoryview) -> int:
    """The number of a frame made by numbered(). Raises AssertionError if the
    frame was changed."""
    checksum = int.from_bytes(packet[-4:], "big")
    assert len(packet) >= NUMBERED_SIZE, f"{len(packet)} bytes arrived"
    assert zlib.crc32(packet[:-4]) == checksum, (
        f"the frame was changed: {bytes(packet).hex()}"
    )
    return int.from_bytes(packet[HEADER_SIZE : HEADER_SIZE + 8], "big")


@contextmanager
def flood(
    interface: str, frames: Iterable[bytes], cpu: int | None = None
) -> Iterator[None]:
    """Sends the frames in a thread, again and again, until the block ends. The
    thread runs on CPU `cpu` if one is given."""
    packets = list(frames)
    # As many as one call takes, because between calls the thread waits for the
    # GIL.
    packets *= max(1, 1024 // len(packets))
    sending, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def work(sender: RawSocket) -> None:
        try:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            while not stop.is_set():
                try:
                    sender.sendmmsg(packets)
                except OSError as error:
                    # The receiving end's backlog is full.
                    if error.errno != errno.ENOBUFS:
                        raise
                sending.set()
        except BaseException as error:
            failures.append(error)
            sending.set()

    with RawSocket(interface, protocol=0) as sender:
        thread = threading.Thread(target=work, args=(sender,))
        thread.start()
        try:
            assert sending.wait(WAIT), "the flood sends nothing"
            yield
        finally:
            stop.set()
            thread.join()
    assert not failures, f"the flood ended early: {failures[0]!r}"


def receive(sock: RawSocket, count: int) -> list[bytes]:
    """Waits for `count` packets and returns them."""
    sock.settimeout(WAIT)
    batch = PacketBatch()
    packets: list[bytes] = []
    while len(packets) < count:
        sock.recvmmsg_into(batch)
        packets += batch.tolist()
    return packets


def pending(sock: RawSocket) -> list[bytes]:
    """Returns all packets that are queued now."""
    sock.setblocking(False)
    batch = PacketBatch()
    packets: list[bytes] = []
    try:
        while True:
            sock.recvmmsg_into(batch)
            packets += batch.tolist()
    except BlockingIOError:
        return packets


def until_stamped(sender: RawSocket, sock: RawSocket, packet: bytes) -> None:
    """Sends packets until `sock` receives one with a timestamp. The kernel
    starts timestamping some time after the socket asked for it."""
    batch = PacketBatch()
    deadline = time.monotonic() + WAIT
    stamped = False
    while not stamped:
        assert time.monotonic() < deadline, "no packet has a timestamp"
        sender.send(packet)
        receive_batch(sock, batch)
        stamped = batch.timestamps_ns[len(batch) - 1] != 0
    pending(sock)


def receive_batch(
    sock: RawSocket, batch: PacketBatch, count: int | None = None
) -> None:
    """Waits for packets, exactly `count` of them if given."""
    sock.settimeout(WAIT)
    received = sock.recvmmsg_into(batch)
    assert count in (None, received), (
        f"{received} packets were received at once"
    )


def datagram_pair() -> tuple[socket.socket, RawSocket]:
    """An AF_UNIX socket pair, which needs no privilege: a standard socket that
    sends, and the RawSocket that receives."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return sender, RawSocket(fileno=receiver.detach())


def same_frames(got: Iterable[bytes], wanted: Iterable[bytes]) -> None:
    """Asserts that both hold the same frames in the same order."""
    got, wanted = list(got), list(wanted)
    assert [len(one) for one in got] == [len(one) for one in wanted]
    for i, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        assert ours == theirs, f"frame {i}: {ours.hex()}, not {theirs.hex()}"


def send(interface: str, *packets: bytes) -> None:
    """Sends the packets on a new socket."""
    with RawSocket(interface, protocol=0) as sender:
        sender.sendmmsg_all(packets)


def numbered_frames(count: int, size: int = 64) -> list[bytes]:
    """Frames number 0, 1 and so on."""
    return [numbered(i, size) for i in range(count)]


def batch_of(packets: Sequence[bytes]) -> PacketBatch:
    """A batch with room for these packets only."""
    return held(*packets, capacity=max(1, len(packets)))


# The forms in which sendmmsg() and sendmmsg_all() accept packets.
SHAPES: Final[dict[str, Callable[[Sequence[bytes]], Any]]] = {
    "batch": batch_of,
    "list": list,
    "tuple": tuple,
    "list of bytearrays": lambda packets: [*map(bytearray, packets)],
    "list of memoryviews": lambda packets: [memoryview(p) for p in packets],
    "list of gathers": lambda packets: [(p[:14], p[14:]) for p in packets],
    "list of both": lambda packets: [
        (p,) if i % 2 else p for i, p in enumerate(packets)
    ],
}


def held(
    *packets: bytes, capacity: int = 64, frame_size: int = 2048
) -> PacketBatch:
    """A batch that holds the packets."""
    batch = PacketBatch(capacity, frame_size)
    batch.extend(packets)
    return batch


def receive_unix(batch: PacketBatch, *packets: bytes) -> None:
    """Receives the packets into the batch."""
    sender, receiver = datagram_pair()
    with sender, receiver:
        receiver.settimeout(WAIT)
        for packet in packets:
            sender.send(packet)
        assert receiver.recvmmsg_into(batch) == len(packets)


def receive_all_columns(veth: Veth, batch: PacketBatch) -> RawSocket:
    """Receives one frame with all metadata; returns the closed socket."""
    with (
        RawSocket(veth.b, addresses=True, timestamps="software") as receiver,
        RawSocket(veth.a, protocol=0) as sender,
    ):
        until_stamped(sender, receiver, numbered(1))
        receiver.settimeout(WAIT)
        sender.send(numbered(1))
        receiver.recvmmsg_into(batch)
        return receiver
