"""Interfaces that come and go."""

import errno
import os
from collections.abc import Callable

from ..._rawmmsg import PacketBatch, RawSocket, _GuestRings
from ...bpf import Program
from ...constants import SUPER_FRAME
from .. import filters
from ..drops import Dropped
from .interfaces import Interface
from .port import Port

__all__ = ["WaitingInterface"]

# There is no such interface, or no such network namespace.
_MISSING = (errno.ENODEV, errno.ENOENT)


class WaitingInterface(Interface):
    """An interface, with a new socket each time when it has been made. It may
    be missing when the port is opened.

    `notice` is called with a sentence when it has come or gone.
    """

    def __init__(
        self,
        name: str,
        interface: str,
        netns: str | None,
        notice: Callable[[str], object],
    ) -> None:
        super().__init__(name, interface, netns)
        self._notice = notice
        self._program: Program | None = None
        self._is_there = False
        self._missed = 0
        self._discarded: PacketBatch | None = None
        # What the sockets before this one have counted.
        self._received = self._batches = self._sent = self._drops = 0
        self.recvmmsg_into = self._receive
        self.sendmmsg = self._send

    def open(self, expression: str | None) -> None:
        self._program = filters.for_interface(expression)
        self._find()

    def take(self, sock: RawSocket) -> None:
        super().take(sock)
        # A direction keeps them, while sockets come and go.
        self.recvmmsg_into = self._receive
        self.sendmmsg = self._send

    def close(self) -> None:
        if self._is_there:
            super().close()

    def _find(self) -> bool:
        """Returns whether the interface is there."""
        try:
            self.take(self._open_socket(self._program))
        except OSError as error:
            if error.errno not in _MISSING:
                raise
            return False
        self._is_there = True
        return True

    def _lose(self) -> None:
        """The interface has been deleted."""
        counts = self.sock.statistics()
        self._received += counts.packets_received
        self._batches += counts.batches_received
        self._sent += counts.packets_sent
        self._drops += counts.packets_dropped or 0
        self._is_there = False
        self.mtu = 0
        self.sock.close()
        self._notice(f"{self.name} has disappeared; waiting for it")

    def tend(self) -> bool:
        if self._is_there:
            try:
                return super().tend()
            except OSError as error:
                self._lose_after(error)
                return True
        if not self._find():
            return False
        self._notice(f"{self.name} is ready")
        return True

    def _lose_after(self, error: OSError) -> None:
        """Raises an error that does not mean that the interface is gone."""
        if error.errno != errno.ENODEV:
            raise error
        self._lose()

    # Frames

    def _receive(self, batch: PacketBatch) -> int:
        if not self._is_there:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self.sock.recvmmsg_into(batch)

    def receive_to(self, rings: _GuestRings) -> int:
        return super().receive_to(rings) if self._is_there else 0

    def can_receive_after(self, error: OSError) -> bool:
        try:
            return super().can_receive_after(error)
        except OSError as raised:
            self._lose_after(raised)
            return False

    def _send(self, batch: PacketBatch, start: int = 0) -> int:
        """Takes all frames while there is no interface."""
        if self._is_there:
            try:
                return self.sock.sendmmsg(batch, start)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                self._lose()
        self._missed += len(batch) - start
        return len(batch) - start

    def send_from(self, rings: _GuestRings) -> int:
        if self._is_there:
            try:
                return super().send_from(rings)
            except OSError as error:
                self._lose_after(error)
        if self._discarded is None:
            self._discarded = PacketBatch(8, SUPER_FRAME)
        count = rings.recvmmsg_into(self._discarded)
        self._missed += count
        return count

    # Waiting

    @property
    def tells_of_peers(self) -> bool:
        return True

    def missing(self) -> str | None:
        if self._is_there:
            return super().missing()
        return f"there is no interface {self.interface}"

    @property
    def descriptor(self) -> int:
        return super().descriptor if self._is_there else -1

    def room_descriptor(self) -> int:
        return self.descriptor

    def bytes_queued(self) -> int:
        return super().bytes_queued() if self._is_there else 0

    def is_same(self, other: Port) -> bool:
        if isinstance(other, WaitingInterface) and not self._is_there:
            return (self.interface, self.netns) == (
                other.interface,
                other.netns,
            )
        return self._is_there and super().is_same(other)

    @property
    def index(self) -> int:
        return super().index if self._is_there else 0

    # Counters

    @property
    def received(self) -> int:
        return self._received + (super().received if self._is_there else 0)

    @property
    def batches(self) -> int:
        return self._batches + (super().batches if self._is_there else 0)

    @property
    def kernel_drops(self) -> int | None:
        now = super().kernel_drops if self._is_there else self.lost
        return self._drops + (now or 0)

    @property
    def sent(self) -> int:
        return self._sent + (super().sent if self._is_there else 0)

    def dropped_sent(self) -> Dropped:
        return Dropped(link_down=self._missed)
