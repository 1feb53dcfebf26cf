"""The output of a port: it takes frames of all other ports, and never lets one
of them wait."""

import errno
import math
from collections.abc import Callable

from ..._rawmmsg import PacketBatch
from ..drops import Dropped, Mark
from ..outgoing import Unchanged
from ..ports import Port, VhostUser
from ..sending import Sender
from .forms import Cutter, Merger
from .queues import Queue

__all__ = ["Sink", "make_sink"]


class _Outgoing(Unchanged):
    """Tells which frames have not been sent yet."""

    has_marked = False
    """Whether frames may be marked that were dropped before one in front of
    them was sent."""

    def skip(self) -> int:
        self.has_marked |= self.passed > 0
        return super().skip()

    @property
    def rest(self) -> tuple[PacketBatch, int]:
        """The batch, and the index of the first such frame."""
        return self._batch, self._at

    @property
    def marked(self) -> list[int]:
        """The indices of frames in the rest of the batch that were dropped
        and counted already."""
        return self._marked_in(self._batch, self._at)

    def _marked_in(self, batch: PacketBatch, start: int) -> list[int]:
        types = getattr(batch, "gso_types", None)
        if types is None or not self.has_marked:
            return []
        return [i for i in range(start, len(batch)) if types[i] == _DROPPED]

    @property
    def left(self) -> int:
        left = self._count - self._at - len(self.marked)
        if self._more is not None:
            left += len(self._more) - len(self._marked_in(self._more, 0))
        return left


class Sink:
    """Sends frames, or copies them to a queue while the port takes none.

    For the loop: if `is_waiting`, call resume() when the descriptor `room` is
    writable (-1: none), and at the time `due` at the latest. `note` is called
    if that has changed.
    """

    source: Port | None = None  # it reads from none
    accepts = False

    def __init__(
        self,
        port: Port,
        queue: Queue,
        merges: bool,
        note: Callable[[], object],
    ) -> None:
        self.port = port
        self.ports = (port,)
        self.copies = 0
        """Frames that came from other ports."""
        self.is_waiting = False
        self._queue = queue
        self._note = note
        self._dropped = Dropped()
        self._outgoing = _Outgoing(port)
        self._load = self._outgoing.load
        self._sender = Sender(
            port, self._outgoing, self._dropped, self._look_ahead
        )
        self._send_loaded = self._sender.send
        self._in_use: list[PacketBatch] = []  # taken from the queue
        self._takes_offloads = port.has_offloads
        self._cutter = None if self._takes_offloads else Cutter()
        self._merger = (
            Merger(port) if merges and port.takes_super_frames else None
        )

    @property
    def room(self) -> int:
        return self._sender.room

    @property
    def due(self) -> float:
        return self._sender.due

    def send(self, batch: PacketBatch, has_offloads: bool) -> None:
        """Sends all frames, or keeps copies of them, or drops them. They need
        what `has_offloads` says: their offload headers."""
        self.copies += len(batch)
        if has_offloads is self._takes_offloads:
            self._put(batch)
        elif has_offloads and self._cutter is not None:
            for segments in self._cutter.cut(batch):
                self._put(segments)
        elif self._merger is not None:
            self._put(self._merger.merge(batch))
        else:
            self._put(batch)

    def _put(self, batch: PacketBatch) -> None:
        if self.is_waiting:
            self._keep(batch, 0, len(batch))
            return
        self._load(batch)
        try:
            if not self._send_loaded():
                self._wait()
        except OSError as error:
            _check_gone(error)

    def _wait(self) -> None:
        """The port takes no more frames for now: copies those that are left,
        because their batch will be used again."""
        batch, start = self._outgoing.rest
        marked = self._outgoing.marked
        self.is_waiting = True
        self._outgoing.has_marked = False
        self._load(_NOTHING)
        for stop in (*marked, len(batch)):
            self._keep(batch, start, stop)
            start = stop + 1
        self._load_next()
        self._note()

    def _keep(self, batch: PacketBatch, start: int, stop: int) -> None:
        lost = self._queue.add(batch, start, stop, self._outgoing.left)
        self._dropped.queue_full += lost

    def _load_next(self) -> bool:
        """Continues with the next batch of the queue, if there is one."""
        batch = self._queue.take()
        if batch is None:
            return False
        self._in_use.append(batch)
        self._load(batch)
        return True

    def _look_ahead(self) -> PacketBatch | None:
        """Returns a batch behind the one that waits."""
        if len(self._in_use) > 1:
            first = self._in_use[0]
            if self._outgoing.needs(first):
                return None
            self._queue.give_back(self._in_use.pop(0))
        batch = self._queue.take()
        if batch is not None:
            self._in_use.append(batch)
        return batch

    def resume(self) -> None:
        """Continues after a wait."""
        if not self.is_waiting:
            return
        send = self._sender.resume
        while self._sends(send):
            self._release()
            if not self._load_next():
                self.is_waiting = False
                break
            send = self._send_loaded
        self._note()

    def _sends(self, send: Callable[[], bool]) -> bool:
        try:
            return send()
        except OSError as error:
            _check_gone(error)
            return True

    def _release(self) -> None:
        self._load(_NOTHING)
        while self._in_use:
            self._queue.give_back(self._in_use.pop())

    def forward(self) -> bool:
        return False

    def wake(self) -> bool:
        return False

    def finish(self) -> None:
        """Drops the frames that still wait."""
        if self.is_waiting:
            self._sender.abandon()
            self._dropped.queue_full += self._queue.clear()
            self.is_waiting = False
        self.port.finish()

    # Statistics

    @property
    def waiting(self) -> int:
        """Frames that wait."""
        return len(self._queue) + self._outgoing.left

    @property
    def sent(self) -> int:
        return self.port.sent

    @property
    def made(self) -> int:
        """How many more frames there are after segmentation than before."""
        cutter = self._cutter
        return self.port.cut + (0 if cutter is None else cutter.made)

    @property
    def joined(self) -> int:
        """How many fewer frames there are after merging than before."""
        return 0 if self._merger is None else self._merger.joined

    @property
    def dropped(self) -> Dropped:
        refused = 0 if self._cutter is None else self._cutter.refused
        return (
            self._dropped
            + self.port.dropped_sent()
            + Dropped(malformed=refused)
        )


class GuestSink(Sink):
    """Copies frames into the memory of a guest. While it has no buffers, they
    wait in the queue. The rings hold a few more."""

    port: VhostUser

    def __init__(
        self,
        port: VhostUser,
        queue: Queue,
        merges: bool,
        note: Callable[[], object],
    ) -> None:
        super().__init__(port, queue, merges, note)
        self._is_full = False
        self._room_at = math.inf

    @property
    def due(self) -> float:
        return min(self._room_at, super().due)

    def _put(self, batch: PacketBatch) -> None:
        super()._put(batch)
        self._look_for_room()

    def _look_for_room(self) -> None:
        """Asks the guest to tell when it has buffers again."""
        rings = self.port.rings
        if not (rings.is_full or self._is_full):
            return
        self._is_full = rings.is_full
        self._room_at = math.inf
        if self._is_full and rings.ask_for_kick(0):
            self._room_at = -math.inf
        self._note()

    def resume(self) -> None:
        self._room_at = math.inf
        self.port.send_held()
        if not self.port.rings.is_full:
            super().resume()
        self._look_for_room()

    def wake(self) -> bool:
        if not self._is_full:
            return False
        self.resume()
        return True


_NOTHING = PacketBatch(1, 1)
_DROPPED = int(Mark.DROPPED)


def _check_gone(error: OSError) -> None:
    """Raises the error, unless it means that the interface has disappeared.
    Then its frames were dropped, and Port.tend() will say so."""
    if error.errno != errno.ENODEV:
        raise error


def make_sink(
    port: Port, queue: Queue, merges: bool, note: Callable[[], object]
) -> Sink:
    if isinstance(port, VhostUser):
        return GuestSink(port, queue, merges, note)
    return Sink(port, queue, merges, note)
