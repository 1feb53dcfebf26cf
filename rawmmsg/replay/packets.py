"""From a recording to loads, which are ready to send."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, TypeAlias

from .. import PacketBatch
from ..pacing.loads import Load
from ..pacing.pace import Pace
from ..pcap import Reader
from .edits import Editor, select
from .sides import FIRST, NEITHER, SECOND, Splitter

_ETHERNET: Final = 1  # LINKTYPE_ETHERNET
_HEADER: Final = 14  # bytes
_TAGGED_HEADER: Final = 18
_TAG: Final = b"\x81\x00"


class LinkTypeError(ValueError):
    """The recording has packets without an Ethernet header."""


@dataclass
class Skipped:
    """Packets of the recording that are not sent.

    cut        the recording does not have all of their bytes
    malformed  they end within their Ethernet header, or its VLAN tag
    elsewhere  they are for neither of two interfaces
    """

    cut: int = 0
    malformed: int = 0
    elsewhere: int = 0


@dataclass(frozen=True, eq=False)
class SplitLoad:
    """Packets for two interfaces: a load for each, or None if it has no
    packets, and for each packet its interface, FIRST or SECOND."""

    parts: tuple[Load | None, Load | None]
    sides: bytes
    positions: Sequence[float]

    @property
    def frames(self) -> int:
        return len(self.sides)


AnyLoad: TypeAlias = Load | SplitLoad


class Packets:
    """The packets of a recording that are to be sent.

    editors   one for each interface; None: its packets stay as they are
    splitter  decides between two interfaces
    skipped   what was skipped when the recording was read for the first time
    kept      how many packets are kept for further rounds
    """

    def __init__(
        self,
        reader: Reader,
        pace: Pace,
        editors: Sequence[Editor | None],
        splitter: Splitter | None = None,
    ) -> None:
        self._reader = reader
        self._pace = pace
        self._editors = editors
        self._splitter = splitter
        self.skipped = Skipped()
        self.kept = 0
        self._counting = self.skipped  # of this reading
        self._checked = 0  # interfaces of the recording

    def loads(self) -> Iterator[AnyLoad]:
        """Yields all packets. A load may use the memory of the one before
        it."""
        position = 0.0
        for batch in self._reader:
            load = self._load(batch, position)
            if load is not None:
                position = load.positions[-1]
                yield load

    def rewind(self) -> None:
        """Goes back to the first packet."""
        self._reader.rewind()
        self._counting = Skipped()

    def _load(self, batch: PacketBatch, position: float) -> AnyLoad | None:
        self._check_link_types()
        sizes = batch.lengths.tolist()
        sides = self._sides(batch, sizes)
        time_of = self._pace.time_of
        times = [] if time_of is None else [*map(time_of, batch.timestamps_ns)]
        placed = sizes
        if NEITHER in sides:
            sent = [side != NEITHER for side in sides]
            placed = list(compress(sizes, sent))
            times = list(compress(times, sent))
            if not placed:
                return None
        positions = self._pace.place(placed, times, position)
        if self._splitter is None:
            return self._part(batch, sizes, sides, FIRST, positions)
        # Only the positions of all packets together are used.
        first, second = (
            self._part(batch, sizes, sides, side, range(sides.count(side) + 1))
            for side in (FIRST, SECOND)
        )
        in_order = sides.replace(bytes([NEITHER]), b"")
        return SplitLoad((first, second), in_order, positions)

    def _part(
        self,
        batch: PacketBatch,
        sizes: Sequence[int],
        sides: bytes,
        side: int,
        positions: Sequence[float],
    ) -> Load | None:
        """Returns the packets for an interface, edited."""
        if sides.count(side) == 0:
            return None
        if sides.count(side) < len(sides):
            left_out = [i for i, other in enumerate(sides) if other != side]
            batch = select(batch, left_out)
            sizes = batch.lengths[: len(batch)].tolist()
        editor = self._editors[side]
        if editor is not None:
            batch = editor.edit(batch, sizes)
            sizes = batch.lengths[: len(batch)].tolist()
        return Load(batch, sum(sizes), positions)

    def _check_link_types(self) -> None:
        """Raises LinkTypeError if there is an interface of the recording whose
        packets cannot be sent."""
        interfaces = self._reader.interfaces
        for interface in interfaces[self._checked :]:
            if interface.link_type != _ETHERNET:
                name = f" of {interface.name}" if interface.name else ""
                raise LinkTypeError(
                    f"packets{name} have the link type"
                    f" {interface.link_type}, not Ethernet (1); record on one"
                    " Ethernet interface, not on `any` or a tun device"
                )
        self._checked = len(interfaces)

    def _sides(self, batch: PacketBatch, sizes: Sequence[int]) -> bytes:
        """Returns where each packet goes, and counts those that go
        nowhere."""
        sides = bytes(len(sizes))
        if self._splitter is not None:
            sides = self._splitter.sides(batch)
            self._counting.elsewhere += sides.count(NEITHER)
        flags = batch.flags.tobytes()  # TRUNCATED, or none
        if flags.count(0) < len(flags):
            sides, cut = _without(sides, lambda i: batch.flags[i] != 0)
            self._counting.cut += cut
        if min(sizes) < _TAGGED_HEADER:
            sides, malformed = _without(
                sides, lambda i: _is_malformed(batch, i, sizes[i])
            )
            self._counting.malformed += malformed
        return sides


def _without(sides: bytes, is_bad: Callable[[int], bool]) -> tuple[bytes, int]:
    """Returns the sides without the bad ones of the packets that are to be
    sent, and how many of them are bad."""
    bad = [i for i, one in enumerate(sides) if one != NEITHER and is_bad(i)]
    changed = bytearray(sides)
    for i in bad:
        changed[i] = NEITHER
    return bytes(changed), len(bad)


def _is_malformed(batch: PacketBatch, i: int, size: int) -> bool:
    return size < _HEADER or (
        size < _TAGGED_HEADER and bytes(batch[i][12:14]) == _TAG
    )


def time_since_first(reader: Reader) -> Callable[[int], float]:
    """Returns a function that converts a time in nanoseconds to seconds since
    the first. Simple packet blocks of pcapng have no time, which is 0 here:
    such a packet follows the one before at once."""
    has_no_time = 0 if reader.format == "pcapng" else None
    origin: int | None = None

    def convert(time_ns: int) -> float:
        nonlocal origin
        if time_ns == has_no_time:
            return 0.0
        if origin is None:
            origin = time_ns
        return (time_ns - origin) / 1e9

    return convert
