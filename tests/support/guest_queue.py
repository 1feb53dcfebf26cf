"""A split virtqueue from the driver's side (virtio 1.2, section 2.7), as Linux
uses it (drivers/virtio/virtio_ring.c). Everything in the rings can also be
written directly, as no driver should.
"""

import random
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from rawmmsg.vhost import RingAddresses
from support.guest_memory import GuestMemory

NEXT: Final = 1
WRITE: Final = 2
INDIRECT: Final = 4

NO_INTERRUPT: Final = 1
NO_NOTIFY: Final = 1

DESCRIPTOR: Final = struct.Struct("<QIHH")
_USED: Final = struct.Struct("<II")

_barrier: Final = threading.Lock()


class Part(NamedTuple):
    """A buffer of a chain."""

    address: int
    length: int


@dataclass
class _Chain:
    token: Any
    descriptors: list[int]
    table: int | None  # the indirect one


class DriverQueue:
    """`order`: takes descriptors in random order, as after some time."""

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        *,
        event_index: bool = False,
        base: int = 0,
        order: random.Random | None = None,
    ) -> None:
        self.memory = memory
        self.size = size
        self.event_index = event_index
        self.base = base
        self.descriptors = memory.allocate(size * DESCRIPTOR.size, 16)
        self.available = memory.allocate(6 + 2 * size, 2)
        self.used = memory.allocate(6 + 8 * size, 4)
        self._free = list(range(size))
        if order is not None:
            order.shuffle(self._free)
        self._chains: dict[int, _Chain] = {}
        self.reset()

    def reset(self) -> None:
        """Begins anew, with rings that the device does not use."""
        self.forget()
        self.memory.write(self.descriptors, bytes(self.size * DESCRIPTOR.size))
        self.memory.write(self.available, bytes(6 + 2 * self.size))
        self.memory.write(self.used, bytes(6 + 8 * self.size))
        self.restart_at(self.base)

    def restart_at(self, base: int) -> None:
        """Sets all indexes, while the device does not use the rings."""
        self.next_available = self.next_used = self._kicked = base
        self.set_available_index(base)
        self.memory.store(self.used + 2, base)

    @property
    def addresses(self) -> RingAddresses:
        """As the front end tells them."""
        user = self.memory.user_address
        return RingAddresses(
            descriptors=user(self.descriptors),
            used=user(self.used),
            available=user(self.available),
        )

    @property
    def room(self) -> int:
        """How many descriptors are free."""
        return len(self._free)

    @property
    def in_flight(self) -> int:
        """How many chains the device has."""
        return len(self._chains)

    # Making buffers available

    def add(
        self,
        parts: Sequence[Part],
        token: Any = None,
        *,
        writable: bool = False,
        indirect: bool = False,
    ) -> int:
        """Adds a chain; publish() shows it to the device. Returns its head."""
        flags = WRITE if writable else 0
        if indirect:
            made = [self._free.pop()]
            table = self.memory.allocate(len(parts) * DESCRIPTOR.size, 16)
            self._link(table, range(len(parts)), parts, flags)
            self.write_descriptor(
                made[0], table, len(parts) * DESCRIPTOR.size, INDIRECT
            )
        else:
            made = [self._free.pop() for _ in parts]
            table = None
            self._link(self.descriptors, made, parts, flags)
        assert made[0] not in self._chains
        self._chains[made[0]] = _Chain(token, made, table)
        self.put_available(made[0])
        return made[0]

    def _link(
        self,
        table: int,
        indexes: Sequence[int],
        parts: Sequence[Part],
        flags: int,
    ) -> None:
        for i, (at, part) in enumerate(zip(indexes, parts, strict=True)):
            last = i + 1 == len(parts)
            self.memory.write(
                table + at * DESCRIPTOR.size,
                DESCRIPTOR.pack(
                    *part,
                    flags if last else flags | NEXT,
                    0 if last else indexes[i + 1],
                ),
            )

    def publish(self) -> None:
        """Shows the device what was added."""
        self.set_available_index(self.next_available)

    def wants_kick(self) -> bool:
        """Whether the device wants to be notified of what was published since
        the last call."""
        full_barrier()
        before, self._kicked = self._kicked, self.next_available
        if not self.event_index:
            return not self.memory.load(self.used) & NO_NOTIFY
        event = self.memory.load(self.used + 4 + 8 * self.size)
        new = self.next_available
        return (new - event - 1) & 0xFFFF < (new - before) & 0xFFFF

    # What the device has used

    @property
    def used_index(self) -> int:
        return self.memory.load(self.used + 2)

    def take_used(self) -> Iterator[tuple[Any, int]]:
        """The tokens of chains that were used, and how many bytes the device
        says it has written."""
        while (got := self.take_one()) is not None:
            yield got

    def take_one(self) -> tuple[Any, int] | None:
        index = self.used_index
        if index == self.next_used:
            return None
        ahead = (index - self.next_used) & 0xFFFF
        assert ahead <= len(self._chains), (
            f"the device has used {ahead} chains, but it had only"
            f" {len(self._chains)}"
        )
        at = self.used + 4 + 8 * (self.next_used % self.size)
        head, length = _USED.unpack(self.memory.read(at, _USED.size))
        chain = self._chains.pop(head, None)
        assert chain is not None, f"the device has used {head}, not a head"
        if chain.table is not None:
            self.memory.free(chain.table)
        self._free += chain.descriptors
        self.next_used = (self.next_used + 1) & 0xFFFF
        return chain.token, length

    def ask_for_call(self) -> bool:
        """Asks for a notification, and returns whether there is something
        already."""
        if self.event_index:
            self.set_used_event(self.next_used)
        else:
            self.memory.store(self.available, 0)
        full_barrier()
        return self.used_index != self.next_used

    def set_used_event(self, index: int) -> None:
        """With EVENT_IDX: asks for a notification when this entry is used."""
        self.memory.store(self.available + 4 + 2 * self.size, index)

    def refuse_calls(self) -> None:
        """Asks for no notifications; with EVENT_IDX, for one at an entry that
        is not reached before the index has wrapped around."""
        if self.event_index:
            self.set_used_event(self.next_used + 0x8000)
        else:
            self.memory.store(self.available, NO_INTERRUPT)

    # Parts, written directly

    def write_descriptor(
        self, index: int, address: int, length: int, flags: int, next: int = 0
    ) -> None:
        self.memory.write(
            self.descriptors + index * DESCRIPTOR.size,
            DESCRIPTOR.pack(address, length, flags, next),
        )

    def put_available(self, head: int) -> None:
        """Puts a head into the ring. The device does not look at it before
        publish()."""
        at = self.available + 4 + 2 * (self.next_available % self.size)
        self.memory.store(at, head)
        self.next_available = (self.next_available + 1) & 0xFFFF

    def set_available_index(self, index: int) -> None:
        self.memory.store(self.available + 2, index)

    def forget(self) -> list[Any]:
        """Takes everything back from a device that has stopped. Returns the
        tokens of what was not used."""
        tokens = []
        for chain in self._chains.values():
            if chain.table is not None:
                self.memory.free(chain.table)
            self._free += chain.descriptors
            tokens.append(chain.token)
        self._chains.clear()
        return tokens


def full_barrier() -> None:
    """Orders a store before a later load: locks are read-modify-write
    operations, with acquire and release."""
    with _barrier:
        pass
