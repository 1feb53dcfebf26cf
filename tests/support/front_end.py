"""A vhost-user front end: what QEMU does over the socket, with memory and
eventfds of its own. It can also send what no front end should.

The formats are written down a second time here, so that the tests compare the
back end with the specification (QEMU, docs/interop/vhost-user.rst), not with
itself.
"""

import fcntl
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from rawmmsg.vhost import MappedRegion, RingAddresses, Session
from rawmmsg.vhost.connection import Connection
from rawmmsg.vhost.descriptors import Closer
from support.calls import eventually
from support.linux import same_descriptors

GET_FEATURES: Final = 1
SET_FEATURES: Final = 2
SET_OWNER: Final = 3
RESET_OWNER: Final = 4
SET_MEM_TABLE: Final = 5
SET_VRING_NUM: Final = 8
SET_VRING_ADDR: Final = 9
SET_VRING_BASE: Final = 10
GET_VRING_BASE: Final = 11
SET_VRING_KICK: Final = 12
SET_VRING_CALL: Final = 13
SET_VRING_ERR: Final = 14
GET_PROTOCOL_FEATURES: Final = 15
SET_PROTOCOL_FEATURES: Final = 16
GET_QUEUE_NUM: Final = 17
SET_VRING_ENABLE: Final = 18
NET_SET_MTU: Final = 20

VERSION: Final = 1
REPLY: Final = 4
NEED_REPLY: Final = 8
NO_DESCRIPTOR: Final = 0x100

REPLY_ACK: Final = 1 << 3
NET_MTU: Final = 1 << 4
PROTOCOL_FEATURES: Final = 1 << 30
VERSION_1: Final = 1 << 32

PAGE: Final = os.sysconf("SC_PAGESIZE")

# Where the guest's memory and the rings are in the process of the front end.
USER: Final = 0x7F0000000000
RING_SIZE: Final = 256
ADDRESSES: Final = (USER, USER + 0x2000, USER + 0x1000)

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def number(value: int) -> bytes:
    return struct.pack("=Q", value)


def state(index: int, value: int) -> bytes:
    return struct.pack("=II", index, value)


def addresses(
    index: int, where: tuple[int, int, int] = ADDRESSES, flags: int = 0
) -> bytes:
    """`where`: of the descriptors, the used ring, the available ring."""
    return struct.pack("=IIQQQQ", index, flags, *where, 0)


def table(*regions: tuple[int, int, int, int], count: int = -1) -> bytes:
    """Each region: guest address, size, user address, offset."""
    packed = b"".join(struct.pack("=QQQQ", *region) for region in regions)
    if count < 0:
        count = len(regions)
    return struct.pack("=II", count, 0) + packed


def memory_file(size: int, seals: int = _SEALS) -> int:
    """A memfd, sealed as QEMU seals it."""
    descriptor = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class FrontEnd:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(
        self,
        request: int,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
        *,
        flags: int = VERSION,
        size: int | None = None,
    ) -> None:
        """`size`: another one than the payload has."""
        length = len(payload) if size is None else size
        message = struct.pack("=III", request, flags, length) + payload
        socket.send_fds(self.sock, [message], list(descriptors))

    def reply(self) -> tuple[int, bytes]:
        """The request that the next reply is for, and its payload."""
        header = self._read(12)
        request, flags, size = struct.unpack("=III", header)
        assert flags == VERSION | REPLY, f"a reply has the flags {flags:#x}"
        return request, self._read(size)

    def _read(self, size: int) -> bytes:
        data = self.sock.recv(size, socket.MSG_DONTWAIT) if size else b""
        assert len(data) == size, "a reply was cut"
        return data

    @property
    def has_reply(self) -> bool:
        return bool(select.select([self.sock], [], [], 0)[0])

    @property
    def is_disconnected(self) -> bool:
        """Whether the back end has ended the connection. A reset is the end,
        too: messages were left that the back end did not read."""
        try:
            return not self.sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except ConnectionResetError:
            return True
        except BlockingIOError:
            return False


@dataclass
class RecordedRings:
    """Rings that note what they are told."""

    memory: Sequence[MappedRegion] = ()
    features: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    addresses: dict[int, RingAddresses] = field(default_factory=dict)
    bases: dict[int, int] = field(default_factory=dict)
    call_descriptors: dict[int, int | None] = field(default_factory=dict)
    enabled: dict[int, bool] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    kicks: list[int] = field(default_factory=list)
    # What they answer.
    has_buffers: bool = True
    reason: str = ""  # why they reject an address or a table

    def set_features(self, features: int) -> None:
        assert not self.running
        self.features = features

    def set_memory(self, regions: Sequence[MappedRegion]) -> None:
        if self.reason:
            raise ValueError(self.reason)
        assert regions or not self.running
        self.memory = regions

    def set_size(self, index: int, size: int) -> None:
        assert index not in self.running
        self.sizes[index] = size

    def set_addresses(self, index: int, addresses: RingAddresses) -> None:
        assert index not in self.running
        self.addresses[index] = addresses

    def set_base(self, index: int, base: int) -> None:
        assert index not in self.running
        self.bases[index] = base

    def start(self, index: int) -> None:
        assert index not in self.running
        assert self.memory
        if self.reason:
            raise ValueError(self.reason)
        self.running.add(index)

    def set_call(self, index: int, descriptor: int | None) -> None:
        self.call_descriptors[index] = descriptor

    def set_enabled(self, index: int, enabled: bool) -> None:
        self.enabled[index] = enabled

    def kicked(self, index: int) -> bool:
        self.kicks.append(index)
        return self.has_buffers

    def stop(self, index: int) -> int:
        self.running.discard(index)
        return self.bases.get(index, 0)


class Connected:
    """A session, and the front end that talks to it."""

    def __init__(self, *, trust_memory: bool = False) -> None:
        self._opened = ExitStack()
        ours, theirs = socket.socketpair()
        self.front = FrontEnd(self._opened.enter_context(theirs))
        self.rings = RecordedRings()
        self.reports: list[str] = []
        self.session = Session(
            Connection(ours, Closer()),
            self.rings,
            self.reports.append,
            trust_memory=trust_memory,
        )
        self._opened.callback(self.session.close)

    def close(self) -> None:
        self.rings.reason = ""
        self._opened.close()

    def eventfd(self) -> int:
        """An eventfd that is closed at the end."""
        descriptor = os.eventfd(0)
        self._opened.callback(os.close, descriptor)
        return descriptor

    def file(self, size: int) -> int:
        """Memory that is closed at the end."""
        descriptor = memory_file(size)
        self._opened.callback(os.close, descriptor)
        return descriptor

    def tell(
        self,
        request: int,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
    ) -> bool:
        """Sends a request and lets the session handle it. Returns whether the
        session continues. There is no reply."""
        self.front.send(request, payload, descriptors)
        goes_on = self.session.serve()
        assert not goes_on or not self.front.has_reply, (
            "a reply that nobody asked for"
        )
        return goes_on

    def ask(
        self,
        request: int,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
    ) -> int:
        """Sends a request that needs a reply; returns the number in it."""
        flags = VERSION | NEED_REPLY
        self.front.send(request, payload, descriptors, flags=flags)
        assert self.session.serve(), self.reports
        replied, answer = self.front.reply()
        assert replied == request
        assert not self.front.has_reply, "two replies to one request"
        return int.from_bytes(answer, sys.byteorder)

    def refused(
        self,
        request: int,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
    ) -> str:
        """Sends a request that is refused, but not the end of the session;
        returns the reason."""
        known = len(self.reports)
        assert self.ask(request, payload, descriptors) == 1
        (reason,) = self.reports[known:]
        return reason

    def negotiate(self, features: int = VERSION_1 | PROTOCOL_FEATURES) -> None:
        assert self.tell(SET_PROTOCOL_FEATURES, number(REPLY_ACK | NET_MTU))
        assert self.ask(SET_FEATURES, number(features)) == 0

    def share(self, size: int = 16 * PAGE) -> None:
        """Sends a memory table of one region."""
        regions = table((0, size, USER, 0))
        assert self.ask(SET_MEM_TABLE, regions, [self.file(size)]) == 0

    def start(self, index: int) -> int:
        """Sets a ring up like QEMU; returns the eventfd to kick it."""
        kick = self.eventfd()
        assert self.ask(SET_VRING_NUM, state(index, RING_SIZE)) == 0
        assert self.ask(SET_VRING_BASE, state(index, 0)) == 0
        assert self.ask(SET_VRING_ADDR, addresses(index)) == 0
        assert self.ask(SET_VRING_KICK, number(index), [kick]) == 0
        return kick


def threads_that_close() -> int:
    """How many threads of back ends wait for descriptors to be closed."""
    return sum(
        thread.name == "rawmmsg-close" for thread in threading.enumerate()
    )


@contextmanager
def nothing_stays_open() -> Iterator[None]:
    """Asserts that the block leaves the same descriptors open, when the back
    end's threads have closed what they were to close."""
    with same_descriptors():
        yield
        eventually(
            lambda: not threads_that_close(), "a descriptor cannot be closed"
        )


@contextmanager
def connected(*, trust_memory: bool = False) -> Iterator[Connected]:
    with nothing_stays_open():
        pair = Connected(trust_memory=trust_memory)
        try:
            yield pair
        finally:
            pair.close()


@contextmanager
def negotiated(*, trust_memory: bool = False) -> Iterator[Connected]:
    """With replies to every request that asks for one."""
    with connected(trust_memory=trust_memory) as pair:
        pair.negotiate()
        yield pair
