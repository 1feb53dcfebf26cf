"""Frames as they are, beside sniff(): no Packet is made of them."""

import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Self, TypeAlias

from scapy.interfaces import NetworkInterface

from rawmmsg import SUPER_FRAME, PacketBatch

from .events import Event, renew_after_fork
from .links import BATCH_SIZE, receive
from .sockets import L2RawMmsgListenSocket, L2RawMmsgSocket, wait_for

_Judge: TypeAlias = Callable[[memoryview], object]
_Views: TypeAlias = Generator[memoryview, None, None]
_Batches: TypeAlias = Generator[Iterator[memoryview], None, None]


class _SnifferSocket(L2RawMmsgListenSocket):
    """Receives each packet once on the loopback interface too, where a packet
    that goes out also comes in. To sniff() ours gives both, as Scapy's own."""

    _ignore_outgoing = None


class RawSniffer:
    """Sniffs frames as memoryviews, at the speed of batches.

        with RawSniffer("eth0", filter="udp", timeout=10) as frames:
            for frame in frames:
                lengths.append(len(frame))

    A view is valid until the next one is asked for: keep bytes(frame). `time`
    is when the frames of this batch arrived.

    iface          as for sniff(); conf.iface unless given
    opened_socket  instead: one of ours, which stays open; what the sniff
                   leaves of a batch is there for the next one
    count          frames to give; 0: no limit
    timeout        seconds; None: no limit
    lfilter        called with each view: false for one not to be given
    stop_filter    called with each view given, after it has been worked on:
                   true to stop

    Other arguments (filter, promisc, nofilter) are those of
    L2RawMmsgListenSocket, and its errors are raised.
    Raises OSError when the interface is deleted.

    stop() ends it from anywhere. A `for` loop that is left early goes on
    where it was with the next; close(), or the end of `with`, ends it.
    """

    def __init__(
        self,
        iface: str | NetworkInterface | None = None,
        *,
        opened_socket: L2RawMmsgSocket | None = None,
        count: int = 0,
        timeout: float | None = None,
        lfilter: _Judge | None = None,
        stop_filter: _Judge | None = None,
        **options: Any,
    ) -> None:
        if opened_socket is not None and (iface is not None or options):
            raise ValueError("an opened socket has its interface and filter")
        self._owned = opened_socket is None
        self._socket = opened_socket or _SnifferSocket(iface, **options)
        self._batch = PacketBatch(BATCH_SIZE, SUPER_FRAME)
        self._stopped = False
        self._alarm: Event | None = Event()
        self._frames = self._judged(count, timeout, lfilter, stop_filter)
        self.time = 0.0
        renew_after_fork(self)

    def __iter__(self) -> Iterator[memoryview]:
        return self._frames

    def stop(self) -> None:
        """Ends the iteration, also from another thread or a signal handler:
        the frame that is being worked on is the last."""
        self._stopped = True
        alarm = self._alarm
        if alarm is not None:
            alarm.set()

    def close(self) -> None:
        """Ends the iteration, in the thread that iterates. Harmless when it
        has ended."""
        self._frames.close()
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Nothing is there yet where the constructor has failed.
        if hasattr(self, "_frames"):
            self.close()

    def _finish(self) -> None:
        self._alarm = None
        if self._owned:
            self._socket.close()

    def renew_after_fork(self) -> None:
        """In a forked child: its stop() does not wake the parent."""
        alarm = self._alarm
        if alarm is not None:
            alarm.renew()

    def _judged(
        self,
        count: int,
        timeout: float | None,
        lfilter: _Judge | None,
        stop_filter: _Judge | None,
    ) -> _Views:
        deadline = None if timeout is None else time.monotonic() + timeout
        given = 0
        batches = self._received(deadline)
        try:
            # Two loops: a generator between them would cost every frame.
            for views in batches:
                for view in views:
                    if lfilter is None or lfilter(view):
                        yield view
                        given += 1
                        if given == count:
                            return
                        if stop_filter is not None and stop_filter(view):
                            return
                    # Asked after a frame that was rejected as well.
                    if self._stopped:
                        return
                    if deadline is not None and time.monotonic() >= deadline:
                        return
        finally:
            batches.close()
            self._finish()

    def _received(self, deadline: float | None) -> _Batches:
        """All frames, in the batches in which they come, until stopped, out
        of time or closed. What is not taken of a batch, the socket keeps."""
        alarm = self._alarm
        while not self._stopped:
            yield self._held()
            came = False
            for link in self._socket.links:
                try:
                    if not receive(link.receiver, self._batch):
                        continue  # and the batch is still the last one
                except BlockingIOError:
                    continue
                except EOFError:
                    return
                came = True
                self.time = time.time()
                views = iter(self._batch)
                try:
                    yield views
                finally:
                    self._socket.put_back(
                        [(link, bytes(view), self.time) for view in views]
                    )
            if came:
                continue
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                return
            wait_for([self._socket, alarm], rest)

    def _held(self) -> _Views:
        """What the socket holds of a batch."""
        while (frame := self._socket.pop()) is not None:
            self.time = frame[2]
            yield memoryview(frame[1])
