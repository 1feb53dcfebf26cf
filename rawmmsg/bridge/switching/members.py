"""A port of a switch: it receives frames, and passes them to the sinks of
other ports."""

import errno
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from ..._rawmmsg import PacketBatch, _FrameSorter
from ..batches import Stacks
from ..drops import Mark, Marked, mark
from ..ports import Port, PortClosed, StreamSocket, VhostUser
from ..receiving import Receiver
from ..sending import PAUSE
from .counts import PortCounts, by_reason
from .decisions import Decision, Decisions, Fate
from .forms import Cutter
from .limit import Limit
from .queues import MOST_FRAMES
from .sinks import Sink
from .vlans import LEFT_OUT, Vlans

__all__ = ["Hook", "Member", "PortRules", "Switchboard", "make_member"]

# How many batches of a guest are forwarded before others get their turn.
_BATCHES: Final = 4

_REASONS: Final = {
    Mark.TOO_SHORT: "malformed",
    Mark.TOO_LONG: "too_long",
    Mark.FROM_STRANGER: "from_strangers",
}

_ALL: Final = Vlans()

Hook = Callable[[str, PacketBatch], Iterable[int] | None]
"""Called with the name of a port and the frames that have arrived there.
Returns the indices of those that are not to be forwarded."""


@dataclass(frozen=True)
class PortRules:
    """What is configured for a port of a switch. `flood`: how many frames per
    second from this port are flooded at most. `queue`: how many frames wait
    for it at most. `is_plain`: super-frames from this port are cut, and
    checksums completed, before anybody sees them."""

    vlans: Vlans = _ALL
    is_isolated: bool = False
    flood: float | None = None
    queue: int = MOST_FRAMES
    is_plain: bool = False


class Switchboard:
    """What the ports of a switch share."""

    def __init__(
        self, decisions: Decisions, stacks: Stacks, hook: Hook | None
    ) -> None:
        self.decisions = decisions
        self.stacks = stacks
        self.hook = hook
        self.sinks: dict[int, Sink] = {}
        self.sorters = {
            batch: _FrameSorter(batch)
            for stack in stacks
            for batch, _ in stack
        }
        self.failed: list[tuple[Port, Exception]] = []
        """Ports that have ended, and why."""
        self.is_in_hook = False
        self._has_changed = False

    def note(self) -> None:
        """What the loop waits for has changed."""
        self._has_changed = True

    def has_changed(self) -> bool:
        """Returns whether it has changed since the last call."""
        has_changed, self._has_changed = self._has_changed, False
        return has_changed


class Member(Receiver):
    """The port with the number `number`. The loop calls it as a direction."""

    room = -1

    def __init__(
        self, board: Switchboard, number: int, port: Port, rules: PortRules
    ) -> None:
        super().__init__(port, board.stacks)
        self.source = port
        self.ports = (port,)
        self.number = number
        self.rules = rules
        self.accepts = True
        self.dropped: Counter[str] = Counter()
        """Frames that were received but not passed to a decision."""
        self.sent_in = 0
        """Frames that the program has added to those received."""
        self._again_at = math.inf
        self._board = board
        self._limit = None if rules.flood is None else Limit(rules.flood)
        self._skip: list[int] = []
        self._made = board.decisions.made[number]
        self._sinks = board.sinks
        self._sorters = board.sorters
        self._has_offloads = port.has_offloads
        self._cutter: Cutter | None = None
        self._uncut = 0  # frames that are in `dropped`, and were not cut
        if rules.is_plain and port.has_offloads:
            self._cutter = Cutter()
            segments = self._cutter.segments
            own = {segments: _FrameSorter(segments)}
            self._sorters = {**board.sorters, **own}

    @property
    def due(self) -> float:
        return self._again_at

    def forward(self) -> bool:
        """Receives one batch, and passes its frames on."""
        slot = self._stack[-1]
        try:
            self._receive(slot)
        except OSError as error:
            return self._receive_failed(error)
        if self._cutter is None:
            self._take(slot[0])
        else:
            for segments in self._cutter.cut(slot[0]):
                self._take(segments)
        if self._ends:
            self._fail(PortClosed(f"{self.source.name}: the peer has closed"))
        return self._board.has_changed()

    def _take(self, batch: PacketBatch) -> None:
        skip = self._skip
        if self._board.hook is not None:
            skip = self._ask_hook(self._board.hook, batch)
        if skip:
            self._skip = []
            self.distribute(batch, self._has_offloads, skip)
        else:
            self.distribute(batch, self._has_offloads)

    def _ask_hook(self, hook: Hook, batch: PacketBatch) -> list[int]:
        """Returns the indices of all frames that are not to be forwarded."""
        count = len(batch)
        self._board.is_in_hook = True
        try:
            chosen = hook(self.source.name, batch)
        finally:
            self._board.is_in_hook = False
        if len(batch) != count:
            raise ValueError(
                f"on_frames got {count} frames of {self.source.name} and left"
                f" {len(batch)}: to drop frames, return their indices; to send"
                " more, call send() later"
            )
        skip = set(self._skip)
        taken = set(chosen or ()) - skip
        for index in taken:
            if not 0 <= index < count:
                raise IndexError(
                    f"on_frames returned the index {index}, but got"
                    f" {count} frames of {self.source.name}"
                )
        self.dropped["hook"] += len(taken)
        return sorted(skip | taken)

    def _receive_failed(self, error: OSError) -> bool:
        try:
            if self.source.can_receive_after(error):
                return False
        except OSError as fatal:
            self._fail(fatal)
            return True
        # The socket was readable but had no packet, or the error is about a
        # datagram that was sent earlier (ECONNREFUSED).
        self.accepts = False
        self._again_at = monotonic() + PAUSE
        return True

    def _fail(self, error: Exception) -> None:
        self.accepts = False
        self._board.failed.append((self.source, error))
        self._board.note()

    def _set_aside(self, batch: PacketBatch, marked: list[Marked]) -> None:
        if self._cutter is not None:
            mark(batch, marked)  # they cannot be cut
            self._uncut += len(dict(marked))
        for index, why in dict(marked).items():
            if self._cutter is None:
                self._skip.append(index)
            self.dropped[_REASONS[why]] += 1

    def resume(self) -> None:
        self._again_at = math.inf
        self.accepts = True

    def wake(self) -> bool:
        return False

    def finish(self) -> None:
        """Nothing to do: no frame waits here."""

    # Distributing

    def add_own(self, batch: PacketBatch) -> None:
        """Passes frames of the program on as if they had arrived."""
        self.sent_in += len(batch)
        self._size_received += sum(batch.lengths[: len(batch)])
        self.distribute(batch, has_offloads=True)

    def distribute(
        self,
        batch: PacketBatch,
        has_offloads: bool,
        skip: list[int] | None = None,
    ) -> None:
        """Passes the frames to the sinks of other ports."""
        sorter = self._sorters[batch]
        keys = sorter.sort(skip) if skip else sorter.sort()
        made = self._made
        try:
            decisions = [made[key] for key in keys]
        except KeyError:
            decide, number = self._board.decisions.decide, self.number
            decisions = [decide(number, key) for key in keys]
        if not decisions:
            return
        first = decisions[0]
        if (
            first.only >= 0
            and not skip
            and not (first.is_flooded and self._limit)
            and decisions.count(first) == len(decisions)
        ):
            first.frames += len(batch)
            self._sinks[first.only].send(batch, has_offloads)
            return
        self._distribute_by_key(sorter, decisions, has_offloads)

    def _distribute_by_key(
        self,
        sorter: _FrameSorter,
        decisions: list[Decision],
        has_offloads: bool,
    ) -> None:
        counts = sorter.counts()
        if self._limit is not None:
            decisions = self._limit_floods(self._limit, decisions, counts)
        for decision, count in zip(decisions, counts, strict=True):
            decision.frames += count
        numbers = {
            number for decision in set(decisions) for number in decision.forms
        }
        sinks = self._sinks
        for number in numbers:
            choices = array(
                "H", [one.forms.get(number, LEFT_OUT) for one in decisions]
            )
            sinks[number].send(sorter.show(choices), has_offloads)

    def _limit_floods(
        self, limit: Limit, decisions: list[Decision], counts: list[int]
    ) -> list[Decision]:
        """Replaces the decisions about frames beyond the limit."""
        return [
            decision
            if not decision.is_flooded or limit.allows(count)
            else self._board.decisions.too_many_flooded(self.number)
            for decision, count in zip(decisions, counts, strict=True)
        ]

    # Statistics

    def counts(self) -> PortCounts:
        """Counts of the frames that have arrived here."""
        dropped = by_reason(self.source.dropped_received())
        dropped.update(self.dropped)
        fates: Counter[Fate] = Counter()
        flooded = 0
        for decision in self._board.decisions.known(self.number):
            fates[decision.fate] += decision.frames
            flooded += decision.frames if decision.is_flooded else 0
        made = 0
        if self._cutter is not None:
            made = self._cutter.made
            dropped["malformed"] += self._cutter.refused - self._uncut
        forwarded = fates.pop(Fate.FORWARDED, 0)
        filtered = fates.pop(Fate.FILTERED, 0)
        dropped.update({fate.value: count for fate, count in fates.items()})
        return PortCounts(
            received=self.source.received - self._ends + self.sent_in + made,
            bytes=self.bytes_received,
            calls=self.source.batches,
            forwarded=forwarded,
            flooded=flooded,
            filtered=filtered,
            dropped=dict(+dropped),
            kernel_dropped=self.source.kernel_drops or 0,
        )


class StreamMember(Member):
    """One system call of a stream socket may receive the frames of several
    batches."""

    source: StreamSocket

    def forward(self) -> bool:
        self._again_at = math.inf
        has_changed = False
        for _ in range(_BATCHES):
            has_changed |= super().forward()
            if not self.source.has_frames:
                return has_changed
        self._again_at = -math.inf
        return True

    def _receive_failed(self, error: OSError) -> bool:
        if error.errno != errno.EAGAIN:
            raise error
        return True  # the connection may have been closed

    def resume(self) -> None:
        super().resume()
        if self.source.has_frames:
            self.forward()


class GuestMember(Member):
    """A guest tells that it has frames, but not when it has no more. So this
    takes frames until there are none, and looks again before it waits: see
    `FromGuest`."""

    source: VhostUser

    def __init__(
        self,
        board: Switchboard,
        number: int,
        port: VhostUser,
        rules: PortRules,
    ) -> None:
        super().__init__(board, number, port, rules)
        self._is_empty = False

    def forward(self) -> bool:
        self._is_empty = False
        self._again_at = math.inf
        has_changed = False
        for _ in range(_BATCHES):
            has_changed |= super().forward()
            if self._is_empty:
                return has_changed
        self._again_at = -math.inf
        return True

    def _receive_failed(self, error: OSError) -> bool:
        if error.errno != errno.EAGAIN:
            raise error
        self._is_empty = not self.source.rings.ask_for_kick(1)
        return False

    def resume(self) -> None:
        super().resume()
        self.forward()

    def wake(self) -> bool:
        return self.forward()


def make_member(
    board: Switchboard, number: int, port: Port, rules: PortRules
) -> Member:
    if isinstance(port, VhostUser):
        return GuestMember(board, number, port, rules)
    if isinstance(port, StreamSocket):
        return StreamMember(board, number, port, rules)
    return Member(board, number, port, rules)
