"""What merge_into() must do with complete frames, in plain Python: a frame is
merged if the cutter would write exactly its bytes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from support.datagrams import CWR, FIN, PSH, TCP, UDP, checksum

ANY_FLOW: Final = "any"
"""A frame that may belong to any flow."""

_NEVER: Final = 0x02 | 0x04 | 0x20  # SYN, RST, URG
_EXTENSIONS: Final = (0, 43, 60)
_FRAGMENT: Final = 44


@dataclass
class Seen:
    """A frame, and where its parts are."""

    frame: bytes
    flow: bytes | str | None = ANY_FLOW
    network: int = 0
    transport: int = 0
    payload: int = 0
    end: int = 0
    protocol: int = 0
    candidate: bool = False

    @property
    def size(self) -> int:
        return len(self.frame) - self.payload

    @property
    def is_ipv4(self) -> bool:
        return self.frame[self.network] >> 4 == 4

    @property
    def is_last(self) -> bool:
        flags = self.frame[self.transport + 13] if self.protocol == TCP else 0
        return bool(flags & (PSH | FIN))


@dataclass
class Piece:
    """What one frame of the target holds."""

    first: Seen
    members: list[Seen] = field(default_factory=list)
    is_open: bool = False

    @property
    def frames(self) -> list[bytes]:
        return [one.frame for one in self.members]

    @property
    def length(self) -> int:
        return self.first.payload + sum(one.size for one in self.members)


def see(frame: bytes) -> Seen:
    seen = Seen(frame, end=len(frame))
    try:
        _see_network(seen)
        _see_transport(seen)
    except (IndexError, struct.error):
        seen.flow = seen.flow if isinstance(seen.flow, bytes) else ANY_FLOW
    return seen


def _see_network(seen: Seen) -> None:
    """Raises IndexError if the frame cannot be read."""
    frame, at, tags = seen.frame, 12, 0
    while frame[at : at + 2] in (b"\x81\0", b"\x88\xa8"):
        at, tags = at + 4, tags + 1
    seen.network = at + 2
    ip = frame[seen.network :]
    ethertype = frame[at : at + 2]
    if tags > 8 or len(ip) < 20 or len(ethertype) < 2:
        raise IndexError
    if ethertype == b"\x08\0" and ip[0] >> 4 == 4 and ip[0] & 15 >= 5:
        length, seen.protocol = int.from_bytes(ip[2:4], "big"), ip[9]
        seen.transport = seen.network + (ip[0] & 15) * 4
        start = seen.network
        if int.from_bytes(ip[6:8], "big") & 0x3FFF:
            raise IndexError
    elif ethertype == b"\x86\xdd" and ip[0] >> 4 == 6 and len(ip) >= 40:
        length, seen.protocol = int.from_bytes(ip[4:6], "big"), ip[6]
        seen.transport = start = seen.network + 40
    else:
        raise IndexError
    if length > len(frame) - start:
        raise IndexError
    seen.end = start + length if length > 0 else len(frame)
    while not seen.is_ipv4 and seen.protocol in _EXTENSIONS:
        header = frame[seen.transport : seen.end]
        if len(header) < 8:
            raise IndexError
        seen.protocol = header[0]
        seen.transport += (header[1] + 1) * 8
    if seen.transport > seen.end or (
        not seen.is_ipv4 and seen.protocol == _FRAGMENT
    ):
        raise IndexError


def _see_transport(seen: Seen) -> None:
    """The flow, and whether a segment may have these bytes."""
    if seen.protocol not in (TCP, UDP):
        seen.flow = None
        return
    header = seen.frame[seen.transport : seen.end]
    if len(header) < 4:
        raise IndexError
    ip = seen.frame[seen.network :]
    addresses = ip[12:20] if seen.is_ipv4 else ip[8:40]
    seen.flow = bytes([seen.protocol]) + addresses + header[:4]
    is_tcp = seen.protocol == TCP
    size = (header[12] >> 4) * 4 if is_tcp else 8
    seen.payload = seen.transport + size
    seen.candidate = (
        20 * is_tcp <= size < len(header)
        and len(header) >= 8
        and not (is_tcp and header[13] & _NEVER)
        and not (seen.is_ipv4 and ip[6] & 0x80)
        and seen.frame == segment(seen, 0, seen)
    )


def segment(first: Seen, i: int, one: Seen) -> bytes:
    """What the cutter writes as segment i of a super-frame that begins with
    `first`, if its payload there is that of `one`."""
    made = bytearray(first.frame[: first.payload])
    made += one.frame[one.payload :]
    ip, header = first.network, first.transport
    if first.is_ipv4:
        ident = int.from_bytes(made[ip + 4 : ip + 6], "big") + i
        struct.pack_into("!HH", made, ip + 2, len(made) - ip, ident % 2**16)
        made[ip + 10 : ip + 12] = b"\0\0"
        value = checksum(bytes(made[ip:header]))
        struct.pack_into("!H", made, ip + 10, value)
        addresses = made[ip + 12 : ip + 20]
    else:
        struct.pack_into("!H", made, ip + 4, len(made) - ip - 40)
        addresses = made[ip + 8 : ip + 40]
    size = len(made) - header
    if first.protocol == UDP:
        struct.pack_into("!H", made, header + 4, size)
    else:
        sequence = int.from_bytes(made[header + 4 : header + 8], "big")
        sequence = (sequence + i * first.size) % 2**32
        struct.pack_into("!I", made, header + 4, sequence)
        flags = made[header + 13] & ~(CWR if i > 0 else 0)
        made[header + 13] = flags | one.frame[one.transport + 13] & (FIN | PSH)
    at = header + (16 if first.protocol == TCP else 6)
    made[at : at + 2] = b"\0\0"
    pseudo = bytes(addresses) + struct.pack("!II", size, first.protocol)
    value = checksum(pseudo + bytes(made[header:]))
    if first.protocol == UDP:
        value = value or 0xFFFF
    struct.pack_into("!H", made, at, value)
    return bytes(made)


def merge(
    frames: Sequence[bytes], room: int, flows: int, segments: int
) -> list[Piece]:
    """The pieces that must be made of the frames, in their order."""
    made: list[Piece] = []
    for frame in frames:
        seen = see(frame)
        concerned = [
            piece
            for piece in made
            if piece.is_open
            and (flows == 1 or seen.flow in (ANY_FLOW, piece.first.flow))
        ]
        if any(
            _extend(piece, seen, room, segments)
            for piece in concerned
            if piece.first.flow == seen.flow
        ):
            continue
        for piece in concerned:
            piece.is_open = False
        opens = seen.candidate and not seen.is_last and segments > 1
        now_open = [piece for piece in made if piece.is_open]
        if opens and len(now_open) == flows:
            now_open[0].is_open = False
        made.append(Piece(seen, [seen], opens))
    return made


def _extend(piece: Piece, seen: Seen, room: int, segments: int) -> bool:
    first = piece.first
    if (
        not seen.candidate
        or seen.size > first.size
        or piece.length + seen.size > min(room, 65_535)
        or segment(first, len(piece.members), seen) != seen.frame
    ):
        return False
    piece.members.append(seen)
    piece.is_open = (
        seen.size == first.size
        and not seen.is_last
        and len(piece.members) < segments
    )
    return True
