"""Paced sending over a new socket; what has arrived; Ctrl-C while sending."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rawmmsg import RawSocket, pacing
from support.calls import Call, eventually
from support.linux import interface_counters


def paced(
    packets: Iterable[Any], interface: str, **options: Any
) -> pacing.SendResult:
    with RawSocket(interface, protocol=0) as sock:
        return pacing.send(sock, packets, **options)


def arrived(interface: str) -> tuple[int, int]:
    """How many frames and bytes the interface has received."""
    size, frames, *_ = interface_counters(interface)
    return frames, size


@contextmanager
def interrupting(interface: str, more: int) -> Iterator[None]:
    """Sends SIGINT to the main thread when the interface has received `more`
    frames."""
    main = threading.main_thread().ident
    assert main is not None
    until = arrived(interface)[0] + more

    def interrupt() -> None:
        eventually(lambda: arrived(interface)[0] >= until, "nothing was sent")
        signal.pthread_kill(main, signal.SIGINT)

    with Call(interrupt) as call:
        yield
    call.result()
