"""The guest's memory: which files are accepted, and how they are mapped.

A file that shrinks takes its pages with it: the next access to them ends the
process (SIGBUS). So a file must be sealed against shrinking, or the user must
vouch for the programs that can write to it (trust_memory). A hole has the same
effect in a huge page, if no other one is free to fill it; and seals do not
prevent holes (fallocate(2), FALLOC_FL_PUNCH_HOLE).
"""

import fcntl
import mmap
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from .messages import RefusedRequest, Region

__all__ = ["MappedRegion", "Memory", "map_memory"]

# linux/fcntl.h
_F_GET_SEALS: Final = 1034
_F_SEAL_SHRINK: Final = 0x0002

_ADDRESSES: Final = 1 << 64

# A file can be larger than the memory of the machine, because it may have
# holes. Without a limit, one front end could take so much of this process's
# address space (128 TiB on x86-64) that it could not allocate anything.
_MOST_MEMORY: Final = 1 << 42


@dataclass(frozen=True)
class MappedRegion:
    """A region and its memory in this process, which has its size."""

    region: Region
    memory: memoryview


class Memory:
    """A memory table that is mapped until close()."""

    def __init__(
        self, regions: Sequence[MappedRegion], mappings: ExitStack
    ) -> None:
        self.regions = regions
        self._mappings = mappings

    def close(self) -> None:
        """Removes the mappings. Nothing may use a region's memory any more:
        BufferError."""
        self._mappings.close()


def map_memory(
    regions: Sequence[Region], descriptors: Sequence[int], trust: bool
) -> Memory:
    """Checks a table and maps it. The caller keeps the descriptors.

    Raises RefusedRequest; then nothing is mapped.
    """
    _check_addresses(regions)
    with ExitStack() as mappings:
        mapped = []
        for number, region in enumerate(regions):
            try:
                memory = _map(region, descriptors[number], trust, mappings)
            except RefusedRequest as error:
                raise RefusedRequest(f"region {number}: {error}") from None
            mapped.append(MappedRegion(region, memory))
        return Memory(mapped, mappings.pop_all())


def _check_addresses(regions: Sequence[Region]) -> None:
    for number, region in enumerate(regions):
        if not region.size:
            raise RefusedRequest(f"region {number}: its size is 0")
        for what, start in (
            ("guest address", region.guest_address),
            ("user address", region.user_address),
            ("offset", region.offset),
        ):
            if start + region.size > _ADDRESSES:
                raise RefusedRequest(
                    f"region {number}: {what} and size exceed 64 bits"
                )
        if region.offset % mmap.PAGESIZE:
            raise RefusedRequest(
                f"region {number}: its offset {region.offset:#x} is not a"
                f" multiple of the page size"
            )
    total = sum(region.size for region in regions)
    if total > _MOST_MEMORY:
        raise RefusedRequest(
            f"{total} bytes of memory are more than {_MOST_MEMORY}, the most"
            " that a guest may have here"
        )
    _check_overlaps("guest", [(r.guest_address, r.size) for r in regions])
    _check_overlaps("user", [(r.user_address, r.size) for r in regions])


def _check_overlaps(kind: str, ranges: list[tuple[int, int]]) -> None:
    end = 0
    for start, size in sorted(ranges):
        if start < end:
            raise RefusedRequest(
                f"two regions share the {kind} address {start:#x}"
            )
        end = start + size


def _map(
    region: Region, descriptor: int, trust: bool, mappings: ExitStack
) -> memoryview:
    _check_file(descriptor, trust)
    found = os.fstat(descriptor)
    end = region.offset + region.size
    if end > found.st_size:
        raise RefusedRequest(
            f"it ends at {end:#x}, but its file has only"
            f" {found.st_size:#x} bytes"
        )
    # hugetlbfs maps whole huge pages only. Python unmaps exactly the length
    # that it was given.
    grain = _page_size(descriptor)
    start = region.offset // grain * grain
    length = min(-(-end // grain) * grain, found.st_size) - start
    try:
        mapping = mmap.mmap(descriptor, length, offset=start)
    except (OSError, ValueError, OverflowError) as error:
        raise RefusedRequest(f"mmap: {error}") from None
    mappings.callback(mapping.close)
    # A core dump of this process does not contain the guest's memory.
    mapping.madvise(mmap.MADV_DONTDUMP)
    whole = mappings.enter_context(memoryview(mapping))
    return mappings.enter_context(whole[region.offset - start : end - start])


def _check_file(descriptor: int, trust: bool) -> None:
    """Refuses files that can shrink, and all that are not memory.

    Only tmpfs (which has memfds, too) and hugetlbfs know seals
    (mm/memfd.c:memfd_fcntl()). The question comes first, because fstat(2) and
    page faults of a file of another kind can wait for ever, for a server of
    FUSE or NFS.
    """
    try:
        seals = fcntl.fcntl(descriptor, _F_GET_SEALS)
    except OSError:
        raise RefusedRequest(
            "the file is neither in memory (memfd, tmpfs) nor on hugetlbfs:"
            " its file system could stop this process for ever; use"
            " memory-backend-memfd"
        ) from None
    if trust:
        return
    if _page_size(descriptor) > mmap.PAGESIZE:
        raise RefusedRequest(
            "the file has huge pages, and a program that frees one of them"
            " while no other is free would end this process, even if the file"
            " is sealed; use memory-backend-memfd without hugetlb=on, or"
            " --trust-memory if you trust all programs that can write to the"
            " file"
        )
    if not seals & _F_SEAL_SHRINK:
        raise RefusedRequest(
            "the file is not sealed against shrinking, and a program that"
            " shrinks it would end this process; use memory-backend-memfd"
            " (which QEMU seals), or --trust-memory if you trust all programs"
            " that can write to the file"
        )


def _page_size(descriptor: int) -> int:
    """Returns the size of a huge page on hugetlbfs, otherwise of a page. That
    is f_bsize; st_blksize can be larger on tmpfs (mm/shmem.c)."""
    return os.fstatvfs(descriptor).f_bsize
