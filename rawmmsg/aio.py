"""Batches for asyncio: receive with `async for`, send with `await`.

    sock.setblocking(False)
    async for batch in rawmmsg.aio.batches(sock, PacketBatch()):
        await rawmmsg.aio.send(sink, batch)

The event loop does the waiting. The system calls are those of RawSocket, use
the caller's memory, and never block. A packet leaves the kernel only in the
step that returns it to the task, so no packet is lost if a task is cancelled
or asyncio.timeout() ends it.

Several tasks may receive and send on one socket. Each packet goes to one of
the receiving tasks, and each of these needs a batch of its own. A task that
waits notices within one second that the socket was closed, so cancel it first.

The event loop needs add_reader() and add_writer().
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

# Seconds, the same as when RawSocket itself waits.
_LINK_CHECK: Final = 1.0
_FIRST_PAUSE: Final = 50e-6
_LAST_PAUSE: Final = 10e-3
_FULL_LIMIT: Final = 1.0


def batches(sock: RawSocket, batch: PacketBatch) -> AsyncIterator[PacketBatch]:
    """Receives until the caller leaves the loop: each step fills `batch` with
    at least one packet and yields it.

    The packets stay in the batch until the next step. Between steps the
    iterator keeps no state, so the caller may leave the loop at any time, and
    may continue after an error (such as ENETDOWN when the link is up again).
    Each step lets other tasks run.

    Raises ValueError if the socket may block (its timeout is not 0), and every
    error of recvmmsg_into().
    """
    _require_nonblocking(sock)
    return _Batches(sock, batch)


async def send(sock: RawSocket, packets: _Packets) -> None:
    """Sends all packets. `packets` must not change until it returns.

    Other tasks run before each system call. After ENOBUFS, a packet is tried
    again for one second, as in sendmmsg_all(). The kernel returns ENOBUFS if
    the queue is full, and also if something drops the packet on its way out,
    so the error says how often the packet was tried.

    Every exception, even CancelledError, has the number of packets sent in
    `packets_sent` (asyncio.timeout() keeps the CancelledError as
    `__context__`). Raises ValueError if the socket may block (its timeout is
    not 0), and every error of sendmmsg().
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
    """Makes the system call of `step` as soon as it does not block.

    Nothing is awaited after the call, because packets that it received would
    be lost if the task were cancelled there.
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
            # The socket is always ready although it has no packet, for
            # example because its error queue is not read. (The first time,
            # another task may have taken the packet.)
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
    """Waits until the socket is ready, or for one second. Returns whether it
    is ready.

    The caller then tries again, because close() causes no event, and neither
    does deleting an interface in some cases.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def wake(ready: bool) -> None:
        if not answer.done():
            answer.set_result(ready)

    # A loop keeps only the latest callback for each descriptor and direction,
    # and must remove a descriptor before it is closed. So this call uses a
    # descriptor of its own.
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
    """Raises ValueError if calls may block: that would stop all tasks."""
    if sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking: setblocking(False)")
