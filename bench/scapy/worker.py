"""sendp_batch() in a process of its own, on a CPU of its own.

Imports Scapy: only where that is known to be installed.
"""

import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Final, Self, TypeAlias

from scapy.config import conf

from rawmmsg.scapy import SendResult, sendp_batch

# An alias, for Future takes no parameter at run time before it is asked.
Sending: TypeAlias = "Future[SendResult]"

_PATIENCE: Final = 60.0  # seconds: it imports Scapy


class Worker:
    """A process that sends at a pace. A context manager."""

    def __init__(self, cpu: int) -> None:
        self._pool = ProcessPoolExecutor(
            1,
            # Not by fork(2): there may be threads by now.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(cpu,),
        )
        # Ready before anybody waits for frames.
        self._pool.submit(os.getpid).result(_PATIENCE)

    def send(
        self, interface: str, frames: list[bytes], pps: float, loop: int = 1
    ) -> Sending:
        """Starts to send, with sendp_batch()."""
        return self.send_looped(interface, frames, loop, pps=pps)

    def send_looped(
        self, interface: str, frames: list[bytes], loop: int, **pace: float
    ) -> Sending:
        """The same, at a pace of any kind, or at none."""
        return self._pool.submit(_send, interface, frames, loop, pace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _prepare(cpu: int) -> None:
    conf.verb = 0
    os.sched_setaffinity(0, {cpu})


def _send(
    interface: str, frames: list[bytes], loop: int, pace: dict[str, Any]
) -> SendResult:
    return sendp_batch(frames, interface, loop=loop, **pace)
