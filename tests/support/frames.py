"""Ethernet frames that the tests send, and can tell again."""

import zlib
from typing import Final

BROADCAST: Final = b"\xff" * 6
SOURCE: Final = bytes.fromhex("020000000001")
"""A locally administered address that no interface has."""
LOCAL_EXPERIMENTAL: Final = 0x88B5
"""An EtherType for experiments (IEEE 802): no kernel answers it."""

HEADER_SIZE: Final = 14
NUMBERED_SIZE: Final = HEADER_SIZE + 8 + 4
"""The least size of a numbered frame: header, number, checksum."""

# Byte k of frame i's filler is (i + k) % 256.
_FILLER: Final = bytes(range(256)) * 258


def frame(
    payload: bytes = b"",
    dst: bytes = BROADCAST,
    src: bytes = SOURCE,
    ethertype: int = LOCAL_EXPERIMENTAL,
) -> bytes:
    """An Ethernet frame, not padded."""
    return dst + src + ethertype.to_bytes(2, "big") + payload


def numbered(
    number: int,
    size: int = 64,
    *,
    dst: bytes = BROADCAST,
    src: bytes = SOURCE,
    ethertype: int = LOCAL_EXPERIMENTAL,
) -> bytes:
    """A frame of `size` bytes that carries its number and a checksum of all
    that it holds, and that differs from its neighbours in every byte of the
    filler between the two."""
    if not NUMBERED_SIZE <= size <= NUMBERED_SIZE + 65536:
        raise ValueError(f"a numbered frame cannot have {size} bytes")
    first = number % 256
    filler = _FILLER[first : first + size - NUMBERED_SIZE]
    body = frame(number.to_bytes(8, "big") + filler, dst, src, ethertype)
    return body + zlib.crc32(body).to_bytes(4, "big")


def number_of(packet: bytes | memoryview) -> int:
    """The number of a frame made by numbered(); AssertionError for one that
    is not exactly as it was made."""
    checksum = int.from_bytes(packet[-4:], "big")
    assert len(packet) >= NUMBERED_SIZE, f"{len(packet)} bytes arrived"
    assert zlib.crc32(packet[:-4]) == checksum, (
        f"corrupted: {bytes(packet).hex()}"
    )
    return int.from_bytes(packet[HEADER_SIZE : HEADER_SIZE + 8], "big")
