"""Two hosts' ends, the ports of a forwarder between them, and numbered frames
that go from end to end, all in one namespace and one process.

    end a ------- veth ------- port a   port b ------- veth ------- end b
"""

import contextlib
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import veth_pair

from ..framework import GroundTruthError
from .link import NUMBERS, PATIENCE, SHORTEST, Counter

# Administered locally; the EtherType for local experiments, for which the
# kernel has no handler.
_ADDRESSES: Final = (
    bytes.fromhex("02000000000a"),
    bytes.fromhex("02000000000b"),
)
_ETHERTYPE: Final = bytes.fromhex("88b5")

# A slice whose last burst came in parts cannot be checked: it is run again.
_MOST_TRIES: Final = 100


class Times(NamedTuple):
    """Nanoseconds."""

    sending: int
    forwarding: int


class Stream:
    """Frames from one end to the other, `count` at a time."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        source: str,
        sink: str,
        addresses: bytes,
        count: int,
        size: int,
    ) -> None:
        # protocol=0: it does not see what it sends
        self._tx = stack.enter_context(RawSocket(source, protocol=0))
        self._rx = stack.enter_context(RawSocket(sink, ignore_outgoing=True))
        self._tx.settimeout(PATIENCE)
        self._rx.settimeout(PATIENCE)
        self.counter = stack.enter_context(
            contextlib.closing(Counter(self._rx.fileno()))
        )
        self._header = addresses + _ETHERTYPE
        self._size = size
        self._count = count
        self._out = PacketBatch(count, size)
        self._into = PacketBatch(count, size)

    def number(self, slice_number: int) -> None:
        """Gives the frames their numbers, and wipes those received."""
        filler = bytes(i & 0xFF for i in range(self._size - SHORTEST))
        self._out.clear()
        self._into.clear()
        for i in range(self._count):
            number = NUMBERS.pack(slice_number, i)
            self._out.append(self._header + number + filler)
            self._into.append(bytes(self._size))

    def send(self) -> None:
        self._tx.sendmmsg_all(self._out)

    def receive(self) -> int:
        """Takes what has arrived; in how many pieces. What came in one can be
        checked."""
        done = pieces = 0
        while done < self._count:
            try:
                done += self._rx.recvmmsg_into(self._into)
            except TimeoutError:
                raise GroundTruthError(
                    f"{self._count} frames sent, {done} arrived"
                ) from None
            pieces += 1
        return pieces

    def check(self) -> None:
        """Asserts that what was received is what was sent, in order and to
        the byte."""
        if self._into.tolist() != self._out.tolist():
            raise GroundTruthError("frames arrived that are not those sent")


class Arena:
    """A place for one forwarder: another packet socket on the same port would
    cost every frame. What it opens is closed with `stack`."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        *,
        two_way: bool,
        count: int,
        size: int,
    ) -> None:
        a, b = (stack.enter_context(veth_pair()) for _ in range(2))
        self.ports = a.b, b.b
        first, second = _ADDRESSES
        there, back = (
            Stream(stack, a.a, b.a, second + first, count, size),
            Stream(stack, b.a, a.a, first + second, count, size),
        )
        self._streams = [there, back] if two_way else [there]
        self._back = back
        self._count = count
        self._number = 0
        # In a burst:
        self.frames = count * len(self._streams)
        self.bytes = self.frames * size

    def teach(self) -> None:
        """Has a bridge that learns know where both addresses are."""
        self._back.number(0)
        self._back.send()
        self._back.receive()

    def run(self, forward: Callable[[], object], bursts: int) -> Times:
        """Sends a burst, calls forward(), which moves it, and receives it, so
        many times. Asserts that every frame has arrived, and in the last burst
        that it is what was sent."""
        for _ in range(_MOST_TRIES):
            self._number += 1
            for stream in self._streams:
                stream.number(self._number)
                stream.counter.reset()
            times = Times(0, 0)
            whole = False
            for _ in range(bursts):
                taken, whole = self._burst(forward)
                times = Times(
                    times.sending + taken.sending,
                    times.forwarding + taken.forwarding,
                )
            for stream in self._streams:
                stream.counter.check(bursts * self._count)
            if whole:
                for stream in self._streams:
                    stream.check()
                return times
        raise GroundTruthError("no burst comes in one piece")

    def _burst(self, forward: Callable[[], object]) -> tuple[Times, bool]:
        begin = time.perf_counter_ns()
        for stream in self._streams:
            stream.send()
        middle = time.perf_counter_ns()
        forward()
        end = time.perf_counter_ns()
        pieces = [stream.receive() for stream in self._streams]
        return Times(middle - begin, end - middle), max(pieces) == 1
