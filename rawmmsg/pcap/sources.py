"""Where the bytes of a recording come from: a map of the file, or pieces."""

import errno
import io
import mmap
import os
import select
import stat
from typing import Final, Protocol

# What is searched, and so maps pages, at a time, and what stays mapped behind.
_WINDOW: Final = 32 << 20

# A piece has room for so many bytes, or for one record that is longer. If less
# than a part of it is free, the next piece begins.
_PIECE: Final = 1 << 20
_LEAST_ROOM: Final = _PIECE // 16


class Source(Protocol):
    """Bytes in which records are looked for from `at` on."""

    at: int

    @property
    def data(self) -> mmap.mmap | memoryview:
        """The bytes that are there."""

    @property
    def offset(self) -> int:
        """Where in the file `at` is."""

    @property
    def size(self) -> int | None:
        """The bytes of the file if all of them are there."""

    def window(self) -> int:
        """Returns where to stop for now, and gives back memory behind."""

    def more(self, wanted: int) -> bool:
        """Gets more bytes; `wanted` are needed from `at` on. If `at` is beyond
        the bytes, skips those up to there. Returns False if there are no
        more."""

    def rewind(self) -> None: ...

    def close(self) -> None: ...


class Mapped:
    """All bytes of a file that is mapped."""

    def __init__(self, raw: io.FileIO) -> None:
        self._start = self.at = raw.tell()
        self._data: mmap.mmap | memoryview = mmap.mmap(
            raw.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED
        )
        self._size = len(self._data)
        self._dropped = 0  # the pages before are not in memory
        self.at = min(self.at, self._size)

    @property
    def data(self) -> mmap.mmap | memoryview:
        return self._data

    @property
    def offset(self) -> int:
        return self.at

    @property
    def size(self) -> int | None:
        return self._size

    def window(self) -> int:
        # Pages of the page cache that are mapped count as memory of the
        # process. They come back if somebody reads them again.
        if self.at - self._dropped >= 2 * _WINDOW:
            self._drop(self.at - _WINDOW)
        return self.at + _WINDOW

    def more(self, wanted: int) -> bool:
        return False

    def rewind(self) -> None:
        if self._dropped:
            self._drop(self._size)
        self._dropped = 0
        self.at = min(self._start, self._size)

    def close(self) -> None:
        # Batches keep the map for themselves.
        self._data = memoryview(b"")
        self.at = 0

    def _drop(self, end: int) -> None:
        end -= end % mmap.PAGESIZE
        if isinstance(self._data, mmap.mmap) and end > self._dropped:
            self._data.madvise(
                mmap.MADV_DONTNEED, self._dropped, end - self._dropped
            )
            self._dropped = end


class Pieces:
    """Bytes of a pipe, or of a file object, piece by piece."""

    def __init__(
        self, file: io.RawIOBase | io.BufferedIOBase, *, owned: bool
    ) -> None:
        self._file = file
        self._owned = owned
        self._piece = memoryview(bytearray(_PIECE))
        self._filled = 0
        self._base = 0  # where in the file the piece begins
        self.at = 0

    @property
    def data(self) -> mmap.mmap | memoryview:
        return self._piece[: self._filled]

    @property
    def offset(self) -> int:
        return self._base + self.at

    @property
    def size(self) -> int | None:
        return None

    def window(self) -> int:
        return self.at + _WINDOW

    def more(self, wanted: int) -> bool:
        if self.at > self._filled:
            if not self._skip():
                return False
        room = len(self._piece)
        if self.at + wanted > room or room - self._filled < _LEAST_ROOM:
            self._turn(wanted)
        count = self._read(self._piece[self._filled :])
        self._filled += count
        return count > 0

    def rewind(self) -> None:
        raise io.UnsupportedOperation(
            "a recording that is read in pieces cannot be rewound"
        )

    def close(self) -> None:
        if self._owned:
            self._file.close()

    def _turn(self, wanted: int) -> None:
        """Begins the next piece with what is left of this one."""
        left = self._piece[self.at : self._filled]
        piece = memoryview(bytearray(max(_PIECE, wanted)))
        piece[: len(left)] = left
        self._piece = piece
        self._base += self.at
        self._filled = len(left)
        self.at = 0

    def _skip(self) -> bool:
        """Reads up to `at`, and keeps nothing. Returns whether the file has so
        many bytes."""
        scrap = memoryview(bytearray(_PIECE))
        while self.at > self._filled:
            left = min(len(scrap), self.at - self._filled)
            count = self._read(scrap[:left])
            if not count:
                return False
            self._base += count
            self.at -= count
        return True

    def _read(self, room: memoryview) -> int:
        """Reads once. Returns 0 at the end of the file."""
        while True:
            if isinstance(self._file, io.BufferedIOBase):
                # Not all of the room: a packet must not wait for the next.
                count: int | None = self._file.readinto1(room)
            else:
                count = self._file.readinto(room)
            if count is not None:
                return count
            poller = select.poll()
            poller.register(self._file, select.POLLIN)
            poller.poll()


def open_source(raw: io.FileIO) -> Source:
    """Returns where the bytes of an open file come from. Takes the file."""
    status = os.fstat(raw.fileno())
    # Files in /proc say that they are empty.
    if stat.S_ISREG(status.st_mode) and status.st_size:
        try:
            source = Mapped(raw)
        except OSError as error:
            if error.errno != errno.ENODEV:  # a file system without maps
                raw.close()
                raise
        else:
            raw.close()
            return source
    return Pieces(raw, owned=True)
