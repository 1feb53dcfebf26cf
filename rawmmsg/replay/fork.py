"""Sends what goes out on two interfaces."""

from ..pacing.outlet import Outlet
from .packets import SplitLoad
from .sides import FIRST, SECOND


class Fork:
    """Sends packets in the order of the recording, with one call for those
    that follow each other on the same interface.

    in_order  False: the packets that are due together are sent on the first
              interface, and then on the second. Then more of them can be
              merged
    """

    def __init__(
        self, outlets: tuple[Outlet, Outlet], *, in_order: bool
    ) -> None:
        self._outlets = outlets
        self._in_order = in_order
        self._load: SplitLoad | None = None
        # Of the packets for each interface: those that were to be sent so far,
        # and those that were. They differ if an Outlet needs further packets
        # to find out why the kernel does not take one.
        self._wanted = [0, 0]
        self._done = [0, 0]

    def take(self, load: SplitLoad) -> None:
        self._load = load
        self._wanted, self._done = [0, 0], [0, 0]
        for outlet, part in zip(self._outlets, load.parts, strict=True):
            if part is not None:
                outlet.take(part)

    def push(self, first: int, last: int) -> int:
        assert self._load is not None
        sides = self._load.sides
        if not self._in_order:
            for side in (FIRST, SECOND):
                self._push(side, sides.count(side, first, last))
            return last
        while first < last and not self.stopped():
            side = sides[first]
            end = sides.find(SECOND - side, first, last)
            end = last if end < 0 else end
            self._push(side, end - first)
            first = end
        return last

    def _push(self, side: int, count: int) -> None:
        self._wanted[side] += count
        if self._done[side] < self._wanted[side]:
            self._done[side] = self._outlets[side].push(
                self._done[side], self._wanted[side]
            )

    def settle(self) -> None:
        for outlet in self._outlets:
            outlet.settle()

    def stopped(self) -> bool:
        return self._outlets[FIRST].stopped()
