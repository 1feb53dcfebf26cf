"""Sockets that poll as ready although there is no packet: calls on them wait,
use little CPU time and react to signals."""

import resource
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import pytest

from rawmmsg import RawSocket

IP_RECVERR = 11  # <linux/in.h>


class Interrupted(Exception):
    pass


def with_full_error_queue() -> socket.socket:
    """A socket with an ICMP error that nobody reads: it always polls
    POLLERR."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
    sock.connect(("127.0.0.1", 1))
    sock.send(b"nobody listens")
    with pytest.raises(ConnectionRefusedError):
        sock.recv(1)
    return sock


def shut_down() -> socket.socket:
    """A socket that is shut down for reading: it always polls POLLIN."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.connect(sock.getsockname())
    sock.shutdown(socket.SHUT_RD)
    return sock


@pytest.fixture(params=[with_full_error_queue, shut_down])
def ready(request: pytest.FixtureRequest) -> Iterator[RawSocket]:
    with RawSocket(fileno=request.param().detach()) as sock:
        yield sock


def cpu_seconds() -> float:
    """The CPU time of this thread."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_utime + usage.ru_stime


def test_signal_handler_ends_the_wait_despite_false_alarms(
    ready: RawSocket,
) -> None:
    def interrupt(_: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupted):
            ready.recv(100)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_wait_uses_little_cpu_despite_false_alarms(ready: RawSocket) -> None:
    ready.settimeout(1.0)
    before = cpu_seconds()
    with pytest.raises(TimeoutError):
        ready.recv(100)
    used = cpu_seconds() - before
    assert used < 0.5, (
        f"the wait polls without pause: {used:.2f} s of CPU time in 1 s"
    )
