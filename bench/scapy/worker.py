"""sendp_batch() in a process of its own on a CPU of its own, and how many of
its frames sniff() sees. Import it only if Scapy is installed."""

import multiprocessing
import os
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Final, Self, TypeAlias

from scapy.config import conf
from scapy.sendrecv import sniff

from rawmmsg.scapy import SendResult, sendp_batch

from ..lab.contender import GroundTruthError
from ..lab.link import HEADER, NUMBERS
from .listeners import Inbox

# A string, because Future takes a parameter only when it is evaluated.
Sending: TypeAlias = "Future[SendResult]"

_PATIENCE: Final = 60.0  # seconds: it imports Scapy
_SERIES_END: Final = len(HEADER) + NUMBERS.size - 4  # in a frame
_INTERVAL: Final = 0.01  # seconds


class Worker:
    """A process that sends at a pace. A context manager."""

    def __init__(self, cpu: int) -> None:
        self._pool = ProcessPoolExecutor(
            1,
            # Not by fork(2), because this process may have threads.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_initialize,
            initargs=(cpu,),
        )
        # It is ready before anybody waits for frames.
        self._pool.submit(os.getpid).result(_PATIENCE)

    def send(
        self, interface: str, frames: list[bytes], loop: int, **pace: float
    ) -> Sending:
        """Starts to send the frames `loop` times with sendp_batch()."""
        return self._pool.submit(_send, interface, frames, loop, pace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _initialize(cpu: int) -> None:
    conf.verb = 0
    os.sched_setaffinity(0, {cpu})


def _send(
    interface: str, frames: list[bytes], loop: int, pace: dict[str, Any]
) -> SendResult:
    return sendp_batch(frames, interface, loop=loop, **pace)


class _Ending:
    """Waits in a thread for the end of a stream, and then sends a last frame
    until the sniffer has seen it. A context manager."""

    def __init__(self, inbox: Inbox, sending: Sending, last: bytes) -> None:
        self._inbox = inbox
        self._sending = sending
        self._last = last
        self._seen = threading.Event()
        self._thread = threading.Thread(target=self._wait)
        self.arrived = self.dropped = 0

    def _wait(self) -> None:
        self._sending.result()
        self.arrived, self.dropped = self._inbox.counter.read()
        while not self._seen.wait(_INTERVAL):
            self._inbox.sender.send(self._last)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.set()
        self._thread.join()


def seen_of_stream(
    inbox: Inbox, worker: Worker, pps: float, count: int
) -> int:
    """Lets the worker send `count` frames at a pace; returns how many of them
    sniff() sees. Checks that the kernel dropped the others."""
    *frames, last = inbox.numbered(HEADER, count + 1)
    seen: list[bytes] = []
    inbox.counter.read()
    sending = worker.send(inbox.far_end, frames, 1, pps=pps)
    with _Ending(inbox, sending, last) as ending:
        sniff(
            opened_socket=inbox.listener,
            store=False,
            prn=lambda packet: seen.append(packet.original),
            stop_filter=lambda packet: packet.original == last,
            timeout=_PATIENCE,
        )
    sent = sending.result().frames
    # The last frame of an earlier stream may arrive once more.
    seen = [frame for frame in seen if frame.startswith(last[:_SERIES_END])]
    if not seen or seen.pop() != last:
        raise GroundTruthError("the stream does not end")
    rest = iter(frames)
    if not all(frame in rest for frame in seen):
        raise GroundTruthError("frames are duplicated, changed or disordered")
    if not sent == ending.arrived == len(seen) + ending.dropped == count:
        raise GroundTruthError(
            f"{count} frames, {sent} sent, {ending.arrived} arrived,"
            f" {len(seen)} seen, {ending.dropped} dropped"
        )
    return len(seen)
