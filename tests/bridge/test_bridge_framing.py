"""Frames in a stream of bytes, at random: cut anywhere, and through a socket
that is often full."""

import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from support.frames import numbered

from rawmmsg import SUPER_FRAME, PacketBatch
from rawmmsg.bridge.drops import Mark, mark
from rawmmsg.bridge.ports.framing import (
    FrameReader,
    FrameWriter,
    WrongLengthError,
)

pytestmark = pytest.mark.no_network

_ROUNDS: Final = 50


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection. Neither waits."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


def some_frames(choose: random.Random, count: int) -> list[bytes]:
    """Most are short, as on a network."""
    sizes = [26, 60, 1514, 1514, 9014, SUPER_FRAME - 4096]
    return [numbered(i, choose.choice(sizes)) for i in range(count)]


def framed(frames: list[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(one)) + one for one in frames)


def test_reader_finds_the_frames_however_they_are_cut(
    scaled: Callable[[int], int],
) -> None:
    for seed in range(scaled(_ROUNDS)):
        choose = random.Random(seed)
        frames = some_frames(choose, choose.randrange(1, 80))
        stream = framed(frames)
        batch = PacketBatch(choose.choice([1, 3, 64]), SUPER_FRAME)
        reader = FrameReader(None)
        found: list[bytes] = []
        with pair() as (ours, theirs):
            while stream:
                size = theirs.send(stream[: choose.choice([1, 3, 700, 99999])])
                stream = stream[size:]
                assert reader.receive(ours)
                reader.take(batch)
                found += batch.tolist()
                while reader.has_more:
                    assert reader.take(batch) > 0
                    found += batch.tolist()
        assert found == frames, f"seed {seed}"


def test_reader_stops_at_a_wrong_length(
    scaled: Callable[[int], int],
) -> None:
    """Behind the frames before it, for good."""
    for seed in range(scaled(_ROUNDS)):
        choose = random.Random(seed)
        frames = [numbered(i) for i in range(choose.randrange(10))]
        wrong = choose.choice([0, 13, SUPER_FRAME + 1, 1 << 31])
        batch = PacketBatch(choose.choice([1, 3, 64]), SUPER_FRAME)
        reader = FrameReader(None)
        found: list[bytes] = []
        with pair() as (ours, theirs):
            theirs.send(framed(frames) + struct.pack(">I", wrong) + b"rest")
            assert reader.receive(ours)
            while len(found) < len(frames):
                assert reader.take(batch) > 0
                found += batch.tolist()
                assert reader.has_more
            for _ in range(2):
                with pytest.raises(WrongLengthError, match=f"^{wrong}$"):
                    reader.take(batch)
        assert found == frames, f"seed {seed}"


def test_writer_sends_only_whole_frames(
    scaled: Callable[[int], int],
) -> None:
    """Each that it says it has sent, in order, whatever the room."""
    for seed in range(scaled(_ROUNDS)):
        choose = random.Random(seed)
        frames = some_frames(choose, choose.randrange(1, 80))
        batch = PacketBatch(len(frames), SUPER_FRAME)
        batch.extend(frames)
        writer = FrameWriter()
        stream = bytearray()
        wanted: list[bytes] = []
        start = 0
        with pair() as (ours, theirs):
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            while start < len(frames):
                try:
                    count = writer.send(ours, batch, start)
                except BlockingIOError:
                    start += choose.randrange(3)  # frames that are dropped
                    stream += theirs.recv(choose.choice([1, 700, 99999]))
                    continue
                assert count > 0
                wanted += frames[start : start + count]
                start += count
            while writer.is_unfinished and not writer.finish(ours):
                stream += theirs.recv(99999)
            ours.shutdown(socket.SHUT_WR)
            while more := theirs.recv(99999):
                stream += more
        assert bytes(stream) == framed(wanted), f"seed {seed}"


def test_writer_sends_many_frames_with_one_system_call() -> None:
    """As many as sendmsg(2) takes, which is 1,024 parts."""
    frames = [numbered(i) for i in range(600)]
    batch = PacketBatch(600)
    batch.extend(frames)
    writer = FrameWriter()
    with pair() as (ours, theirs):
        assert writer.send(ours, batch, 0) == 512
        assert writer.send(ours, batch, 512) == 88
        assert theirs.recv(99999) == framed(frames)


def test_writer_stops_at_a_frame_that_is_marked() -> None:
    frames = [numbered(i) for i in range(5)]
    batch = PacketBatch(5)
    batch.extend(frames)
    mark(batch, [(0, Mark.DROPPED), (3, Mark.TOO_LONG)])
    writer = FrameWriter()
    with pair() as (ours, theirs):
        for marked in (0, 3):
            with pytest.raises(ValueError, match=f"frame {marked} "):
                writer.send(ours, batch, marked)
        assert writer.send(ours, batch, 1) == 2
        assert writer.send(ours, batch, 4) == 1
        assert writer.send(ours, batch, 5) == 0
        assert theirs.recv(99999) == framed([*frames[1:3], frames[4]])
