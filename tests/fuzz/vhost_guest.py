"""What a hostile guest writes to its memory: rings that are often right."""

import mmap
import os
import random
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from support.front_end import PAGE
from vhost_descriptors import PAGES, Passed
from vhost_messages import RING_PAGES

_NEXT: Final = 1
_WRITE: Final = 2
_INDIRECT: Final = 4
_BUFFERS: Final = 2 * RING_PAGES * PAGE
_LENGTHS: Final = (60, 256, 1514, 1536, 1536, 1536, 9000, 65562, 69644)
_ODD_LENGTHS: Final = (0, 1, 9, 10, 11, 12, 13, 25, 26, 27, 69645, 200_000)
_EDGES: Final = (0, 1, 2, 255, 256, 32767, 65535)


class Guest:
    """One ring of a guest. It starts anew with reset()."""

    def __init__(
        self, draw: random.Random, memory: mmap.mmap, index: int
    ) -> None:
        self._draw = draw
        self._memory = memory
        self._start = index * RING_PAGES * PAGE
        self._writable = index == 0
        self.size = 1
        self._index = 0

    def reset(self, size: int) -> None:
        """With an empty ring."""
        end = self._start + RING_PAGES * PAGE
        self._memory[self._start : end] = bytes(RING_PAGES * PAGE)
        self.size = size
        self._index = 0

    def step(self) -> None:
        draw = self._draw
        match draw.randrange(300):
            case 0:
                self._garbage()
            case 1:
                self._jump()
            case 2 | 3 | 4:
                self._punch()
            case _:
                for _ in range(draw.choice([1, 1, 4, self.size])):
                    if self._has_room or not draw.randrange(1000):
                        self._add()

    @property
    def _has_room(self) -> bool:
        (used,) = struct.unpack_from(
            "<H", self._memory, self._start + 2 * PAGE + 2
        )
        return bool((self._index - used) % 65536 < self.size)

    def add_good(self) -> None:
        """A buffer that has room for a frame, or contains one of zeros."""
        length = 1536 if self._writable else 12 + 60
        self._memory[_BUFFERS : _BUFFERS + length] = bytes(length)
        self._store("<QIHH", 0, _BUFFERS, length, _WRITE * self._writable, 0)
        self._store("<H", PAGE + 4 + 2 * (self._index % self.size), 0)
        self._index += 1
        self._publish()

    def _garbage(self) -> None:
        draw = self._draw
        size = draw.choice([1, 2, 4, 16, 64])
        at = self._start + draw.randrange(RING_PAGES * PAGE - size)
        self._memory[at : at + size] = draw.randbytes(size)

    def _jump(self) -> None:
        draw = self._draw
        self._index += draw.choice(_EDGES) * draw.choice([-1, 1])
        self._publish()

    def _punch(self) -> None:
        """Frees pages of buffers: the next access finds zeros."""
        page = self._draw.randrange(2 * RING_PAGES, PAGES)
        self._memory.madvise(mmap.MADV_REMOVE, page * PAGE, PAGE)

    def _publish(self) -> None:
        self._store("<H", PAGE + 2, self._index % 65536)

    def _store(self, form: str, offset: int, *values: int) -> None:
        struct.pack_into(form, self._memory, self._start + offset, *values)

    def _add(self) -> None:
        """Makes a chain available."""
        draw = self._draw
        head = self._index % self.size
        if not draw.randrange(1000):
            head = draw.randrange(65536)
        i = head % self.size
        for _ in range(draw.choice([*10 * [0], *4 * [1], 2, 20])):
            following = (i + 1) % self.size
            self._describe(i, _NEXT, following)
            i = following
        self._describe(i, 0, draw.randrange(65536))
        slot = self._index % self.size
        self._store("<H", PAGE + 4 + 2 * slot, head)
        self._index += 1
        self._publish()

    def _describe(self, i: int, flags: int, following: int) -> None:
        draw = self._draw
        address, length = self._buffer()
        flags |= _WRITE * self._writable
        if not draw.randrange(1000):
            flags ^= draw.choice([_NEXT, _WRITE, _INDIRECT, 0xFFF8])
        if not draw.randrange(10) and not flags & _NEXT:
            address, length = self._indirect()
            flags = _INDIRECT
        self._store("<QIHH", 16 * i, address, length, flags, following)

    def _buffer(self) -> tuple[int, int]:
        """A buffer, often one with a header that is right."""
        draw = self._draw
        length = draw.choice(_LENGTHS)
        if not draw.randrange(100):
            length = draw.choice(_ODD_LENGTHS)
        address = draw.randrange(_BUFFERS, PAGES * PAGE - length)
        if not draw.randrange(1000):
            address = draw.choice([0, PAGES * PAGE - 1, 2**63, 2**64 - 1])
            return address, length
        if not self._writable and length >= 26 and draw.randrange(4):
            self._frame(address)
        return address, length

    def _frame(self, at: int) -> None:
        """An offload header, and the beginning of a frame of IPv4."""
        draw = self._draw
        gso_type = draw.choice([*8 * [0], 1, 4, 5, 0x81, 0x84, 77])
        struct.pack_into(
            "<BBHHHHH12sH",
            self._memory,
            at,
            draw.choice([*6 * [0], 1, 2, 255]),
            gso_type,
            *(
                draw.choice([0, 54, 66, 65535]),
                draw.choice([0, 1, 1448, 1448]),
            ),
            *(draw.choice([0, 34, 54, 65535]), draw.choice([0, 6, 16, 65535])),
            *(0, draw.randbytes(12), draw.choice([8, 0x81, 0xDD86])),
        )

    def _indirect(self) -> tuple[int, int]:
        """A table of descriptors in the memory of buffers."""
        draw = self._draw
        count = draw.choice([1, 2, 3, 20, 200])
        at = draw.randrange(_BUFFERS, PAGES * PAGE - 16 * count)
        for i in range(count):
            address, length = self._buffer()
            flags = _WRITE * self._writable | _NEXT * (i < count - 1)
            if not draw.randrange(5000):
                flags = draw.randrange(65536)
            struct.pack_into(
                "<QIHH",
                self._memory,
                at + 16 * i,
                address,
                length,
                flags,
                i + 1,
            )
        size = 16 * count - (not draw.randrange(500))
        return at, size


class Rewriter:
    """A guest that rewrites its rings and frames all the time, from another
    process. Most of what it writes could be right."""

    def __init__(self, draw: random.Random, memory: mmap.mmap) -> None:
        self._draw = draw
        self._memory = memory

    def run(self, parent: int) -> None:
        """Until the parent process ends."""
        while os.getppid() == parent:
            for _ in range(1000):
                self._write()

    def _write(self) -> None:
        draw = self._draw
        start = draw.randrange(2) * RING_PAGES * PAGE
        at = start + 16 * draw.randrange(16)
        match draw.randrange(2000):
            case 0:
                at = start + draw.randrange(RING_PAGES * PAGE)
                self._memory[at] = draw.randrange(256)
            case 1:
                (index,) = struct.unpack_from(
                    "<H", self._memory, start + PAGE + 2
                )
                changed = (index + draw.choice([-1, 1])) % 65536
                struct.pack_into("<H", self._memory, start + PAGE + 2, changed)
            case n if n < 500:
                where = draw.randrange(_BUFFERS, PAGES * PAGE - 70_000)
                struct.pack_into("<Q", self._memory, at, where)
            case n if n < 1000:
                length = draw.choice(_LENGTHS)
                struct.pack_into("<I", self._memory, at + 8, length)
            case n if n < 1100:
                self._memory[at + 12] ^= _NEXT
            case n if n < 1200:
                self._memory[at + 14] = draw.randrange(16)
            case _:
                at = draw.randrange(_BUFFERS, PAGES * PAGE)
                self._memory[at] = draw.randrange(256)


@contextmanager
def rewriting(draw: random.Random, passed: Passed) -> Iterator[None]:
    """A process rewrites the guest's memory until the block ends."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            Rewriter(draw, passed.memory).run(parent)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
