"""What a hostile front end sends: messages that are often right."""

import random
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from support.front_end import (
    GET_FEATURES,
    GET_PROTOCOL_FEATURES,
    GET_QUEUE_NUM,
    GET_VRING_BASE,
    NEED_REPLY,
    NET_MTU,
    NET_SET_MTU,
    NO_DESCRIPTOR,
    PAGE,
    PROTOCOL_FEATURES,
    REPLY_ACK,
    RESET_OWNER,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_CALL,
    SET_VRING_ENABLE,
    SET_VRING_ERR,
    SET_VRING_KICK,
    SET_VRING_NUM,
    USER,
    VERSION,
    addresses,
    number,
    state,
    table,
)
from vhost_descriptors import PAGES, Passed

from rawmmsg.vhost import OFFERED

RING_PAGES: Final = 3
"""Of each ring: the descriptors, the available ring, the used ring."""

_EDGES: Final = (0, 1, 8, 255, 256, PAGE, 65535, 65536, USER, 2**32, 2**63)
_SIZES: Final = (1, 2, 4, 16, 64, 256)
_BITS: Final = [1 << bit for bit in range(64) if OFFERED >> bit & 1]


class Sent(NamedTuple):
    data: bytes
    descriptors: list[int]


class Messages:
    """Makes what one front end sends."""

    def __init__(self, draw: random.Random, passed: Passed) -> None:
        self._draw = draw
        self._passed = passed

    def set_up(self) -> tuple[list[int], list[Sent]]:
        """What makes both rings run, and their sizes."""
        draw = self._draw
        sent = [
            self._pack(SET_OWNER),
            self._pack(SET_PROTOCOL_FEATURES, number(REPLY_ACK | NET_MTU)),
            self._pack(SET_FEATURES, number(self._features())),
            self._pack(SET_MEM_TABLE, *self.whole_memory()),
        ]
        sizes = draw.choices(_SIZES, k=2)
        for index, size in enumerate(sizes):
            kick, call = draw.choices(self._passed.eventfds, k=2)
            sent += [
                self._pack(SET_VRING_NUM, state(index, size)),
                self._pack(SET_VRING_BASE, state(index, 0)),
                self._pack(SET_VRING_ADDR, ring_addresses(index)),
                self._pack(SET_VRING_CALL, number(index), [call]),
                self._pack(SET_VRING_KICK, number(index), [kick]),
                self._pack(SET_VRING_ENABLE, state(index, 1)),
            ]
        return sizes, sent

    def any(self) -> Sent:
        """One message."""
        draw = self._draw
        if not draw.randrange(40):
            size = draw.randrange(1, 64)
            return Sent(draw.randbytes(size), self._descriptors())
        request, payload, descriptors = self._request()
        flags = VERSION
        if draw.randrange(20):
            flags |= NEED_REPLY
        if not draw.randrange(40):
            descriptors = self._descriptors()
        size = len(payload)
        if not draw.randrange(100):
            size = draw.choice([0, 1, size - 1, size + 1, 264, 2**32 - 1])
        message = struct.pack("=III", request, flags, size % 2**32) + payload
        return Sent(self._mutated(message), descriptors)

    def whole_memory(self) -> tuple[bytes, list[int]]:
        """A table of all memory of the guest, in up to 8 regions."""
        draw = self._draw
        ends = sorted(draw.sample(range(1, PAGES), draw.randrange(8)))
        # The rings lie in one region, and most buffers in another.
        ends = [end for end in ends if end >= 2 * RING_PAGES]
        starts = [0, *ends]
        regions = [
            (start * PAGE, (end - start) * PAGE, USER + start * PAGE)
            for start, end in zip(starts, [*ends, PAGES], strict=True)
        ]
        packed = [(*region, region[0]) for region in regions]
        draw.shuffle(packed)
        return table(*packed), [self._passed.guest] * len(packed)

    def _pack(
        self,
        request: int,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
    ) -> Sent:
        flags = VERSION | NEED_REPLY
        header = struct.pack("=III", request, flags, len(payload))
        return Sent(header + payload, list(descriptors))

    def _mutated(self, message: bytes) -> bytes:
        draw = self._draw
        match draw.randrange(300):
            case 0:
                return message[: draw.randrange(1, len(message) + 1)]
            case 1:
                return message + message[: draw.randrange(len(message))]
            case 2:
                changed = bytearray(message)
                changed[draw.randrange(len(message))] ^= 1 << draw.randrange(8)
                return bytes(changed)
            case _:
                return message

    def _descriptors(self) -> list[int]:
        draw = self._draw
        count = draw.choice([0, 1, 1, 1, 2, 8, 9, 253])
        return [self._passed.any() for _ in range(count)]

    def _number(self) -> int:
        draw = self._draw
        near = draw.choice(_EDGES) + draw.randrange(-1, 2)
        return near % 2**64

    def _features(self) -> int:
        draw = self._draw
        wanted = draw.randrange(4)
        chosen = sum(bit for bit in _BITS if wanted > draw.randrange(3))
        return chosen | PROTOCOL_FEATURES * (draw.randrange(8) > 0)

    def _request(self) -> tuple[int, bytes, list[int]]:
        draw = self._draw
        if not draw.randrange(30):
            return draw.randrange(50), number(self._number()), []
        request = draw.choice(
            (
                *(SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR),
                *(SET_VRING_BASE, SET_VRING_ENABLE, GET_VRING_BASE),
                *(SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR),
                *(SET_FEATURES, SET_PROTOCOL_FEATURES, NET_SET_MTU),
                *(SET_OWNER, RESET_OWNER, GET_FEATURES),
                *(GET_PROTOCOL_FEATURES, GET_QUEUE_NUM),
            )
        )
        index = draw.choice([0, 0, 0, 1, 1, 1, 2, 255])
        if request == SET_MEM_TABLE:
            return request, *self._memory()
        if request in (SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR):
            return request, *self._eventfd(index)
        return request, self._payload(request, index), []

    def _payload(self, request: int, index: int) -> bytes:
        draw = self._draw
        word = self._number() % 2**32
        states = {
            SET_VRING_NUM: (*_SIZES, 32768, word),
            SET_VRING_BASE: (0, 0, 65535, word),
            SET_VRING_ENABLE: (0, 1, 1, word),
            GET_VRING_BASE: (0, word),
        }
        numbers = {
            SET_FEATURES: (*3 * [self._features()], self._number()),
            SET_PROTOCOL_FEATURES: (8, 24, 24, self._number()),
            NET_SET_MTU: (1500, 9000, self._number()),
        }
        if request in states:
            return state(index, draw.choice(states[request]))
        if request in numbers:
            return number(draw.choice(numbers[request]))
        if request == SET_VRING_ADDR:
            if draw.randrange(6):
                return ring_addresses(index)
            where = (self._number(), self._number(), self._number())
            return addresses(index, where)
        return b""

    def _eventfd(self, index: int) -> tuple[bytes, list[int]]:
        draw = self._draw
        match draw.randrange(8):
            case 0:
                return number(index | NO_DESCRIPTOR), []
            case 1:
                return number(index), [self._passed.any()]
            case _:
                return number(index), [draw.choice(self._passed.eventfds)]

    def _memory(self) -> tuple[bytes, list[int]]:
        draw = self._draw
        if draw.randrange(3):
            return self.whole_memory()
        regions = []
        for position in range(draw.choice([1, 1, 2, 8])):
            start = position * 2 * PAGE
            region = [start, PAGE, USER + start, draw.choice([0, PAGE])]
            if not draw.randrange(10):
                region[draw.randrange(4)] = self._number()
            regions.append((region[0], region[1], region[2], region[3]))
        return table(*regions), [self._passed.any() for _ in regions]


def ring_addresses(index: int) -> bytes:
    """Ring 0 lies in the first pages, ring 1 behind it."""
    start = USER + index * RING_PAGES * PAGE
    return addresses(index, (start, start + 2 * PAGE, start + PAGE))
