"""Writing recordings."""

import io
import os
import select
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from .._rawmmsg import PacketBatch, _RecordWriter
from . import blocks
from .interface import Interface

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ETHERNET: Final = 1
_SNAP_LENGTH: Final = 262144  # as tcpdump


File: TypeAlias = (
    str | os.PathLike[str] | int | io.RawIOBase | io.BufferedIOBase
)
Column: TypeAlias = "Sequence[int] | Buffer"


@dataclass
class _Counts:
    """What the block of statistics of an interface says."""

    written: int = 0
    lost: int = 0  # before packets that were written
    received: int | None = None
    dropped: int | None = None


class Writer:
    """Writes a pcapng or pcap file.

    `file` is a path (an existing file is emptied), "-" for standard output, a
    descriptor, or a binary file object that has one. Only a file that was
    opened here is closed by close().

    interfaces   names of the interfaces, or Interface objects; for pcap
                 exactly one
    format       "pcapng" or "pcap"
    link_type    of all interfaces (LINKTYPE_; see link_type_of())
    snap_length  of all interfaces: longer packets are cut to so many bytes
    comment      of the file, for people; pcapng only

    All interfaces have one link type and one snap length, because libpcap
    does not read other files. Times are in nanoseconds, numbers in the byte
    order of this machine. A pcap file has no room for names, directions and
    drop counts.

    After a failed write, a regular file is cut back to its last whole record
    before the exception leaves, whatever it is. Raises OSError.
    """

    def __init__(
        self,
        file: File,
        interfaces: Iterable[str | Interface] = ("",),
        *,
        format: Literal["pcapng", "pcap"] = "pcapng",
        link_type: int = _ETHERNET,
        snap_length: int = _SNAP_LENGTH,
        comment: str | None = None,
    ) -> None:
        if format not in ("pcapng", "pcap"):
            raise ValueError(f"format must be pcapng or pcap, not {format!r}")
        if not 1 <= snap_length <= 0x7FFF_FFFF:
            raise ValueError(
                f"snap_length must be 1 to 2,147,483,647, not {snap_length}"
            )
        self._is_pcapng = format == "pcapng"
        self._link_type = link_type
        self._snap_length = snap_length
        self._records = _RecordWriter(self._is_pcapng, snap_length)
        self._counts: list[_Counts] = []
        self._size = 0
        self._packets = 0
        self._began_ns = time_ns()
        self._failed = False  # the last write
        self._broken = False  # the file ends within a record
        header = self._header(list(interfaces), comment)
        self._name, self._file = _open(file)
        self._is_open = True
        self._descriptor = self._file.fileno()
        try:
            mode = os.fstat(self._descriptor).st_mode
            self._is_regular = stat.S_ISREG(mode)
            self._write_bytes(header)
        except BaseException:
            self._close_file()
            raise

    @property
    def size(self) -> int:
        """Bytes that were written, in whole records and blocks."""
        return self._size

    @property
    def packets(self) -> int:
        """Packets that were written."""
        return self._packets

    def fileno(self) -> int:
        """Returns the descriptor of the file."""
        return self._descriptor

    def add_interface(self, interface: str | Interface) -> int:
        """Declares one more interface, and returns its number.

        Raises ValueError if the format is pcap.
        """
        block = self._interface(interface)
        if not self._is_pcapng:
            raise ValueError("a pcap file has one interface: use pcapng")
        self._check_open()
        self._write_bytes(block)
        self._counts.append(_Counts())
        return len(self._counts) - 1

    def write(
        self,
        batch: PacketBatch,
        start: int = 0,
        stop: int | None = None,
        *,
        interface: "int | Sequence[int] | Buffer" = 0,
        times: "int | Sequence[int] | Buffer | None" = None,
        dropped: int = 0,
    ) -> int:
        """Writes packets `start` to `stop`-1 of a batch, and returns by how
        many bytes the file has grown.

        interface  the number of their interface, or a column with an item for
                   each packet of the batch (batch.ifindexes, if it is of a
                   Reader and this file has the same interfaces)
        times      when they were received, in nanoseconds since the epoch: a
                   column, or one time for all; None: batch.timestamps_ns
        dropped    how many packets were lost before them

        The length on the wire is that in batch.wire_lengths if the batch has
        this column, and the direction is that in batch.packet_types. One
        writev(2) takes up to 1,024 packets, or 511 if they are longer than
        256 bytes.

        Raises ValueError if the batch has no times, or an argument does not
        fit, and OSError; then the packets before are in the file.
        """
        self._check_open()
        if dropped < 0:
            raise ValueError(f"dropped must not be negative: {dropped}")
        last = -1 if stop is None else stop
        known = len(self._counts)
        before = self._size
        self._failed = True
        try:
            self._records.write(
                *(self._descriptor, batch, start, last),
                *(known, interface, times, dropped),
            )
        except OSError as error:
            raise _named(error, self._name) from None
        else:
            self._failed = False
        finally:
            self._account(start, interface, dropped)
        return self._size - before

    def set_statistics(
        self,
        interface: int,
        *,
        received: int | None = None,
        dropped: int | None = None,
    ) -> None:
        """Sets what the statistics of an interface at the end of the file say.

        received  packets that the interface received, those dropped included;
                  without it, the number of packets written plus `dropped`
        dropped   packets that are missing in the file; without it, the sum of
                  what write() was given
        """
        counts = self._counts[interface]
        counts.received = received
        counts.dropped = dropped

    def close(self) -> None:
        """Writes the statistics, and closes the file if it was opened here.

        If the last write has failed, a failure to write the statistics is not
        an error any more.
        """
        if not self._is_open:
            return
        try:
            if self._is_pcapng and not self._broken:
                self._write_statistics()
        finally:
            self._close_file()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _header(
        self, interfaces: list[str | Interface], comment: str | None
    ) -> bytes:
        described = [self._interface(item) for item in interfaces]
        if not self._is_pcapng:
            if len(described) != 1:
                raise ValueError(
                    "a pcap file has one interface, not"
                    f" {len(described)}: use pcapng"
                )
            header = blocks.pcap_header(self._link_type, self._snap_length)
        else:
            header = blocks.section(comment) + b"".join(described)
        self._counts = [_Counts() for _ in described]
        return header

    def _interface(self, item: str | Interface) -> bytes:
        """Returns the block of an interface."""
        if isinstance(item, str):
            item = Interface(self._link_type, self._snap_length, item)
        same = (self._link_type, self._snap_length)
        if (item.link_type, item.snap_length or self._snap_length) != same:
            raise ValueError(
                f"interface {item.name!r} has link type {item.link_type} and"
                f" snap length {item.snap_length}; all interfaces of a file"
                f" must have the same, {same[0]} and {same[1]}"
            )
        return blocks.interface(replace(item, snap_length=same[1]))

    def _account(
        self, start: int, interface: "int | Column", dropped: int
    ) -> None:
        """Counts what was written, and cuts the file back behind it."""
        packets, size, excess = self._records.progress()
        self._packets += packets
        self._size += size
        if isinstance(interface, int):
            if packets:
                self._counts[interface].written += packets
                self._counts[interface].lost += dropped
        else:
            numbers = _items(interface)[start : start + packets]
            for number, count in Counter(numbers).items():
                self._counts[number].written += count
            if packets:
                self._counts[numbers[0]].lost += dropped
        self._cut(excess)

    def _cut(self, excess: int) -> None:
        """Removes bytes at the end of the file."""
        if not excess:
            return
        if not self._is_regular:
            self._broken = True
            return
        self._broken = True  # if the file may only grow (chattr +a)
        end = os.lseek(self._descriptor, 0, os.SEEK_CUR) - excess
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)
        self._broken = False

    def _write_bytes(self, data: bytes) -> None:
        """Writes all bytes, or none."""
        done = 0
        try:
            while done < len(data):
                done += _write(self._descriptor, data[done:])
        except OSError as error:
            raise _named(error, self._name) from None
        finally:
            if done < len(data):
                self._cut(done)
            else:
                self._size += done

    def _write_statistics(self) -> None:
        now = time_ns()
        found = b""
        for number, counts in enumerate(self._counts):
            dropped = counts.lost if counts.dropped is None else counts.dropped
            received = counts.received
            if received is None:
                received = counts.written + dropped
            found += blocks.statistics(
                *(number, self._began_ns, now),
                *(received, dropped, counts.written),
            )
        try:
            self._write_bytes(found)
        except OSError:
            if not self._failed:
                raise

    def _check_open(self) -> None:
        if not self._is_open:
            raise ValueError("the recording is closed")
        if self._broken:
            raise ValueError(
                f"{self._name} ends within a record, because a write has"
                " failed: nothing can be written behind it"
            )

    def _close_file(self) -> None:
        self._is_open = False
        self._file.close()


def _write(descriptor: int, data: bytes) -> int:
    """Writes once. Waits for room, also if the descriptor does not block."""
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        poll.poll()
        return 0


def _items(column: "Column") -> Sequence[int]:
    return column if isinstance(column, Sequence) else memoryview(column)


def _named(error: OSError, name: str) -> OSError:
    return OSError(error.errno, error.strerror, name)


def _open(file: File) -> tuple[str, io.FileIO]:
    """Returns the name of a file for messages, and the file."""
    if isinstance(file, str) and file == "-":
        return "standard output", _lent(1)
    if isinstance(file, int):
        return f"descriptor {file}", _lent(file)
    if isinstance(file, str | os.PathLike):
        name = os.fspath(file)
        return name, io.FileIO(name, "wb")
    file.flush()  # what the caller has written is before the recording
    return str(getattr(file, "name", "the file")), _lent(file.fileno())


def _lent(descriptor: int) -> io.FileIO:
    """A file that stays open when it is closed."""
    return io.FileIO(descriptor, "wb", closefd=False)
