"""Whether the kernel stamps packets, which any socket on the machine can ask
of it for all of them."""

import contextlib
import socket
import struct
import time
from typing import Final, Self

# <asm-generic/socket.h>, <linux/net_tstamp.h>
SO_TIMESTAMPING: Final = 37
_SOF_TIMESTAMPING_SOFTWARE: Final = 1 << 4

_PATIENCE: Final = 1.0  # seconds for a datagram over loopback
_SPACE: Final = socket.CMSG_SPACE(3 * struct.calcsize("ll"))


class Probe:
    """Looks whether packets are stamped now. A context manager.

    A socket that wants stamps reported, but none made (SO_TIMESTAMPING with
    nothing but SOF_TIMESTAMPING_SOFTWARE), gets one with a datagram only if
    the kernel has made it for somebody else
    (Documentation/networking/timestamping.rst).
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self._receiver, self._sender = (
                stack.enter_context(
                    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                )
                for _ in range(2)
            )
            self._receiver.bind(("127.0.0.1", 0))
            self._receiver.settimeout(_PATIENCE)
            self._receiver.setsockopt(
                socket.SOL_SOCKET, SO_TIMESTAMPING, _SOF_TIMESTAMPING_SOFTWARE
            )
            self._stack = stack.pop_all()

    def is_on(self) -> bool:
        """Whether a packet that arrives now is stamped."""
        self._sender.sendto(b"?", self._receiver.getsockname())
        _, control, _, _ = self._receiver.recvmsg(1, _SPACE)
        return bool(control)

    def wait_for(self, on: bool, seconds: float) -> bool:
        """Waits until it is so, but not for ever: another process may see to
        it that it never is. Returns whether it is."""
        deadline = time.monotonic() + seconds
        while self.is_on() != on:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_on() -> bool:
    """Whether the kernel stamps packets now."""
    with Probe() as probe:
        return probe.is_on()
