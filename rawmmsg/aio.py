"""Batches for asyncio: receive with `async for`, send with `await`.

    sock.setblocking(False)
    async for batch in rawmmsg.aio.batches(sock, PacketBatch()):
        await rawmmsg.aio.send(sink, batch)

The event loop waits; the system calls are those of RawSocket, on the caller's
memory, and never wait themselves. A packet leaves the kernel only in the step
that hands it over: a task that is cancelled, or that asyncio.timeout() ends,
loses none.

Tasks may share a socket, in both directions at once; each packet goes to one
of those that receive, each with a batch of its own. Calls that wait notice
within a second that the socket was closed: cancel them first.

Works on every event loop that has add_reader() and add_writer().
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from ._rawmmsg import PacketBatch, RawSocket

if TYPE_CHECKING:
    from ._rawmmsg import _Packets

__all__ = ["batches", "send"]

# Seconds; the same as in RawSocket's own waits.
_LINK_CHECK: Final = 1.0
_FIRST_PAUSE: Final = 50e-6
_LAST_PAUSE: Final = 10e-3
_FULL_LIMIT: Final = 1.0


def batches(sock: RawSocket, batch: PacketBatch) -> AsyncIterator[PacketBatch]:
    """Receives for ever: each step fills `batch` anew, with at least one
    packet, and yields it.

    What it holds stays until the next step. Nothing is held between steps:
    leaving the loop needs no clean-up, and after an error (ENETDOWN, of a link
    that comes back) the iterator can go on. Each step lets other tasks run.

    Raises ValueError for a socket that may block (its timeout is not 0), and
    what recvmmsg_into() raises.
    """
    _require_nonblocking(sock)
    return _Batches(sock, batch)


async def send(sock: RawSocket, packets: _Packets) -> None:
    """Sends every packet; `packets` must stay as they are until it returns.

    ENOBUFS is retried as sendmmsg_all() does, for a second without progress;
    the error then says how often the packet was tried, since the kernel says
    the same of a full queue and of a packet that something on the way out
    drops. Lets other tasks run before each system call. An exception,
    CancelledError too, carries how far it came in `packets_sent`
    (asyncio.timeout() keeps the CancelledError as `__context__`).

    Raises ValueError for a socket that may block (its timeout is not 0), and
    what sendmmsg() raises.
    """
    sent = 0
    try:
        while True:
            step = partial(sock.sendmmsg, packets, sent)
            sent += await _attempt(sock, step, sending=True)
            if sent >= len(packets):
                return
    except BaseException as error:
        error.packets_sent = sent  # type: ignore[attr-defined]
        raise


class _Batches(AsyncIterator[PacketBatch]):
    def __init__(self, sock: RawSocket, batch: PacketBatch) -> None:
        self._sock = sock
        self._batch = batch
        self._step = partial(sock.recvmmsg_into, batch)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PacketBatch:
        await _attempt(self._sock, self._step)
        return self._batch


async def _attempt(
    sock: RawSocket, step: partial[int], *, sending: bool = False
) -> int:
    """Does the step, one system call, as soon as it need not wait.

    Once it is done nothing awaits any more: there, cancelling would lose what
    it has received.
    """
    await asyncio.sleep(0)
    false_alarms = 0
    pause, full_since, tries = _FIRST_PAUSE, 0.0, 0
    while True:
        _require_nonblocking(sock)
        try:
            return step()
        except BlockingIOError:
            full = False
        except OSError as error:
            if error.errno != errno.ENOBUFS or not sending:
                raise
            now = time.monotonic()
            full_since = full_since or now
            tries += 1
            if now - full_since >= _FULL_LIMIT:
                raise _full_error(error, step, tries) from None
            full = True
        if full:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)
        elif false_alarms > 1:
            # Ready for ever without a packet, as an error queue that nobody
            # reads makes a socket. (The first time another task was quicker.)
            false_alarms = 0
            await asyncio.sleep(_LAST_PAUSE)
        else:
            false_alarms += await _wait_ready(sock, sending)


def _full_error(error: OSError, step: partial[int], tries: int) -> OSError:
    return OSError(
        error.errno,
        f"packet {step.args[1]}, tried {tries} times: the queue is full, or"
        " something drops this packet on its way out (the MTU of the far end,"
        f" a filter): {os.strerror(errno.ENOBUFS)}",
        error.filename,
    )


async def _wait_ready(sock: RawSocket, sending: bool) -> bool:
    """Waits until the loop calls the socket ready, or it is time to look at
    the link again; says whether it is ready.

    A deleted interface may leave no event behind, and close() leaves none.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def wake(ready: bool) -> None:
        if not answer.done():
            answer.set_result(ready)

    # A loop keeps one callback per descriptor and direction, the latest, and
    # has to forget a descriptor before it is closed: this one is ours alone.
    descriptor = os.dup(sock.fileno())
    try:
        timer = loop.call_later(_LINK_CHECK, wake, False)
        try:
            if sending:
                loop.add_writer(descriptor, wake, True)
            else:
                loop.add_reader(descriptor, wake, True)
            return await answer
        finally:
            timer.cancel()
            if sending:
                loop.remove_writer(descriptor)
            else:
                loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


def _require_nonblocking(sock: RawSocket) -> None:
    """A call that waits would stop every task of the loop."""
    if sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking: setblocking(False)")
