"""Recordings as Scapy reads them."""

from pathlib import Path
from typing import Any, Final

from scapy.utils import RawPcapNgReader, RawPcapReader

from rawmmsg.pcap import Reader

_LONGEST: Final = 1 << 24
"""Scapy cuts packets to 65,535 bytes unless it is told another number."""


def by_scapy(path: Path) -> list[tuple[bytes, int, int, int]]:
    """Each packet, its time in nanoseconds, its length on the wire, and its
    link type."""
    found: list[tuple[bytes, int, int, int]] = []
    with RawPcapReader(str(path)) as reader:
        while True:
            try:
                data, meta = reader._read_packet(_LONGEST)
            except EOFError:
                return found
            found.append((data, *_described(reader, meta)))


def _described(reader: RawPcapReader, meta: Any) -> tuple[int, int, int]:
    if not isinstance(reader, RawPcapNgReader):
        unit = 1 if reader.nano else 1000
        time = meta.sec * 10**9 + meta.usec * unit
        return time, meta.wirelen, reader.linktype
    if meta.tshigh is None:  # a simple packet block
        return 0, meta.wirelen, meta.linktype
    units = meta.tshigh << 32 | meta.tslow
    return units * 10**9 // meta.tsresol, meta.wirelen, meta.linktype


def by_rawmmsg(path: Path) -> list[tuple[bytes, int, int, int]]:
    """The same, by Reader."""
    found: list[tuple[bytes, int, int, int]] = []
    with Reader(path) as reader:
        for batch in reader:
            links = reader.interfaces
            for i, packet in enumerate(batch.tolist()):
                time = batch.timestamps_ns[i]
                wire_length = batch.wire_lengths[i]
                link_type = links[batch.ifindexes[i]].link_type
                found.append((packet, time, wire_length, link_type))
    return found
