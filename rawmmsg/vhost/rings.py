"""What a session tells the code that works on the rings."""

from collections.abc import Sequence
from typing import Protocol

from .memory import MappedRegion
from .messages import RingAddresses

__all__ = ["Rings"]


class Rings(Protocol):
    """Two rings: 0, from which the guest receives, and 1, by which it sends.

    No call waits. A session has checked every argument as far as that is
    possible without the rings: the index, the size (a power of two), the
    alignment of the addresses, and that a descriptor is an eventfd. It has not
    checked that the addresses are in the memory table.

    Descriptors and mappings belong to the session. The rings use them until
    the session replaces them, and must not use them when that call has
    returned.
    """

    def set_features(self, features: int) -> None:
        """Sets what the guest negotiated. No ring is running."""

    def set_memory(self, regions: Sequence[MappedRegion]) -> None:
        """Replaces the memory table; the old mappings are removed after the
        call. The rings continue: they translate their addresses anew, and
        complete or forget every buffer of which they still have an address.
        Raises ValueError if a running ring is not in the new table; then the
        old one stays.

        Without regions there is no memory, and no ring is running.
        """

    def set_size(self, index: int, size: int) -> None:
        """Sets the number of descriptors of a stopped ring."""

    def set_addresses(self, index: int, addresses: RingAddresses) -> None:
        """Sets the addresses of a stopped ring. The memory table may follow
        later, so they are translated by start() and set_memory()."""

    def set_base(self, index: int, base: int) -> None:
        """Sets the index in the available ring at which a stopped ring
        continues (16 bits)."""

    def start(self, index: int) -> None:
        """Starts a ring that has a size, addresses, and memory.

        Raises ValueError if the ring is not in the memory table. Buffers that
        are available already must be found without a kick: a guest whose
        back end was restarted does not kick again.
        """

    def set_call(self, index: int, descriptor: int | None) -> None:
        """Sets the eventfd that notifies the guest. None: the guest polls.

        The descriptor is non-blocking, but its flags are shared with the
        front end, which can clear O_NONBLOCK at any time, and can fill the
        counter: then write(2) waits. io_submit(2) with IOCB_FLAG_RESFD
        notifies without waiting (fs/eventfd.c:eventfd_signal()).
        """

    def set_enabled(self, index: int, enabled: bool) -> None:
        """A ring that runs but is disabled gives the guest no frames, and
        drops the frames that the guest sends."""

    def kicked(self, index: int) -> bool:
        """Looks for buffers. Returns whether the guest has made one available
        since the last kick, even if it was found before this one: a guest that
        kicks for each buffer is not a storm."""

    def stop(self, index: int) -> int:
        """Stops a ring when every buffer in flight was used. Returns the
        index in the available ring of the next buffer. Does nothing else if
        the ring is stopped already."""
