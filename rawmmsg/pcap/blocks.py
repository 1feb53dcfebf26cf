"""Headers of recordings, as bytes. The blocks of packets are written in C."""

import os
import struct
from typing import Final

from .interface import Interface

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_STATISTICS: Final = 5
_BYTE_ORDER: Final = 0x1A2B3C4D
_UNKNOWN_LENGTH: Final = 0xFFFF_FFFF_FFFF_FFFF
_NANOSECONDS: Final = 9  # if_tsresol: the power of ten

# Codes of options.
_END: Final = 0
_COMMENT: Final = 1
_SHB_OS: Final = 3
_SHB_APPLICATION: Final = 4
_IF_NAME: Final = 2
_IF_DESCRIPTION: Final = 3
_IF_TSRESOL: Final = 9
_IF_FILTER: Final = 11
_ISB_START: Final = 2
_ISB_END: Final = 3
_ISB_RECEIVED: Final = 4
_ISB_DROPPED: Final = 5
_ISB_DELIVERED: Final = 8

_MAGIC_NANOSECONDS: Final = 0xA1B23C4D


def _option(code: int, value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise ValueError(
            f"a text of {len(value)} bytes is too long for a recording: at"
            " most 65,535 are possible"
        )
    padding = bytes(-len(value) % 4)
    return struct.pack("=HH", code, len(value)) + value + padding


def _text(code: int, text: str | None) -> bytes:
    return _option(code, text.encode()) if text else b""


def _block(kind: int, fields: bytes, options: bytes) -> bytes:
    body = fields + options + struct.pack("=HH", _END, 0)
    length = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + length + body + length


def section(comment: str | None) -> bytes:
    """The first block of a pcapng file."""
    from .. import __version__

    fields = struct.pack("=IHHQ", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH)
    system = os.uname()
    options = (
        _text(_COMMENT, comment)
        + _text(_SHB_OS, f"{system.sysname} {system.release}")
        + _text(_SHB_APPLICATION, f"rawmmsg {__version__}")
    )
    return _block(_SECTION, fields, options)


def interface(described: Interface) -> bytes:
    """The block of an interface."""
    fields = struct.pack("=HHI", described.link_type, 0, described.snap_length)
    options = _text(_IF_NAME, described.name)
    options += _text(_IF_DESCRIPTION, described.description)
    if described.filter:
        # The first byte says that it is an expression.
        options += _option(_IF_FILTER, b"\0" + described.filter.encode())
    options += _option(_IF_TSRESOL, bytes([_NANOSECONDS]))
    return _block(_INTERFACE, fields, options)


def statistics(
    number: int,
    began_ns: int,
    now_ns: int,
    received: int,
    dropped: int,
    written: int,
) -> bytes:
    """The block of statistics of an interface."""
    counts = {
        _ISB_RECEIVED: received,
        _ISB_DROPPED: dropped,
        _ISB_DELIVERED: written,
    }
    options = _option(_ISB_START, _time(began_ns))
    options += _option(_ISB_END, _time(now_ns))
    for code, count in counts.items():
        options += _option(code, struct.pack("=Q", count))
    fields = struct.pack("=I", number) + _time(now_ns)
    return _block(_STATISTICS, fields, options)


def pcap_header(link_type: int, snap_length: int) -> bytes:
    """The header of a pcap file with times in nanoseconds."""
    return struct.pack(
        "=IHHiIII", _MAGIC_NANOSECONDS, 2, 4, 0, 0, snap_length, link_type
    )


def _time(ns: int) -> bytes:
    return struct.pack("=II", ns >> 32, ns & 0xFFFF_FFFF)
