"""The memory of a guest of the tests' own: a memfd, the regions that a back
end is told of, and blocks between guards.

Addresses are those of the guest. The file may have bytes that lie in no
region; a back end must never change them.
"""

import fcntl
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from support.front_end import memory_file

_GUARD: Final = b"\xa5" * 32
_OUTSIDE: Final = 0x5A
# More than any test's rings and frames need at a time.
_MEMORY: Final = 64 << 20
_HOLE: Final = 0x20000


class GuestRegion(NamedTuple):
    """As in SET_MEM_TABLE."""

    guest: int
    size: int
    user: int
    offset: int


# Like QEMU: two regions of one file, with a gap between them. The user
# addresses have another order, so that none can be mistaken for another.
REGIONS: Final = (
    GuestRegion(0, 0xA0000, 0x7F1200000000, 0),
    GuestRegion(0x100000, _MEMORY, 0x7F0800000000, 0xA0000 + _HOLE),
)

# Small enough to be compared byte by byte.
SMALL_REGIONS: Final = (REGIONS[0], REGIONS[1]._replace(size=1 << 20))


class GuestMemory:
    """`regions` must not overlap in the file. Blocks are allocated in the last
    one."""

    def __init__(
        self,
        regions: Sequence[GuestRegion] = REGIONS,
        seals: int | None = None,
    ) -> None:
        self.regions = tuple(regions)
        size = max(one.offset + one.size for one in regions)
        if seals is None:
            self.descriptor = memory_file(size)
        else:
            self.descriptor = memory_file(size, seals)
        self.bytes = mmap.mmap(self.descriptor, size)
        # A 16-bit number is loaded and stored at once.
        self._halves = memoryview(self.bytes).cast("H")
        self._free: dict[int, list[int]] = {}
        self._blocks: dict[int, tuple[int, int, int]] = {}
        self._next = self.regions[-1].guest
        self._end = self._next + self.regions[-1].size
        self._fill_outside()

    def close(self) -> None:
        self._halves.release()
        self.bytes.close()
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Addresses

    def user_address(self, address: int) -> int:
        """The same place, as an address of the front end."""
        region = self._region(address)
        return region.user + address - region.guest

    def _region(self, address: int) -> GuestRegion:
        for region in self.regions:
            if region.guest <= address < region.guest + region.size:
                return region
        raise ValueError(f"the guest has no memory at {address:#x}")

    def _pieces(self, address: int, size: int) -> list[slice]:
        """Where the bytes are in the file."""
        pieces = []
        while size > 0:
            region = self._region(address)
            here = min(size, region.guest + region.size - address)
            start = region.offset + address - region.guest
            pieces.append(slice(start, start + here))
            address += here
            size -= here
        return pieces

    # Access

    def read(self, address: int, size: int) -> bytes:
        pieces = self._pieces(address, size)
        return b"".join(self.bytes[piece] for piece in pieces)

    def write(self, address: int, data: bytes | memoryview) -> None:
        at = 0
        for piece in self._pieces(address, len(data)):
            here = piece.stop - piece.start
            self.bytes[piece] = data[at : at + here]
            at += here

    def where(self, address: int, size: int) -> slice:
        """Where bytes of one region are in the file."""
        (piece,) = self._pieces(address, size)
        return piece

    def load(self, address: int) -> int:
        """An aligned, little-endian number of 16 bits."""
        return _little_endian(self._halves[self._half(address)])

    def store(self, address: int, value: int) -> None:
        self._halves[self._half(address)] = _little_endian(value & 0xFFFF)

    def _half(self, address: int) -> int:
        region = self._region(address)
        offset = region.offset + address - region.guest
        assert offset % 2 == 0, f"{address:#x} is not aligned"
        return offset // 2

    # Blocks

    def allocate(self, size: int, alignment: int = 1) -> int:
        """A block of this size between guards."""
        needed = size + 2 * len(_GUARD) + alignment - 1
        whole = max(128, 1 << (needed - 1).bit_length())
        free = self._free.setdefault(whole, [])
        if free:
            start = free.pop()
        else:
            start = self._next
            self._next += whole
            assert self._next <= self._end, "the guest has no memory left"
        address = start + len(_GUARD)
        address += -address % alignment
        self.write(address - len(_GUARD), _GUARD)
        self.write(address + size, _GUARD)
        self._blocks[address] = start, whole, size
        return address

    def free(self, address: int) -> None:
        self._check_guards(address)
        start, whole, _ = self._blocks.pop(address)
        self._free[whole].append(start)

    def check(self) -> None:
        """Asserts that no byte outside the blocks was changed that must not
        be."""
        for address in self._blocks:
            self._check_guards(address)
        for start, end in self._outside():
            assert self.bytes[start:end] == bytes([_OUTSIDE]) * (
                end - start
            ), "the back end wrote outside the regions"

    def _check_guards(self, address: int) -> None:
        _, _, size = self._blocks[address]
        before = self.read(address - len(_GUARD), len(_GUARD))
        behind = self.read(address + size, len(_GUARD))
        assert before == _GUARD, f"written before the block at {address:#x}"
        assert behind == _GUARD, f"written behind the block at {address:#x}"

    def _outside(self) -> list[tuple[int, int]]:
        """The parts of the file that lie in no region."""
        gaps, end = [], 0
        for region in sorted(self.regions, key=lambda one: one.offset):
            if region.offset > end:
                gaps.append((end, region.offset))
            end = region.offset + region.size
        return gaps

    def _fill_outside(self) -> None:
        for start, end in self._outside():
            self.bytes[start:end] = bytes([_OUTSIDE]) * (end - start)


def split_regions(
    regions: Sequence[GuestRegion], size: int
) -> list[GuestRegion]:
    """The same memory, with a region of this size at the beginning of each of
    the regions."""
    split = []
    for one in regions:
        split.append(one._replace(size=size))
        split.append(
            GuestRegion(
                one.guest + size,
                one.size - size,
                one.user + size,
                one.offset + size,
            )
        )
    return split


def _little_endian(value: int) -> int:
    if sys.byteorder == "little":
        return value
    return value >> 8 | (value & 0xFF) << 8


def small_memory() -> GuestMemory:
    return GuestMemory(SMALL_REGIONS)


def unsealed_memory(regions: Sequence[GuestRegion] = REGIONS) -> GuestMemory:
    """Memory that can shrink."""
    return GuestMemory(regions, seals=fcntl.F_SEAL_SEAL)
