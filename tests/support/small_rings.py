"""The smallest guest: two rings of two entries and two buffers in a page of
memory, written without any help."""

import mmap
import struct
from typing import Final

from rawmmsg._rawmmsg import _GuestRings
from rawmmsg.vhost import MappedRegion, Region, RingAddresses

# In each half of the page: descriptors, the available ring, the used ring, and
# a buffer.
_HALF: Final = 1024
_PARTS: Final = (0, 64, 128)
_BUFFER: Final = 256
_SIZE: Final = 2
_FRAME: Final = 60
_HEADER: Final = 10
_WRITE: Final = 2


class SmallGuest:
    def __init__(self, rings: _GuestRings) -> None:
        self.rings = rings
        self.memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.mapped = MappedRegion(
            Region(0, mmap.PAGESIZE, 0, 0), memoryview(self.memory)
        )
        self._next = [0, 0]

    def start(self) -> None:
        self.rings.set_memory([self.mapped])
        for index in range(2):
            start = index * _HALF
            descriptors, available, used = (start + part for part in _PARTS)
            self.rings.set_size(index, _SIZE)
            self.rings.set_base(index, self._next[index])
            self.rings.set_addresses(
                index, RingAddresses(descriptors, used, available)
            )
            self.rings.start(index)
            self.rings.set_enabled(index, True)

    def stop(self) -> None:
        for index in range(2):
            self.rings.stop(index)
        self.rings.set_memory(())

    def close(self) -> None:
        self.mapped.memory.release()
        self.memory.close()

    def add(self, index: int) -> None:
        """Makes the buffer of a ring available. That of ring 1 has a frame of
        zeros."""
        start = index * _HALF
        size = _HEADER + _FRAME
        flags = 0 if index else _WRITE
        where = start + _BUFFER
        struct.pack_into("<QIHH", self.memory, start, where, size, flags, 0)
        available = start + _PARTS[1]
        struct.pack_into(
            "<H", self.memory, available + 4 + 2 * (self._next[index] % 2), 0
        )
        self._next[index] = (self._next[index] + 1) % 65536
        struct.pack_into("<H", self.memory, available + 2, self._next[index])
