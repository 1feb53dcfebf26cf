"""RawSniffer: frames as memoryviews, not made into Packet objects."""

import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Self, TypeAlias

from scapy.interfaces import NetworkInterface

from rawmmsg import SUPER_FRAME, PacketBatch

from .._events import Event, renew_after_fork
from .inbox import wait_for
from .links import BATCH_SIZE
from .sockets import L2RawMmsgListenSocket, L2RawMmsgSocket

_Judge: TypeAlias = Callable[[memoryview], object]
_Views: TypeAlias = Generator[memoryview, None, None]
_Batches: TypeAlias = Generator[Iterator[memoryview], None, None]


class _SnifferSocket(L2RawMmsgListenSocket):
    """Receives each packet once on the loopback interface too, where every
    packet goes out and comes in. (To sniff(), L2RawMmsgListenSocket gives
    both, as Scapy's own socket does.)"""

    _ignore_outgoing = None


class RawSniffer:
    """Sniffs frames as memoryviews, at the speed of batches.

        with RawSniffer("eth0", filter="udp", timeout=10) as frames:
            for frame in frames:
                lengths.append(len(frame))

    The next view overwrites the contents of this one. To keep a frame, copy
    it: bytes(frame). `time` is when the batch of this frame arrived.

    iface          the interface, as for sniff(); conf.iface unless given
    opened_socket  a socket of rawmmsg.scapy to use instead, which stays open;
                   if the sniff does not take a whole batch, the next one on
                   the socket gets the rest
    count          how many frames to give; 0: no limit
    timeout        seconds until the end; None: no limit
    lfilter        called with each view; if it returns false, the frame is
                   skipped
    stop_filter    called with each view after the loop has handled it; if it
                   returns true, the sniff ends

    Other arguments (filter, promisc, nofilter) are those of
    L2RawMmsgListenSocket, which also raises what it raises.
    Raises OSError when the interface is deleted.

    Any thread or signal handler may call stop(). After leaving a `for` loop
    early, another one continues with the next frame; close(), or the end of
    `with`, ends the sniff.
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
            raise ValueError(
                "an opened socket has its own interface and filter: pass"
                " opened_socket, or iface and the other options"
            )
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
        """Ends the iteration after the frame that is being handled. Any thread
        or signal handler may call it."""
        self._stopped = True
        alarm = self._alarm
        if alarm is not None:
            alarm.set()

    def close(self) -> None:
        """Ends the iteration; only the thread that iterates may call it.
        Harmless if the iteration has ended."""
        self._frames.close()
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # If the constructor has failed, there is nothing to close.
        if hasattr(self, "_frames"):
            self.close()

    def _finish(self) -> None:
        self._alarm = None
        if self._owned:
            self._socket.close()

    def _renew_after_fork(self) -> None:
        """Gives a forked child an alarm of its own, so that its stop() does
        not wake the parent."""
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
            # Two loops instead of one over a flat generator, which would cost
            # time for every frame.
            for views in batches:
                for view in views:
                    if lfilter is None or lfilter(view):
                        yield view
                        given += 1
                        if given == count:
                            return
                        if stop_filter is not None and stop_filter(view):
                            return
                    # Also after a frame that was rejected.
                    if self._stopped:
                        return
                    if deadline is not None and time.monotonic() >= deadline:
                        return
        finally:
            batches.close()
            self._finish()

    def _received(self, deadline: float | None) -> _Batches:
        """Yields all frames, batch by batch, until stopped, out of time or
        closed. The socket keeps the frames of a batch that are not taken."""
        alarm, inbox = self._alarm, self._socket.inbox
        while not self._stopped:
            yield self._held()
            came = False
            for link in inbox.links:
                try:
                    if not link.receive_into(self._batch):
                        continue  # the batch holds old frames
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
                    inbox.put_back(
                        [(link, bytes(view), self.time) for view in views]
                    )
            if came:
                continue
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                return
            wait_for([inbox, alarm], rest)

    def _held(self) -> _Views:
        """Yields the frames of a batch that the socket still holds."""
        while (frame := self._socket.inbox.pop()) is not None:
            self.time = frame[2]
            yield memoryview(frame[1])
