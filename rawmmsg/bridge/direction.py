"""One direction of the bridge: what the loop and the statistics know of it."""

from abc import ABC, abstractmethod

from .drops import Dropped
from .ports import Port

__all__ = ["Direction"]


class Direction(ABC):
    """Moves frames from `source` to `sink`. No call waits.

    The loop reads:

    accepts     whether to call forward() when the source is readable
    room        call resume() when this descriptor is writable (-1: none)
    due         call resume() at this time at the latest
    """

    def __init__(self, source: Port, sink: Port) -> None:
        self.source = source
        self.sink = sink
        self.ports = source, sink
        self.accepts = True
        self._dropped = Dropped()

    @property
    @abstractmethod
    def room(self) -> int: ...

    @property
    @abstractmethod
    def due(self) -> float: ...

    @abstractmethod
    def forward(self) -> bool:
        """Receives and sends. Returns whether an attribute that the loop
        reads has changed."""

    @abstractmethod
    def resume(self) -> None:
        """Continues after a wait."""

    @abstractmethod
    def wake(self) -> bool:
        """Continues after an event at a guest: it may have frames, or buffers
        for frames. Returns whether an attribute that the loop reads has
        changed."""

    @abstractmethod
    def finish(self) -> None:
        """Drops the frames that are still to be sent."""

    # Statistics

    @property
    def received(self) -> int:
        return self.source.received

    @property
    @abstractmethod
    def bytes_received(self) -> int: ...

    @property
    def batches(self) -> int:
        return self.source.batches

    @property
    def kernel_drops(self) -> int | None:
        """Frames that the kernel dropped before they were received. None if
        it does not count them."""
        return self.source.kernel_drops

    @property
    def dropped(self) -> Dropped:
        return (
            self._dropped
            + self.source.dropped_received()
            + self.sink.dropped_sent()
        )

    @property
    def sent(self) -> int:
        """Frames sent, counted as before they were merged."""
        return self.sink.sent + self.joined

    @property
    def joined(self) -> int:
        """How many fewer frames there are after merging than before."""
        return 0

    @property
    def gained(self) -> int:
        """How many more frames there are after segmentation than before."""
        return self.sink.cut
