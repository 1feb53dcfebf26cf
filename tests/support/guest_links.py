"""How a guest of the tests' own reaches its device: rings in this process, or
a vhost-user back end in any.
"""

import os
import select
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rawmmsg.vhost import Feature, Region, Rings
from rawmmsg.vhost.memory import Memory, map_memory
from support import WAIT
from support.calls import eventually
from support.front_end import (
    GET_FEATURES,
    GET_PROTOCOL_FEATURES,
    GET_VRING_BASE,
    NEED_REPLY,
    PROTOCOL_FEATURES,
    REPLY_ACK,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_CALL,
    SET_VRING_ENABLE,
    SET_VRING_KICK,
    SET_VRING_NUM,
    VERSION,
    FrontEnd,
    addresses,
    number,
    state,
    table,
)
from support.guest_driver import (
    NEGOTIATED,
    RECEIVE,
    RINGS,
    TRANSMIT,
    Guest,
    Received,
)
from support.guest_memory import GuestMemory, GuestRegion


class Link(ABC):
    """A guest and its device. Kicks and calls are eventfds."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._calls = [_eventfd() for _ in RINGS]
        guest.notify = self.kick

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.guest.notify = lambda index: None
        for descriptor in self._calls:
            os.close(descriptor)

    def start(self, bases: Sequence[int] | None = None) -> None:
        """Tells the device everything, and enables both rings. `bases`: where
        they go on, if not where they began."""
        if bases is None:
            bases = [self.guest.base] * len(RINGS)
        self.set_features(self.guest.features)
        self.share()
        for index in RINGS:
            self.start_ring(index, bases[index])
            self.set_enabled(index, True)

    @abstractmethod
    def set_features(self, features: Feature) -> None: ...

    @abstractmethod
    def share(self, regions: Sequence[GuestRegion] = ()) -> None:
        """Sends the memory table, or another one of the same file."""

    @abstractmethod
    def start_ring(self, index: int, base: int) -> None: ...

    @abstractmethod
    def stop_ring(self, index: int) -> int:
        """Stops the ring. Returns the index at which it continues."""

    @abstractmethod
    def set_enabled(self, index: int, enabled: bool) -> None: ...

    @abstractmethod
    def kick(self, index: int) -> None: ...

    def calls(self, index: int) -> int:
        """How often the device has notified since the last time."""
        try:
            return os.eventfd_read(self._calls[index])
        except BlockingIOError:
            return 0

    def call_descriptor(self, index: int) -> int:
        return self._calls[index]


class RingsLink(Link):
    """Rings in this process, told as a session tells them. A kick is a call
    of kicked()."""

    def __init__(
        self, rings: Rings, guest: Guest, bases: Sequence[int] | None = None
    ) -> None:
        super().__init__(guest)
        self.rings = rings
        self._mapped: Memory | None = None
        self.start(bases)

    def close(self) -> None:
        for index in RINGS:
            self.rings.stop(index)
            self.rings.set_call(index, None)
            self.set_enabled(index, False)
        self.rings.set_features(0)
        self.rings.set_memory(())
        self._unmap()
        super().close()

    def set_features(self, features: Feature) -> None:
        self.rings.set_features(features)

    def share(self, regions: Sequence[GuestRegion] = ()) -> None:
        memory = self.guest.memory
        asked = [
            Region(
                guest_address=one.guest,
                size=one.size,
                user_address=one.user,
                offset=one.offset,
            )
            for one in regions or memory.regions
        ]
        mapped = map_memory(
            asked, [memory.descriptor] * len(asked), trust=False
        )
        try:
            self.rings.set_memory(mapped.regions)
        except ValueError:
            mapped.close()
            raise
        self._unmap()
        self._mapped = mapped

    def _unmap(self) -> None:
        """Fails if the rings still use the memory."""
        before, self._mapped = self._mapped, None
        if before is not None:
            before.close()

    def start_ring(self, index: int, base: int) -> None:
        queue = self.guest.queues[index]
        self.rings.set_size(index, queue.size)
        self.rings.set_addresses(index, queue.addresses)
        self.rings.set_base(index, base)
        self.rings.set_call(index, self._calls[index])
        self.rings.start(index)

    def stop_ring(self, index: int) -> int:
        return self.rings.stop(index)

    def set_enabled(self, index: int, enabled: bool) -> None:
        self.rings.set_enabled(index, enabled)

    def kick(self, index: int) -> None:
        self.rings.kicked(index)


class VhostUserLink(Link):
    """A back end at the other end of a UNIX stream socket."""

    def __init__(
        self,
        sock: socket.socket,
        guest: Guest,
        bases: Sequence[int] | None = None,
    ) -> None:
        super().__init__(guest)
        self.sock = sock
        self.front = FrontEnd(sock)
        self._kicks = [_eventfd() for _ in RINGS]
        self.offered = Feature(0)
        self._negotiate()
        self.start(bases)

    def close(self) -> None:
        """Disconnects, as a front end that was killed."""
        self.sock.close()
        for descriptor in self._kicks:
            os.close(descriptor)
        super().close()

    def _negotiate(self) -> None:
        self.offered = Feature(self.ask(GET_FEATURES))
        assert self.ask(GET_PROTOCOL_FEATURES) & REPLY_ACK
        self.front.send(SET_PROTOCOL_FEATURES, number(REPLY_ACK))
        self.front.send(SET_OWNER)
        # Super-frames of UDP need Linux 6.2.
        missing = self.guest.features & ~self.offered & ~Feature.HOST_USO
        assert not missing, f"the back end does not offer {missing!r}"
        self.guest.features &= self.offered

    def ask(
        self,
        request: int,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
        flags: int = VERSION,
    ) -> int:
        """Sends a request that has a reply. Returns the last number of it."""
        self.front.send(request, payload, descriptors, flags=flags)
        ready = select.select([self.sock], [], [], WAIT)[0]
        assert ready, f"the back end does not answer request {request}"
        replied, answer = self.front.reply()
        assert replied == request
        size = 4 if request == GET_VRING_BASE else 8
        return int.from_bytes(answer[-size:], sys.byteorder)

    def tell(
        self,
        request: int,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
    ) -> None:
        """Sends a request, and waits until it is done."""
        result = self.ask(request, payload, descriptors, VERSION | NEED_REPLY)
        assert result == 0, f"the back end has refused request {request}"

    def set_features(self, features: Feature) -> None:
        self.tell(SET_FEATURES, number(features | PROTOCOL_FEATURES))

    def share(self, regions: Sequence[GuestRegion] = ()) -> None:
        memory = self.guest.memory
        asked = table(*(regions or memory.regions))
        files = [memory.descriptor] * len(regions or memory.regions)
        self.tell(SET_MEM_TABLE, asked, files)

    def start_ring(self, index: int, base: int) -> None:
        queue = self.guest.queues[index]
        where = queue.addresses
        self.tell(SET_VRING_NUM, state(index, queue.size))
        self.tell(SET_VRING_BASE, state(index, base))
        self.tell(
            SET_VRING_ADDR,
            addresses(index, (where.descriptors, where.used, where.available)),
        )
        self.tell(SET_VRING_CALL, number(index), [self._calls[index]])
        self.tell(SET_VRING_KICK, number(index), [self._kicks[index]])

    def stop_ring(self, index: int) -> int:
        return self.ask(GET_VRING_BASE, state(index, 0))

    def set_enabled(self, index: int, enabled: bool) -> None:
        self.tell(SET_VRING_ENABLE, state(index, int(enabled)))

    def kick(self, index: int) -> None:
        os.eventfd_write(self._kicks[index], 1)

    # Waiting for the device

    def wait(self, index: int, is_done: Callable[[], bool]) -> None:
        """Waits for notifications of the ring until the condition is true."""
        queue = self.guest.queues[index]
        while True:
            found = queue.ask_for_call()
            if is_done():
                return
            if found:
                continue
            ready = select.select([self._calls[index]], [], [], WAIT)[0]
            assert ready, f"the device does not notify of ring {index}"
            self.calls(index)

    def receive(self, count: int) -> list[Received]:
        """Waits for so many frames. Their buffers are available again."""
        frames: list[Received] = []

        def is_done() -> bool:
            frames.extend(self.guest.received(limit=count - len(frames)))
            return len(frames) == count

        self.wait(RECEIVE, is_done)
        return frames

    def finish_sent(self) -> None:
        """Waits until the device has used every frame that was sent."""

        def is_done() -> bool:
            self.guest.finish_sent()
            return not self.guest.transmit.in_flight

        self.wait(TRANSMIT, is_done)

    @property
    def is_disconnected(self) -> bool:
        return self.front.is_disconnected


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def connect(path: Path | str) -> socket.socket:
    """A connection to a back end that listens there, sooner or later."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def is_connected() -> bool:
        return sock.connect_ex(str(path)) == 0

    eventually(is_connected, f"no back end listens at {path}")
    return sock


@contextmanager
def guest_at(
    path: Path | str,
    features: Feature = NEGOTIATED,
    *,
    buffers: Sequence[int] = (1536,) * 256,
    size: int = 256,
) -> Iterator[VhostUserLink]:
    """A guest with receive buffers, whose back end listens at the path."""
    with GuestMemory() as memory:
        guest = Guest(memory, features, size)
        with VhostUserLink(connect(path), guest) as link:
            guest.post(buffers)
            yield link
        memory.check()
