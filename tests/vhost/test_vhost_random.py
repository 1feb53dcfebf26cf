"""Random messages: each is carried out or refused, nothing waits, and nothing
stays open. RecordedRings checks that the rings are used as they must be."""

import os
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from support.front_end import (
    GET_VRING_BASE,
    NEED_REPLY,
    PAGE,
    SET_FEATURES,
    SET_MEM_TABLE,
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
    VERSION_1,
    Connected,
    addresses,
    connected,
    number,
    state,
    table,
)

_EDGES = [0, 1, 2, 8, 255, 256, 4096, 65535, 65536, USER, 2**32, 2**63]


class _Peer:
    """Makes messages that are often right."""

    def __init__(self, pair: Connected, seed: int) -> None:
        self._random = random.Random(seed)
        self._pair = pair
        self._eventfds = [pair.eventfd() for _ in range(3)]
        pair.negotiate()
        self._files = [pair.file(size * PAGE) for size in (1, 4, 16)]

    def step(self) -> None:
        draw = self._random
        request, payload, descriptors = self._message()
        flags = VERSION
        if draw.randrange(20):
            flags |= NEED_REPLY
        if not draw.randrange(200):
            payload = payload[: draw.randrange(len(payload) + 1)]
        if not draw.randrange(40):
            descriptors = [*descriptors, draw.choice(self._files)]
        message = struct.pack("=III", request, flags, len(payload)) + payload
        if not draw.randrange(500):
            message = message[: draw.randrange(1, len(message) + 1)]
        socket.send_fds(self._pair.front.sock, [message], descriptors)

    def kick(self) -> None:
        kicks = self._pair.session.kicks
        if kicks:
            self._pair.session.kicked(self._random.choice([*kicks.values()]))

    def read(self) -> None:
        with suppress(BlockingIOError):
            self._pair.front.sock.recv(1 << 16, socket.MSG_DONTWAIT)

    def _number(self) -> int:
        draw = self._random
        near = draw.choice(_EDGES) + draw.randrange(-1, 2)
        return near % 2**64

    def _message(self) -> tuple[int, bytes, list[int]]:
        draw = self._random
        index = draw.choice([0, 0, 1, 1, 2, 255])
        word = self._number() % 2**32
        match draw.randrange(53) // 4:
            case 0:
                return self._memory()
            case 1 | 2:
                size = draw.choice([1, 256, 1024, 32768, word])
                return SET_VRING_NUM, state(index, size), []
            case 3 | 4 | 5:
                where = (USER, USER + 4096, USER + 8192)
                if not draw.randrange(6):
                    where = (self._number(), self._number(), self._number())
                return SET_VRING_ADDR, addresses(index, where), []
            case 6 | 7:
                flag = draw.choice([0, 0, 0, 0x100])
                eventfds = [] if flag else [draw.choice(self._eventfds)]
                request = draw.choice(
                    [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR]
                )
                return request, number(index | flag), eventfds
            case 8:
                return SET_VRING_BASE, state(index, word), []
            case 9:
                return GET_VRING_BASE, state(index % 2, 0), []
            case 10:
                return SET_VRING_ENABLE, state(index, draw.randrange(2)), []
            case 11:
                bits = draw.choice([VERSION_1, VERSION_1 | 1 << 30])
                return SET_FEATURES, number(bits), []
            case 12:
                return SET_PROTOCOL_FEATURES, number(draw.choice([8, 24])), []
            case _:
                return draw.randrange(1, 22), number(self._number()), []

    def _memory(self) -> tuple[int, bytes, list[int]]:
        draw = self._random
        regions = []
        files = []
        for position in range(draw.choice([1, 1, 1, 2, 8])):
            size = PAGE
            offset = draw.choice([0, 0, PAGE])
            start = position * 2 * PAGE
            region = (start, size, USER + start, offset)
            if not draw.randrange(10):
                region = (self._number(), size, self._number(), offset)
            regions.append(region)
            files.append(draw.choice(self._files[1:]))
        return SET_MEM_TABLE, table(*regions), files


def test_random_messages(scaled: Callable[[int], int]) -> None:
    reached: set[str] = set()
    for seed in range(scaled(300)):
        with connected() as pair:
            peer = _Peer(pair, seed)
            goes_on = True
            for _ in range(100):
                peer.step()
                goes_on = pair.session.serve()
                if not goes_on:
                    break
                for descriptor in pair.session.kicks:
                    os.fstat(descriptor)  # it is open
                peer.kick()
                peer.read()
                if pair.rings.running:
                    reached.add("running")
            reached.add("on" if goes_on else "ended")
    assert reached == {"running", "on", "ended"}


def test_random_bytes(scaled: Callable[[int], int]) -> None:
    for seed in range(scaled(300)):
        draw = random.Random(seed)
        with connected() as pair:
            eventfd = pair.eventfd()
            for _ in range(20):
                data = draw.randbytes(draw.randrange(1, 64))
                given = [eventfd] * draw.randrange(3)
                with suppress(BrokenPipeError):
                    socket.send_fds(pair.front.sock, [data], given)
                if not pair.session.serve():
                    break
            assert pair.reports
