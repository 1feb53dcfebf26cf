"""Reading recordings."""

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, cast

from .._rawmmsg import PacketBatch, _RecordFinder
from .interface import Interface, RecordingError
from .sources import Pieces, Source, open_source

_CAPACITY: Final = 1024
_ENDS_EARLY: Final = (
    "the file ends after {} bytes, before the header of a recording is"
    " complete"
)

File: TypeAlias = (
    str | os.PathLike[str] | int | io.RawIOBase | io.BufferedIOBase
)


class Reader:
    """Reads a pcap or pcapng file, as an iterator of batches.

    `file` is a path, "-" for standard input, a descriptor, or a binary file
    object (such as that of gzip.open()). A regular file given by its path or
    descriptor is mapped into memory. Everything else is read in pieces. A
    descriptor or file object stays open, and is read from its position on.

    Each batch is one of slices, as PacketBatch(buffer=, offsets=, lengths=)
    makes them: read-only, and valid for as long as it exists. It holds at
    most `capacity` packets, 1 to 1,024, and has these columns, with an item
    for each packet:

    lengths        how many bytes the file has
    wire_lengths   how many bytes the packet had
    timestamps_ns  in nanoseconds since the epoch; 0 if the file has no time
    ifindexes      which of `interfaces` the packet is of
    packet_types   PACKET_OUTGOING, PACKET_HOST and others, as on a socket, or
                   UNKNOWN_TYPE if the file does not say
    flags          TRUNCATED if the file has not all bytes of the packet

    Reads both formats in both byte orders, with times of any resolution;
    files with several sections, and with interfaces of different kinds.
    Blocks and options of other kinds are passed over. A file that ends within
    a record, as after a crash, is read up to there: see `cut`.

    Raises OSError, and RecordingError if the file is not a recording or is
    damaged; the packets before the damage come first. A file must not become
    shorter while it is mapped: access beyond its end kills the process
    (SIGBUS), as with Python's mmap.
    """

    def __init__(self, file: File, *, capacity: int = _CAPACITY) -> None:
        self._finder = _RecordFinder(capacity)
        self._interfaces: list[Interface] = []
        self._declared = 0  # interfaces since the beginning of the file
        self._wanted = 0  # bytes that must be there before the next search
        self._behind = 0  # bytes of a block whose end is not there yet
        self._pending: PacketBatch | None = None
        self._ended = False
        self._cut: int | None = None
        self._name, self._source = _open(file)
        try:
            self._read_beginning()
        except BaseException:
            self.close()
            raise

    @property
    def format(self) -> Literal["pcap", "pcapng"]:
        """The format of the file."""
        return cast(Literal["pcap", "pcapng"], self._finder.totals()[4])

    @property
    def interfaces(self) -> list[Interface]:
        """The interfaces that were found so far, in the order of the file.

        A pcap file has one. A pcapng file can declare interfaces anywhere
        before their first packet. Their numbers go on from section to
        section.
        """
        return list(self._interfaces)

    @property
    def link_type(self) -> int | None:
        """The link type (LINKTYPE_) of the first interface; None if there is
        none yet."""
        return self._interfaces[0].link_type if self._interfaces else None

    @property
    def packets(self) -> int:
        """Packets found since the beginning of the file.

        Up to one batch of them is still to come: the Reader begins to read
        when it is made.
        """
        return self._finder.totals()[0]

    @property
    def bytes(self) -> int:
        """The sum of the lengths of these packets in the file."""
        return self._finder.totals()[1]

    @property
    def wire_bytes(self) -> int:
        """The sum of their lengths on the wire."""
        return self._finder.totals()[2]

    @property
    def drops(self) -> int:
        """The sum of the drop counts that these packets have."""
        return self._finder.totals()[3]

    @property
    def offset(self) -> int:
        """Where in the file reading goes on."""
        return self._source.offset

    @property
    def size(self) -> int | None:
        """The bytes of the file if it is mapped, otherwise None."""
        return self._source.size

    @property
    def is_mapped(self) -> bool:
        """Whether the file is mapped into memory."""
        return self._source.size is not None

    @property
    def cut(self) -> int | None:
        """Where the incomplete last record begins; None if the last record is
        complete, or the end has not been reached."""
        return self._cut

    def rewind(self) -> None:
        """Begins again at the beginning of the file, without mapping it
        again. `interfaces` stay.

        Raises io.UnsupportedOperation if the file is read in pieces.
        """
        self._source.rewind()
        self._finder.reset()
        self._declared = self._wanted = self._behind = 0
        self._pending = None
        self._ended = False
        self._cut = None

    def close(self) -> None:
        """Closes the file. Batches stay valid: the map goes with the last of
        them."""
        self._ended = True
        self._pending = None
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[PacketBatch]:
        return self

    def __next__(self) -> PacketBatch:
        batch, self._pending = self._pending, None
        while batch is None:
            if self._ended:
                raise StopIteration
            batch = self._find()
        return batch

    def _read_beginning(self) -> None:
        """Reads until there is an interface, so that the file is known to be
        a recording."""
        while not (self._interfaces or self._pending or self._ended):
            self._pending = self._find()

    def _find(self) -> PacketBatch | None:
        """Looks for packets once."""
        source = self._source
        if self._wanted and not source.more(self._wanted):
            self._end()
            return None
        batch, source.at, self._wanted, self._behind, news, fault = (
            self._finder.find(source.data, source.at, source.window())
        )
        for item in news:
            self._note(item)
        if batch is None and fault is not None:
            at = source.offset - self._behind
            raise RecordingError(self._name, at, fault)
        return batch

    def _end(self) -> None:
        """The file has ended."""
        source = self._source
        self._ended = True
        if self._behind or source.at < len(source.data):
            self._cut = source.offset - self._behind
        if self._finder.totals()[4] is None:
            left = len(source.data) - source.at
            raise RecordingError(
                self._name, source.offset, _ENDS_EARLY.format(left)
            )

    def _note(
        self,
        item: tuple[int, int, str, str, str]
        | tuple[int, int | None, int | None],
    ) -> None:
        """Takes note of an interface, or of statistics."""
        if len(item) == 3:
            number, received, dropped = item
            known = self._interfaces[number]
            self._interfaces[number] = replace(
                known, received=received, dropped=dropped
            )
        elif self._declared < len(self._interfaces):
            self._declared += 1  # it is known from before rewind()
        else:
            self._interfaces.append(Interface(*item))
            self._declared += 1


def _open(file: File) -> tuple[str, Source]:
    """Returns the name of a file for messages, and where its bytes come
    from."""
    if isinstance(file, str) and file == "-":
        return "standard input", open_source(io.FileIO(0, closefd=False))
    if isinstance(file, int):
        raw = io.FileIO(file, closefd=False)
        return f"descriptor {file}", open_source(raw)
    if isinstance(file, str | os.PathLike):
        return os.fspath(file), open_source(io.FileIO(os.fspath(file)))
    name = getattr(file, "name", None)
    return str(name or "the file"), Pieces(file, owned=False)
