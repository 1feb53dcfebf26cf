"""Which memory tables are accepted."""

import fcntl
import os
import socket
import tempfile

import pytest
from support.front_end import (
    PAGE,
    SET_MEM_TABLE,
    USER,
    memory_file,
    negotiated,
    table,
)

TOP = (1 << 64) - PAGE


# Tables


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ([(0, 0, USER, 0)], "region 0: its size is 0"),
        ([(TOP, 2 * PAGE, USER, 0)], "guest address and size exceed 64 bits"),
        ([(0, 2 * PAGE, TOP, 0)], "user address and size exceed 64 bits"),
        ([(0, 2 * PAGE, USER, TOP)], "offset and size exceed 64 bits"),
        ([(0, PAGE, USER, 1)], "its offset 0x1 is not a multiple"),
        ([(0, PAGE, USER, PAGE // 2)], "is not a multiple"),
        ([(0, 9 * PAGE, USER, 0)], "its file has only"),
        ([(0, PAGE, USER, 8 * PAGE)], "its file has only"),
        ([(0, PAGE, USER, TOP - PAGE)], "its file has only"),
        (
            [(0, 2 * PAGE, USER, 0), (PAGE, PAGE, 2 * USER, 0)],
            f"two regions share the guest address {PAGE:#x}",
        ),
        (
            [(0, PAGE, USER + PAGE, 0), (PAGE, 2 * PAGE, USER, PAGE)],
            f"two regions share the user address {USER + PAGE:#x}",
        ),
        (
            [(0, 1 << 41, 0, 0), (1 << 41, PAGE + (1 << 41), 1 << 41, 0)],
            f"{PAGE + (1 << 42)} bytes of memory are more than {1 << 42}",
        ),
        (
            [(0, PAGE, USER, 0), (0, PAGE, 0, 0)],
            "two regions share the guest address 0x0",
        ),
    ],
)
def test_bad_regions_are_refused(
    regions: list[tuple[int, int, int, int]], reason: str
) -> None:
    with negotiated() as pair:
        file = pair.file(8 * PAGE)
        descriptors = [file] * len(regions)
        said = pair.refused(SET_MEM_TABLE, table(*regions), descriptors)
        assert reason in said
        assert pair.rings.memory == ()


@pytest.mark.parametrize("count", [0, 9, 0xFFFFFFFF])
def test_number_of_regions_is_checked(count: int) -> None:
    with negotiated() as pair:
        regions = table((0, PAGE, USER, 0), count=count)
        said = pair.refused(SET_MEM_TABLE, regions, [pair.file(PAGE)])
        assert f"regions: {count}, not 1 to 8" in said


def test_a_count_beyond_the_message_is_refused() -> None:
    with negotiated() as pair:
        regions = table((0, PAGE, USER, 0), count=2)
        file = pair.file(PAGE)
        said = pair.refused(SET_MEM_TABLE, regions, [file, file])
        assert "regions: 2, more than 40 bytes can hold" in said


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_each_region_has_one_descriptor(count: int) -> None:
    with negotiated() as pair:
        regions = table((0, PAGE, USER, 0), (PAGE, PAGE, 0, 0))
        files = [pair.file(PAGE)] * count
        said = pair.refused(SET_MEM_TABLE, regions, files)
        assert f"file descriptors: {count}, not 2" in said


def test_a_refused_table_leaves_the_old_one() -> None:
    with negotiated() as pair:
        pair.share()
        (region,) = pair.rings.memory
        bad = table((0, PAGE, USER, 0), (PAGE, 2 * PAGE, 0, 0))
        file = pair.file(PAGE)
        assert "region 1" in pair.refused(SET_MEM_TABLE, bad, [file, file])
        assert pair.rings.memory == [region]
        assert region.memory[0] == 0


def test_eight_regions_in_any_order() -> None:
    with negotiated() as pair:
        file = pair.file(8 * PAGE)
        regions = [
            (n * PAGE, PAGE, USER + (7 - n) * PAGE, n * PAGE)
            for n in reversed(range(8))
        ]
        packed = table(*regions)
        assert pair.ask(SET_MEM_TABLE, packed, [file] * 8) == 0
        for number, region in enumerate(pair.rings.memory):
            region.memory[0] = number
        assert [os.pread(file, 1, n * PAGE)[0] for n in range(8)] == [
            *reversed(range(8))
        ]


def test_regions_of_odd_sizes() -> None:
    """A region has its own size, not that of its pages."""
    with negotiated() as pair:
        regions = table((0, 5, USER, PAGE))
        assert pair.ask(SET_MEM_TABLE, regions, [pair.file(PAGE + 100)]) == 0
        assert pair.rings.memory[0].memory.nbytes == 5


# Files


def refuse(descriptor: int, *, trust: bool) -> str:
    with negotiated(trust_memory=trust) as pair:
        regions = table((0, PAGE, USER, 0))
        return pair.refused(SET_MEM_TABLE, regions, [descriptor])


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_GROW])
def test_memory_that_can_shrink_needs_trust(seals: int) -> None:
    file = memory_file(PAGE, seals)
    try:
        said = refuse(file, trust=False)
        assert "not sealed against shrinking" in said
        assert "memory-backend-memfd" in said
        assert "--trust-memory" in said
        with negotiated(trust_memory=True) as pair:
            regions = table((0, PAGE, USER, 0))
            assert pair.ask(SET_MEM_TABLE, regions, [file]) == 0
    finally:
        os.close(file)


def test_huge_pages_need_trust_even_if_sealed() -> None:
    """With it, a region may begin in a huge page; but this machine may have no
    free one to map."""
    huge = 2 << 20
    flags = os.MFD_ALLOW_SEALING | os.MFD_HUGETLB | os.MFD_HUGE_2MB
    file = os.memfd_create("guest", flags)
    try:
        os.truncate(file, huge)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        assert "hugetlb=on" in refuse(file, trust=False)
        with negotiated(trust_memory=True) as pair:
            regions = table((0, PAGE, USER, PAGE))
            if pair.ask(SET_MEM_TABLE, regions, [file]) == 0:
                assert pair.rings.memory[0].memory.nbytes == PAGE
            else:
                assert "Cannot allocate memory" in pair.reports[0]
    finally:
        os.close(file)


def test_a_file_on_tmpfs_needs_trust() -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.truncate(PAGE)
        assert "--trust-memory" in refuse(file.fileno(), trust=False)
        with negotiated(trust_memory=True) as pair:
            regions = table((0, PAGE, USER, 0))
            assert pair.ask(SET_MEM_TABLE, regions, [file.fileno()]) == 0


@pytest.mark.parametrize("trust", [False, True])
def test_files_of_other_kinds_are_always_refused(trust: bool) -> None:
    with (
        open("/proc/self/status", "rb") as status,
        open("/dev/zero", "rb") as zero,
        socket.socket() as sock,
    ):
        for file in (status, zero, sock):
            said = refuse(file.fileno(), trust=trust)
            assert "neither in memory" in said
            assert "memory-backend-memfd" in said


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH])
def test_memory_that_cannot_be_written_is_refused(flags: int) -> None:
    file = memory_file(PAGE)
    try:
        reopened = os.open(f"/proc/self/fd/{file}", flags)
        try:
            assert "refused: SET_MEM_TABLE" in refuse(reopened, trust=True)
        finally:
            os.close(reopened)
    finally:
        os.close(file)


def test_memory_sealed_against_writing_is_refused() -> None:
    file = memory_file(PAGE, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    try:
        assert "mmap: " in refuse(file, trust=False)
    finally:
        os.close(file)
