"""sendp_batch() in a process of its own on a CPU of its own, and how many of
its frames sniff() sees. Import it only if Scapy is installed."""

import multiprocessing
import os
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Final, TypeAlias

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


class Worker(ProcessPoolExecutor):
    """A process that sends at a pace. A context manager."""

    def __init__(self, cpu: int) -> None:
        # Not by fork(2), because this process may have threads.
        spawn = multiprocessing.get_context("spawn")
        super().__init__(1, spawn, _pin, (cpu,))
        # It is ready before anybody waits for frames.
        self.submit(os.getpid).result(_PATIENCE)

    def send(
        self, interface: str, frames: list[bytes], loop: int, **pace: Any
    ) -> Sending:
        """Starts to send the frames `loop` times with sendp_batch()."""
        return self.submit(sendp_batch, frames, interface, loop=loop, **pace)


def _pin(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})


def seen_of_stream(
    inbox: Inbox, worker: Worker, pps: float, count: int
) -> int:
    """Lets the worker send `count` frames at a pace; returns how many of them
    sniff() sees. Checks that the kernel dropped the others."""
    *frames, last = inbox.numbered(HEADER, count + 1)
    seen: list[bytes] = []
    over = threading.Event()
    inbox.counter.read()
    sending = worker.send(inbox.far_end, frames, 1, pps=pps)

    def end() -> tuple[int, int]:
        """Sends a last frame, again until the sniffer has seen it."""
        sending.result()
        counts = inbox.counter.read()
        while not over.wait(_INTERVAL):
            inbox.sender.send(last)
        return counts

    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(end)
        try:
            sniff(
                opened_socket=inbox.listener,
                store=False,
                prn=lambda packet: seen.append(packet.original),
                stop_filter=lambda packet: packet.original == last,
                timeout=_PATIENCE,
            )
        finally:
            over.set()
    sent, (arrived, dropped) = sending.result().frames, ending.result()
    # The last frame of an earlier stream may arrive once more.
    seen = [frame for frame in seen if frame.startswith(last[:_SERIES_END])]
    if not seen or seen.pop() != last:
        raise GroundTruthError("the stream does not end")
    rest = iter(frames)
    if not all(frame in rest for frame in seen):
        raise GroundTruthError("frames are duplicated, changed or disordered")
    if not sent == arrived == len(seen) + dropped == count:
        raise GroundTruthError(
            f"{count} frames, {sent} sent, {arrived} arrived,"
            f" {len(seen)} seen, {dropped} dropped"
        )
    return len(seen)
