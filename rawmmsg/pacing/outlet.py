"""Sends loads past full queues and refused frames.

The kernel reports ENOBUFS both if the queue of a device is full and if
something on the way out drops the frame, such as a filter of tc or a far end
with a smaller MTU (net/core/dev.c:dev_queue_xmit()). If the sender always
waited, a dropped frame would end the call. If it always skipped the frame,
every full queue would cost frames.

While frames of this socket wait in the queue, it is full, and the frame is
tried again. If none waits, the next frames are tried: if one of them passes,
the kernel has refused the first.

What remains: a frame that is tried early can overtake up to LOOK_AHEAD others.
With the qdisc `noqueue` no frame ever waits. If such a device is full, was not
seen full before, and there are no other frames to compare with, up to
LOOK_AHEAD frames in a row are refused by mistake.
"""

import errno
import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

from .loads import Load
from .pace import Pacer
from .sender import REFUSALS, Sender

SHORTEST_PAUSE: Final = 50e-6
LONGEST_PAUSE: Final = 5e-3
"""Seconds between two tries after ENOBUFS, at first and at most."""

PATIENCE: Final = 1.0
"""Seconds of ENOBUFS, without a frame sent, until it is an error, as in
RawSocket.sendmmsg_all()."""

SUSPICION: Final = 0.002
"""Seconds of ENOBUFS after which the frame may be the reason, and not the
queue."""

LOOK_AHEAD: Final = 4
"""How many of the next frames are then tried. If none of them passes, the
queue is full. If there are no other frames to compare with, this many frames
in a row are refused on suspicion."""


class Placed(Protocol):
    """A load, as send_loads() sees it: the position of each frame and of what
    follows the last."""

    @property
    def frames(self) -> int: ...
    @property
    def positions(self) -> Sequence[float]: ...


_L = TypeVar("_L", bound=Placed)
_L_contra = TypeVar("_L_contra", bound=Placed, contravariant=True)


class Target(Protocol[_L_contra]):
    """What send_loads() sends to."""

    def take(self, load: _L_contra) -> None:
        """Continues with this load."""

    def push(self, first: int, last: int) -> int:
        """Sends these frames of the load. Returns where to continue."""

    def settle(self) -> None:
        """Counts what has been sent of the load."""

    def stopped(self) -> bool: ...


class Outlet:
    """Decides what to do with a frame that the kernel does not take."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self._refusing = False  # the last frame that was tried was refused
        # Frames that may still be refused on suspicion; none once the queue
        # has been seen full.
        self._suspicions = LOOK_AHEAD

    def take(self, load: Load) -> None:
        self.sender.take(load)

    def settle(self) -> None:
        self.sender.settle()

    def stopped(self) -> bool:
        return self.sender.stopped()

    def push(self, first: int, last: int) -> int:
        """Sends these frames of the load, and skips those that the kernel
        refuses. Returns the frame to continue with: one before `last` if the
        call was stopped, or if only the frames from `last` on can tell whether
        this one is refused."""
        sender = self.sender
        while first < last and not sender.stopped():
            try:
                taken = sender.send(first, last)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    before = first
                    first = self._wait_or_refuse(first, last, error)
                    if first == before:
                        return first
                elif error.errno in REFUSALS:
                    sender.refuse(first, error)
                    first += 1
                else:
                    raise
            else:
                if taken:
                    self._note_passed()
                first += taken
        return first

    def _wait_or_refuse(self, first: int, last: int, error: OSError) -> int:
        """Tries the first frame until it passes or is refused. Returns the
        frame to continue with, which is `first` if that is still open."""
        sender = self.sender
        few = last - first <= LOOK_AHEAD
        begin = time.monotonic()
        pause = SHORTEST_PAUSE
        while not sender.stopped():
            sender.retries += 1
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            waited = time.monotonic() - begin
            if self._try(first) is None:
                if waited > SUSPICION:  # it was full
                    self._suspicions = 0
                self._note_passed()
                return first + 1
            ours = sender.has_queued()
            if waited > PATIENCE or (
                not ours and (self._refusing or waited > SUSPICION)
            ):
                passed = self._look_ahead(first, last)
                if passed is not None:
                    return self._try_again(first, passed)
                if waited > PATIENCE:
                    if ours:
                        raise error
                    self._refusing = True
                    self._suspicions = LOOK_AHEAD
                elif few and last < sender.load.frames:
                    return first
                elif few and self._suspicions:
                    self._suspicions -= 1
                elif not self._refusing:
                    continue
                sender.refuse(first, error)
                return first + 1
        return first

    def _note_passed(self) -> None:
        """The kernel has taken a frame at the first try, or the queue was
        full: no frame is suspected any more."""
        self._refusing = False
        if self._suspicions:
            self._suspicions = LOOK_AHEAD

    def _look_ahead(self, first: int, last: int) -> int | None:
        """Tries the frames after `first`, and returns the first that the
        kernel takes."""
        refused = self.sender.refused
        for i in range(first + 1, min(first + 1 + LOOK_AHEAD, last)):
            refused.add(i - 1)  # until it is known
            if self._try(i) is None:
                return i
        refused.difference_update(range(first, last))
        return None

    def _try_again(self, first: int, passed: int) -> int:
        """Gives the frames before `passed`, which the kernel has taken, a last
        chance: the queue may have been full until then."""
        for i in range(first, passed):
            self.sender.refused.discard(i)
            error = self._try(i)
            if error is not None:
                self.sender.refuse(i, error)
        self._suspicions = LOOK_AHEAD
        return passed + 1

    def _try(self, i: int) -> OSError | None:
        """Sends this frame alone; returns the error if it is about the frame
        or the queue."""
        try:
            while not self.sender.send(i, i + 1):
                if self.sender.stopped():
                    return TimeoutError(errno.ETIMEDOUT, "stopped")
        except OSError as error:
            if error.errno not in {errno.ENOBUFS, *REFUSALS}:
                raise
            return error
        return None


def send_loads(
    loads: Iterable[_L], target: Target[_L], pacer: Pacer | None, shift: float
) -> float:
    """Sends the loads, at a pace or as fast as possible, and returns the
    position of what follows them. `shift` is added to each position."""
    end = shift
    for load in loads:
        target.take(load)
        if pacer is None:
            target.push(0, load.frames)
        else:
            first = last = 0
            while last < load.frames and pacer.wait(
                shift + load.positions[last]
            ):
                last = pacer.due(load.positions, last, shift)
                first = target.push(first, last)
        target.settle()
        end = shift + load.positions[-1]
        if target.stopped():
            break
    return end
