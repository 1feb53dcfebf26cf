"""Which of two interfaces each packet of a recording is sent on."""

from collections.abc import Sequence
from typing import Final, Protocol

from .. import PACKET_OUTGOING, PacketBatch
from ..bpf import Program
from ..pcap import UNKNOWN_TYPE, Interface, Reader

FIRST: Final = 0
SECOND: Final = 1
NEITHER: Final = 2

_BY_DIRECTION: Final = bytes(
    {PACKET_OUTGOING: SECOND, UNKNOWN_TYPE: NEITHER}.get(number, FIRST)
    for number in range(256)
)


class SplitError(ValueError):
    """The recording does not say how it can be split."""


class Splitter(Protocol):
    """Decides for the packets of a batch."""

    def sides(self, batch: PacketBatch) -> bytes:
        """Returns FIRST, SECOND or NEITHER for each packet."""


class ByFilter:
    """Packets that match go out on the second interface."""

    def __init__(self, program: Program) -> None:
        self._matches = program.matches

    def sides(self, batch: PacketBatch) -> bytes:
        return bytes(map(self._matches, batch))


class ByRecording:
    """Packets of the recording's second interface go out on the second one. If
    the recording has one interface only, packets that this had sent do."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._numbers: list[int] = []  # by interface of the recording
        self._names: list[str | int] = []
        self._by_interface: bool | None = None  # unknown before a packet

    def sides(self, batch: PacketBatch) -> bytes:
        self._learn(self._reader.interfaces)
        if self._by_interface is None:
            self._by_interface = len(self._names) > 1
        if self._by_interface:
            numbers = self._numbers
            return bytes(min(numbers[i], NEITHER) for i in batch.ifindexes)
        sides = bytes(batch.packet_types).translate(_BY_DIRECTION)
        if NEITHER in sides:
            raise SplitError(
                "the recording has one interface only, and does not say in"
                " which direction packets went: choose those for the second"
                " interface with --split-filter"
            )
        return sides

    def _learn(self, interfaces: Sequence[Interface]) -> None:
        """Gives new interfaces of the recording a number. In several sections
        of a file, the same name means the same interface."""
        for index in range(len(self._numbers), len(interfaces)):
            name = interfaces[index].name or index
            if name not in self._names:
                self._names.append(name)
            self._numbers.append(self._names.index(name))
