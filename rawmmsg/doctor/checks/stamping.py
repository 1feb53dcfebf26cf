"""Does some socket on this machine make the kernel timestamp all packets?

The kernel has one switch for the whole machine. While a socket has it on, the
kernel takes the time of every packet that arrives.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ..finding import Finding, note, ok
from ..kernel.processes import Process, descriptors_of, pids, process_name

if TYPE_CHECKING:
    from ctypes import CDLL

__all__ = ["check"]

NAME: Final = "stamping"

# asm-generic/socket.h: with 32-bit and with 64-bit times
_SO_TIMESTAMP: Final = (29, 63)
_SO_TIMESTAMPNS: Final = (35, 64)
_SO_TIMESTAMPING: Final = (37, 65)
# linux/net_tstamp.h
_SOF_TIMESTAMPING_RX_SOFTWARE: Final = 1 << 3
_SOF_TIMESTAMPING_SOFTWARE: Final = 1 << 4

_SYS_PIDFD_GETFD: Final = 438  # asm-generic/unistd.h, on all machines
_TIMEOUT: Final = 1.0


def check() -> Iterator[Finding]:
    try:
        stamped = _packets_are_stamped()
    except OSError as error:
        yield note(
            NAME,
            "not looked at, because no datagram passes the loopback"
            f" interface ({error.strerror or error})",
            "ip link set lo up",
            stamping=None,
        )
        return
    if not stamped:
        yield ok(NAME, "no socket has time stamping on", stamping=False)
        return
    found = [Process(pid, process_name(pid)) for pid in _stamping_processes()]
    if found:
        named = "; ".join(map(str, found))
        yield note(
            NAME,
            "the kernel takes the time of every packet on this machine,"
            f" because a socket asked for it: {named}",
            f"stop it, if its time stamps are not needed: {named}",
            stamping=True,
            pids=[process.pid for process in found],
            processes=[process.name for process in found],
        )
    else:
        yield note(
            NAME,
            "the kernel takes the time of every packet on this machine,"
            " because a socket of a process that cannot be seen from here"
            " asked for it",
            "run as root outside of containers, to see which process it is",
            stamping=True,
            pids=[],
            processes=[],
        )


def _packets_are_stamped() -> bool:
    """Sends a datagram to itself. A socket with SOF_TIMESTAMPING_SOFTWARE
    alone gets the time stamp that a packet has already, and does not turn
    the switch on (Documentation/networking/timestamping.rst)."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.settimeout(_TIMEOUT)
        receiver.bind(("127.0.0.1", 0))
        receiver.setsockopt(
            socket.SOL_SOCKET, _SO_TIMESTAMPING[0], _SOF_TIMESTAMPING_SOFTWARE
        )
        # From this address only.
        sender.bind(("127.0.0.1", 0))
        receiver.connect(sender.getsockname())
        sender.sendto(b"stamped?", receiver.getsockname())
        _, control, _, _ = receiver.recvmsg(64, 256)
    return any(
        level == socket.SOL_SOCKET
        and kind in _SO_TIMESTAMPING
        # struct scm_timestamping: the first of three is the software's
        and any(struct.unpack_from("@ll", data))
        for level, kind, data in control
    )


def _stamping_processes() -> Iterator[int]:
    """The processes that have stamping on, of those that this process may
    look into (ptrace(2), PTRACE_MODE_ATTACH_REALCREDS)."""
    try:
        from ctypes import CDLL
    except ImportError:  # an interpreter that was built without libffi
        return
    libc, own = CDLL(None), os.getpid()
    for pid in pids():
        if pid != own and _stamps(libc, pid):
            yield pid


def _stamps(libc: "CDLL", pid: int) -> bool:
    numbers = [number for number, _ in descriptors_of(pid)]
    if not numbers:
        return False
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return any(_has_stamping(libc, process, number) for number in numbers)
    finally:
        os.close(process)


def _has_stamping(libc: "CDLL", process: int, number: int) -> bool:
    """Asks a socket of another process, through a copy of its descriptor
    (pidfd_getfd(2))."""
    copy = libc.syscall(_SYS_PIDFD_GETFD, process, number, 0)
    if copy < 0:
        return False
    try:
        sock = socket.socket(fileno=copy)
    except OSError:  # the number belongs to another kind of file by now
        os.close(copy)
        return False
    with sock:
        # These two turn nothing on (net/core/sock.c:sock_needs_netstamp()).
        if sock.family in (socket.AF_UNSPEC, socket.AF_UNIX):
            return False
        return any(
            _get(sock, option) for option in _SO_TIMESTAMP + _SO_TIMESTAMPNS
        ) or any(
            _get(sock, option) & _SOF_TIMESTAMPING_RX_SOFTWARE
            for option in _SO_TIMESTAMPING
        )


def _get(sock: socket.socket, option: int) -> int:
    with suppress(OSError):  # this kind of socket does not have it
        return sock.getsockopt(socket.SOL_SOCKET, option)
    return 0
