"""What all kinds of ports have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from ..._rawmmsg import PacketBatch
from ..drops import Dropped

__all__ = ["Port", "PortClosed"]


class PortClosed(Exception):
    """The peer of a port has closed the connection."""


class Port(ABC):
    """One side of a bridge. It has `recvmmsg_into` and `sendmmsg` from open()
    until close(). They never wait."""

    recvmmsg_into: Callable[[PacketBatch], int]
    sendmmsg: Callable[[PacketBatch, int], int]

    # Seconds after an event at this port in which the loop does not sleep.
    spin: float = 0.0

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def open(self, expression: str | None) -> None:
        """Opens the port for frames that match the filter expression.

        Raises OSError, FilterError, or PortError if the port does not carry
        Ethernet frames. Nothing is left open then.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the port, and removes what open() has made."""

    @abstractmethod
    def is_same(self, other: "Port") -> bool:
        """Returns whether both ports are the same socket, interface or
        guest."""

    @abstractmethod
    def missing(self) -> str | None:
        """Returns why no frame can pass yet, if that is known."""

    @abstractmethod
    def tend(self) -> bool:
        """Checks the port, a few times each second. Returns whether `readers`
        has changed. Raises OSError (ENODEV) if an interface has
        disappeared."""

    # What kind of port it is

    @property
    def is_interface(self) -> bool:
        return False

    @property
    def tells_of_peers(self) -> bool:
        """Whether it prints itself that its peer has come or gone."""
        return False

    @property
    def makes_path(self) -> bool:
        """Whether open() makes a path in the file system."""
        return False

    @property
    def is_guest(self) -> bool:
        """Whether the port is the memory of a guest. Its `readers` tell when
        it has frames, and when it can take frames after EAGAIN."""
        return False

    @property
    def has_offloads(self) -> bool:
        """Whether frames come and go with offload headers."""
        return False

    @property
    def may_truncate(self) -> bool:
        """Whether the end of a message that does not fit in a row of a batch
        is lost."""
        return False

    @property
    def takes_super_frames(self) -> bool:
        """Whether frames for this port may be merged into super-frames."""
        return False

    @property
    def has_end(self) -> bool:
        """Whether an empty message means that the peer has closed the
        connection."""
        return False

    @property
    @abstractmethod
    def mtu(self) -> int:
        """The longest packet that merging may make for this port."""

    # Waiting

    @property
    @abstractmethod
    def descriptor(self) -> int:
        """The descriptor that is readable when there are frames. -1: there is
        none, or none now."""

    @property
    def readers(self) -> Mapping[int, Callable[[], bool]]:
        """Descriptors to watch besides `descriptor`, and what to call if one
        is readable. The call returns whether `readers` has
        changed."""
        return {}

    def can_receive_after(self, error: OSError) -> bool:
        """Returns whether the next call of `recvmmsg_into` can receive, after
        this error. Raises an error that ends the bridge."""
        return False

    @abstractmethod
    def room_descriptor(self) -> int:
        """Returns the descriptor to poll for POLLOUT after EAGAIN."""

    @abstractmethod
    def bytes_queued(self) -> int:
        """Returns how much memory is in use by frames that were sent, but have
        not left this machine yet."""

    # Senders that are not the peer

    @property
    def strangers(self) -> int:
        """How many messages came from them."""
        return 0

    def is_peer(self, address: object) -> bool:
        """Returns whether the port takes frames from this address. It is
        called for each frame with the flag FOREIGN."""
        return True

    # Counters

    @property
    @abstractmethod
    def received(self) -> int:
        """Frames received."""

    @property
    @abstractmethod
    def batches(self) -> int:
        """System calls, or copies of one batch, that received them."""

    @property
    def kernel_drops(self) -> int | None:
        """Frames that the kernel dropped before they were received. None if
        it does not count them."""
        return None

    @property
    @abstractmethod
    def sent(self) -> int:
        """Frames sent. Segments that the port has made count as frames."""

    @property
    def cut(self) -> int:
        """How many more frames there are after the port has cut super-frames
        than before."""
        return 0

    def dropped_received(self) -> Dropped:
        """Counts frames that the port has received, but dropped at once."""
        return Dropped()

    def dropped_sent(self) -> Dropped:
        """Counts frames that `sendmmsg` has taken, but that were dropped."""
        return Dropped()

    @abstractmethod
    def finish(self) -> None:
        """Drops the frames that it has taken, but has not sent yet."""
