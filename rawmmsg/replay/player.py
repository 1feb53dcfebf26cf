"""Sends a recording: from loads to results."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import cast

from .. import RawSocket
from ..pacing import SendResult
from ..pacing.merging_sender import MergingSender
from ..pacing.outlet import Outlet, Target, send_loads
from ..pacing.pace import Pace, Pacer
from ..pacing.sender import Sender
from ..pacing.sending import result_of
from .fork import Fork
from .packets import AnyLoad


class Watch:
    """Says when to end, and calls a function every `seconds` meanwhile.

    It is asked between two calls to the kernel, and at least every 0.05 s.
    """

    def __init__(self, duration: float = math.inf) -> None:
        self._duration = duration
        self._end = math.inf
        self._seconds = math.inf
        self._next = math.inf
        self._act: Callable[[], object] = lambda: None

    def every(self, seconds: float, act: Callable[[], object]) -> None:
        self._seconds, self._act = seconds, act

    def start(self) -> None:
        now = monotonic()
        self._end = now + self._duration
        self._next = now + self._seconds

    def stopped(self) -> bool:
        now = monotonic()
        if now >= self._next:
            self._next = max(now, self._next + self._seconds)
            self._act()
        return now >= self._end


@dataclass(frozen=True)
class Merging:
    """How packets are merged.

    once  loads are sent again and again, and each is merged once
    warn  is called if the kernel takes no super-frames of UDP
    """

    once: bool
    warn: Callable[[str], object]


class Player:
    """Sends loads over one socket, or split loads over two."""

    def __init__(
        self,
        sockets: Sequence[RawSocket],
        pace: Pace,
        merging: Merging | None,
        watch: Watch,
    ) -> None:
        self._pace = pace
        self._watch = watch
        self._sockets = sockets
        self._senders = [
            Sender(sock, watch.stopped)
            if merging is None
            else MergingSender(
                sock,
                watch.stopped,
                None,
                once=merging.once,
                warn=merging.warn,
            )
            for sock in sockets
        ]
        outlets = [Outlet(sender) for sender in self._senders]
        self._target = cast(Target[AnyLoad], outlets[0])
        if len(outlets) == 2:
            fork = Fork((outlets[0], outlets[1]), in_order=merging is None)
            self._target = cast(Target[AnyLoad], fork)
        self._begin = self._end = 0.0
        self.passes = 0

    def play(self, in_passes: Iterable[Iterable[AnyLoad]]) -> None:
        """Sends all passes, or until the watch says that it is over.
        KeyboardInterrupt ends it, too. An OSError names the interface."""
        watch, pace = self._watch, self._pace
        pacer = Pacer(pace.rate, watch.stopped) if pace.is_limited else None
        shift = 0.0
        try:
            for loads in in_passes:
                if not self.passes:
                    watch.start()
                    self._begin = monotonic()
                self.passes += 1
                shift = send_loads(loads, self._target, pacer, shift)
                if watch.stopped():
                    break
        except KeyboardInterrupt:
            pass
        finally:
            self._end = monotonic()
            self._target.settle()

    def counts(self) -> tuple[int, int, int]:
        """Packets sent so far, their bytes, and packets refused."""
        sent, size = map(sum, zip(*self._all_counts(), strict=True))
        return sent, size, sum(sender.errors for sender in self._senders)

    def _all_counts(self) -> list[tuple[int, int]]:
        return [sender.counts() for sender in self._senders]

    def results(self) -> list[SendResult]:
        """One for each socket."""
        seconds = self._end - (self._begin or self._end)
        return [result_of(sender, seconds) for sender in self._senders]

    def frames(self) -> list[int]:
        """How many frames each socket has sent: super-frames count once."""
        return [sock.statistics().packets_sent for sock in self._sockets]
