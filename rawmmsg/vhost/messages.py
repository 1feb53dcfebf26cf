"""The messages of the vhost-user protocol (QEMU, docs/interop/vhost-user.rst).

Every number has the byte order of the machine.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = [
    "HEADER_SIZE",
    "LARGEST_PAYLOAD",
    "MAX_REGIONS",
    "Header",
    "ProtocolError",
    "RefusedRequest",
    "Region",
    "Request",
    "RingAddresses",
    "pack_reply",
    "parse_header",
    "parse_number",
    "parse_regions",
    "parse_ring_addresses",
    "parse_ring_descriptor",
    "parse_ring_state",
]

HEADER_SIZE: Final = 12
MAX_REGIONS: Final = 8

_HEADER: Final = struct.Struct("=III")
_NUMBER: Final = struct.Struct("=Q")
_RING_STATE: Final = struct.Struct("=II")
_RING_ADDRESSES: Final = struct.Struct("=IIQQQQ")
_REGION_COUNT: Final = struct.Struct("=I4x")
_REGION: Final = struct.Struct("=QQQQ")

LARGEST_PAYLOAD: Final = _REGION_COUNT.size + MAX_REGIONS * _REGION.size

# The bits of `flags` in the header.
_VERSION: Final = 0x1
_VERSION_MASK: Final = 0x3
_REPLY: Final = 0x4
_NEED_REPLY: Final = 0x8

# The bits of the number that comes with an eventfd.
_RING_INDEX_MASK: Final = 0xFF
_NO_DESCRIPTOR: Final = 0x100


class ProtocolError(Exception):
    """The peer broke the protocol in such a manner that the connection cannot
    continue."""


class RefusedRequest(Exception):
    """A well-formed request that is not carried out. It has changed
    nothing."""


class Request(IntEnum):
    """The requests that a front end may send to this back end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    NET_SET_MTU = 20


_SIZES: Final = {
    Request.GET_FEATURES: 0,
    Request.SET_FEATURES: _NUMBER.size,
    Request.SET_OWNER: 0,
    Request.RESET_OWNER: 0,
    Request.SET_VRING_NUM: _RING_STATE.size,
    Request.SET_VRING_ADDR: _RING_ADDRESSES.size,
    Request.SET_VRING_BASE: _RING_STATE.size,
    Request.GET_VRING_BASE: _RING_STATE.size,
    Request.SET_VRING_KICK: _NUMBER.size,
    Request.SET_VRING_CALL: _NUMBER.size,
    Request.SET_VRING_ERR: _NUMBER.size,
    Request.GET_PROTOCOL_FEATURES: 0,
    Request.SET_PROTOCOL_FEATURES: _NUMBER.size,
    Request.GET_QUEUE_NUM: 0,
    Request.SET_VRING_ENABLE: _RING_STATE.size,
    Request.NET_SET_MTU: _NUMBER.size,
}


class Header(NamedTuple):
    request: Request
    needs_reply: bool
    size: int  # of the payload


@dataclass(frozen=True)
class RingAddresses:
    """Where the parts of a ring are, as addresses of the front end's own
    process. The table of Region objects translates them."""

    descriptors: int
    used: int
    available: int


@dataclass(frozen=True)
class Region:
    """A part of the guest's memory: its address in the guest, its size, its
    address in the front end's process, and its offset in the file."""

    guest_address: int
    size: int
    user_address: int
    offset: int


def parse_header(data: bytes | bytearray) -> Header:
    """Parses and checks a header: what follows it can be read safely."""
    number, flags, size = _HEADER.unpack(data)
    try:
        request = Request(number)
    except ValueError:
        raise ProtocolError(
            f"request {number} is not one of those that were offered"
        ) from None
    if flags & _VERSION_MASK != _VERSION:
        raise ProtocolError(
            f"{request.name}: version {flags & _VERSION_MASK} of the protocol"
            f" is not supported (only version {_VERSION})"
        )
    if flags & _REPLY:
        raise ProtocolError(
            f"{request.name}: a reply, but nothing was requested"
        )
    _check_size(request, size)
    return Header(request, bool(flags & _NEED_REPLY), size)


def _check_size(request: Request, size: int) -> None:
    if request is Request.SET_MEM_TABLE:
        if not _REGION_COUNT.size <= size <= LARGEST_PAYLOAD:
            raise ProtocolError(
                f"{request.name}: payload of {size} bytes, not"
                f" {_REGION_COUNT.size} to {LARGEST_PAYLOAD}"
            )
    elif size != _SIZES[request]:
        raise ProtocolError(
            f"{request.name}: payload of {size} bytes, not {_SIZES[request]}"
        )


def parse_number(payload: bytes) -> int:
    (number,) = _NUMBER.unpack(payload)
    return int(number)


def parse_ring_state(payload: bytes) -> tuple[int, int]:
    """Returns a ring's index and a number."""
    index, number = _RING_STATE.unpack(payload)
    return index, number


def parse_ring_descriptor(payload: bytes) -> tuple[int, bool]:
    """Returns a ring's index, and whether a descriptor comes with it."""
    number = parse_number(payload)
    return number & _RING_INDEX_MASK, not number & _NO_DESCRIPTOR


def parse_ring_addresses(payload: bytes) -> tuple[int, RingAddresses]:
    """Returns the ring's index and its addresses. Nothing is logged, because
    VHOST_F_LOG_ALL is not offered; the flags and the log address are about
    the log alone."""
    index, _, descriptors, used, available, _ = _RING_ADDRESSES.unpack(payload)
    return index, RingAddresses(descriptors, used, available)


def parse_regions(payload: bytes) -> list[Region]:
    """Parses a memory table. It may be longer than its regions: some front
    ends send all the space that they have for regions."""
    (count,) = _REGION_COUNT.unpack_from(payload)
    if not 1 <= count <= MAX_REGIONS:
        raise RefusedRequest(f"regions: {count}, not 1 to {MAX_REGIONS}")
    if len(payload) < _REGION_COUNT.size + count * _REGION.size:
        raise RefusedRequest(
            f"regions: {count}, more than {len(payload)} bytes can hold"
        )
    return [
        Region(
            *_REGION.unpack_from(
                payload, _REGION_COUNT.size + number * _REGION.size
            )
        )
        for number in range(count)
    ]


def pack_reply(
    request: Request, number: int, index: int | None = None
) -> bytes:
    """Makes a reply that consists of a number, or of a ring's index and a
    number."""
    payload = (
        _NUMBER.pack(number)
        if index is None
        else _RING_STATE.pack(index, number)
    )
    return _HEADER.pack(request, _VERSION | _REPLY, len(payload)) + payload
