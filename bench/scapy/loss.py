"""How many frames of a stream sniff() gets.

Imports Scapy: only where that is known to be installed.
"""

import threading
from typing import Final

from scapy.packet import Packet
from scapy.sendrecv import sniff

from ..framework import GroundTruthError
from ..network.link import HEADER, NUMBERS
from .scapy_listeners import Inbox
from .scapy_worker import Sending, Worker

_SERIES: Final = len(HEADER) + NUMBERS.size - 4  # where a frame's number is
_INTERVAL: Final = 0.01  # seconds
_TIMEOUT: Final = 60.0  # of the sniff, should nothing else end it


class _Ending:
    """Waits, in a thread, for the end of a stream, and sends a last frame
    until who sniffs has seen it. A context manager."""

    def __init__(self, inbox: Inbox, sending: Sending, last: bytes) -> None:
        self._inbox = inbox
        self._sending = sending
        self._last = last
        self._seen = threading.Event()
        self._thread = threading.Thread(target=self._wait)
        self.arrived = self.dropped = 0

    def _wait(self) -> None:
        self._sending.result()
        self.arrived, self.dropped = self._inbox.arrived()
        while not self._seen.wait(_INTERVAL):
            self._inbox.sender.send(self._last)

    def __enter__(self) -> "_Ending":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.set()
        self._thread.join()


def seen_of_stream(
    inbox: Inbox, worker: Worker, pps: float, count: int
) -> int:
    """Has `worker` send so many frames at a pace, and returns how many of
    them sniff() sees; the rest was dropped by the kernel."""
    *frames, last = inbox.numbered(HEADER, count + 1)
    seen: list[bytes] = []

    def prn(packet: Packet) -> None:
        seen.append(packet.original)

    def is_last(packet: Packet) -> bool:
        return bool(packet.original == last)

    inbox.arrived()
    sending = worker.send(inbox.far_end, frames, pps)
    with _Ending(inbox, sending, last) as ending:
        sniff(
            opened_socket=inbox.listener,
            store=False,
            prn=prn,
            stop_filter=is_last,
            timeout=_TIMEOUT,
        )
    sent = sending.result().frames
    # The last frame of a stream may come more than once, before the next one.
    seen = [frame for frame in seen if frame.startswith(last[:_SERIES])]
    if not seen or seen.pop() != last:
        raise GroundTruthError("the stream does not end")
    rest = iter(frames)
    if not all(frame in rest for frame in seen):
        raise GroundTruthError("frames are doubled, changed or out of order")
    if not sent == ending.arrived == len(seen) + ending.dropped == count:
        raise GroundTruthError(
            f"{count} frames, {sent} sent, {ending.arrived} arrived,"
            f" {len(seen)} seen, {ending.dropped} dropped"
        )
    return len(seen)
