"""Files of frames, from which a virtual machine sends and in which it stores
what it receives (pcap-savefile(5))."""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_MAGIC: Final = 0xA1B2C3D4
_ETHERNET: Final = 1
_FILE: Final = struct.Struct("=IHHiIII")
_FRAME: Final = struct.Struct("=IIII")


def write(path: Path, frames: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.write(_FILE.pack(_MAGIC, 2, 4, 0, 0, 65535, _ETHERNET))
        for frame in frames:
            file.write(_FRAME.pack(0, 0, len(frame), len(frame)) + frame)


def read(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    at = _FILE.size
    while at < len(data):
        *_, length, _ = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        yield data[at : at + length]
        at += length
