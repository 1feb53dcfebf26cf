"""Huge pages of 2 MB, where DPDK keeps its frames."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..lab.contender import UnavailableError

_FOLDER: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


@contextlib.contextmanager
def huge_pages(count: int) -> Iterator[None]:
    """Makes sure that at least `count` huge pages are free, and gives back
    those that it has taken from the system's memory. Raises UnavailableError
    if the system refuses them."""
    total = _FOLDER / "nr_hugepages"
    what = f"{count} free huge pages of 2 MB"
    try:
        before = int(total.read_text())
        wanted = before + max(0, count - _free())
        # Refuses a user who must not mount hugetlbfs either.
        total.write_text(str(wanted))
    except OSError:
        raise UnavailableError(what, "run as root") from None
    try:
        if _free() < count:
            raise UnavailableError(what, "free some memory")
        yield
    finally:
        total.write_text(str(before))


def _free() -> int:
    return int((_FOLDER / "free_hugepages").read_text())
