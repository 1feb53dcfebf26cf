"""Calls that wait: made in threads, observed in the kernel, interrupted by
signals and by close()."""

import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

import pytest

from rawmmsg import PacketBatch, RawSocket
from support import WAIT
from support.frames import PACKET

# Every method that waits for packets, and every one that waits for room.
RECEIVING: Final[dict[str, Callable[[RawSocket], Any]]] = {
    "recvmmsg_into": lambda sock: sock.recvmmsg_into(PacketBatch(4)),
    "recv": lambda sock: sock.recv(2048),
    "recv_into": lambda sock: sock.recv_into(bytearray(2048)),
}
SENDING: Final[dict[str, Callable[[RawSocket], Any]]] = {
    "sendmmsg": lambda sock: sock.sendmmsg([PACKET]),
    "sendmmsg_all": lambda sock: sock.sendmmsg_all([PACKET]),
    "send": lambda sock: sock.send(PACKET),
}

# ppoll(2) on x86-64, on s390x and on others, <asm/unistd.h>. What counts is
# the kernel, which is that of another machine if the program is emulated. No
# test waits in another call with one of these numbers.
_PPOLL: Final = {"271", "302", "73"}


def waits(thread: int) -> bool:
    """Whether the thread (a native id) is in ppoll(2), where every call of a
    RawSocket waits."""
    try:
        with open(f"/proc/self/task/{thread}/syscall", "rb") as file:
            return file.read().decode().split(" ")[0] in _PPOLL
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], promise: str) -> None:
    """Waits until the condition is true; `promise` is the failure message."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, promise
        time.sleep(0.0005)


class Call:
    """A call in a thread of its own. The context manager waits for its end."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._function = function
        self._args = args
        self._value: Any = None
        self._error: BaseException | None = None
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._function(*self._args)
        except BaseException as error:
            self._error = error.with_traceback(None)
        self.ended_at = time.monotonic()

    @property
    def pending(self) -> bool:
        return self._thread.is_alive()

    def until_blocked(self) -> None:
        """Returns once the thread waits in the kernel."""
        thread = self._thread.native_id
        assert thread is not None
        deadline = time.monotonic() + WAIT
        while not waits(thread):
            assert self.pending, (
                f"the call ended without waiting: {self._error!r}"
            )
            assert time.monotonic() < deadline, "the call does not wait"

    def wait(self, seconds: float) -> None:
        """Waits for the end of the call, for at most `seconds`."""
        self._thread.join(seconds)

    def join(self) -> None:
        self._thread.join(WAIT)
        assert not self.pending, "the call does not end"

    def result(self) -> Any:
        """Waits for the end; returns or raises what the call did."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._value

    def error(self) -> BaseException | None:
        """Waits for the end; returns the exception that the call raised."""
        self.join()
        return self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.join()


def interrupted(
    call: Callable[[], object], step: int, module: str = ""
) -> bool:
    """Raises KeyboardInterrupt before this step of the interpreter in the
    call, or in functions of the module that it calls; returns False if there
    are fewer steps."""
    left = step

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if module and frame.f_globals["__name__"] != module:
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if event == "opcode" and left == 0:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    # Python 3.12 reads this when tracing begins.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@contextmanager
def repeating(
    function: Callable[[], object], pause: float = 0.0
) -> Iterator[None]:
    """Calls the function in a thread, again and again with a pause between
    calls, until the block ends."""
    stop = threading.Event()

    def run() -> None:
        while not (stop.wait(pause) if pause else stop.is_set()):
            function()

    with Call(run) as call:
        try:
            yield
        finally:
            stop.set()
    call.result()


def outcomes(
    function: Callable[[], Any],
    reason: str = "bytes of the frame",
    calls: int = 20_000,
) -> Iterator[Any]:
    """Yields the results of the function, except when it refuses a length for
    this reason. Calls it this often, and until it has done both."""
    deadline = time.monotonic() + WAIT
    taken = refused = 0
    while taken + refused < calls or 0 in (taken, refused):
        assert (taken and refused) or time.monotonic() < deadline, (
            "the function did not do both"
        )
        try:
            result = function()
        except ValueError as error:
            assert reason in str(error)
            refused += 1
        else:
            taken += 1
            yield result


@contextmanager
def handler(
    function: Callable[[], object], number: int = signal.SIGUSR1
) -> Iterator[None]:
    """Calls the function whenever the signal arrives."""

    def handle(_: int, frame: FrameType | None) -> None:
        function()

    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def when_main_thread_waits(action: Callable[[], object]) -> Iterator[None]:
    """Runs the action in a thread once the main thread waits inside the
    block."""
    main = threading.main_thread()
    left = threading.Event()

    def act() -> None:
        assert main.native_id is not None
        while not waits(main.native_id):
            if left.wait(0.0005):
                return
        action()

    with Call(act) as call:
        try:
            yield
        finally:
            left.set()
    call.result()


def interrupt_main_thread() -> None:
    """Sends SIGUSR1 to the main thread."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGUSR1)


def fill_send_queue(sock: RawSocket) -> None:
    """Sends until the send queue is full, which takes a few packets."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    timeout = sock.gettimeout()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(PACKET)
    sock.settimeout(timeout)


def assert_ended_by_close(call: Call) -> None:
    """Asserts that the call failed with EBADF."""
    error = call.error()
    assert isinstance(error, OSError), (
        f"close() did not end the call: {error!r}"
    )
    assert error.errno == errno.EBADF, f"the call ended with {error!r}"


@contextmanager
def raises(
    number: int, text: str | None = None
) -> Iterator[pytest.ExceptionInfo[OSError]]:
    """Expects an OSError with this number, and with `text`, or the text that
    goes with the number."""
    if text is None:
        closed = number == errno.EBADF
        text = "the socket was closed" if closed else os.strerror(number)
    with pytest.raises(OSError, match=text) as caught:
        yield caught
    assert caught.value.errno == number


def packets_sent(error: BaseException | None) -> int:
    """The number of packets that sendmmsg_all() sent before the error."""
    assert error is not None
    assert hasattr(error, "packets_sent"), f"without packets_sent: {error!r}"
    return int(error.packets_sent)


def drain(peer: socket.socket) -> list[bytes]:
    """Reads everything that is queued. The kernel calls a socket writable
    again when three quarters of its buffer are free."""
    packets = []
    try:
        while True:
            packets.append(peer.recv(2048, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return packets
