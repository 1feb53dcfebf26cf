"""A thread for which the kernel refuses a kind of super-frame, as Linux before
6.2 refuses those of UDP.

The thread's calls of sendmmsg(2) are stopped by a seccomp filter
(seccomp_unotify(2)). Another thread reads the offload headers of the messages,
sends those before the first one of that kind, and answers for the kernel: with
their number, or with EINVAL if there are none, as
include/linux/virtio_net.h:virtio_net_hdr_to_skb() does for a kind that it does
not know.
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import struct
from collections.abc import Callable
from typing import Any, Final

from support.calls import Call

# seccomp(2) and sendmmsg(2), <asm/unistd.h>.
_SECCOMP, _SENDMMSG = {
    "x86_64": (317, 307),
    "aarch64": (277, 269),
    "s390x": (348, 358),
}.get(platform.machine(), (277, 269))

_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8
_SECCOMP_RET_ALLOW: Final = 0x7FFF0000
_SECCOMP_RET_USER_NOTIF: Final = 0x7FC00000
_SECCOMP_IOCTL_NOTIF_RECV: Final = 0xC0502100
_SECCOMP_IOCTL_NOTIF_SEND: Final = 0xC0182101

_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_RESPONSE: Final = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_MESSAGE_SIZE: Final = 64  # struct mmsghdr of 64-bit platforms
_PARTS_OFFSET: Final = 16  # of msg_iov

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _listen() -> int:
    """Stops every sendmmsg(2) of this thread from now on. Returns the
    descriptor that tells of each."""
    instructions = [
        (0x20, 0, 0, 0),  # ld [0], the number of the call
        (0x15, 0, 1, _SENDMMSG),  # jeq #sendmmsg
        (0x06, 0, 0, _SECCOMP_RET_USER_NOTIF),
        (0x06, 0, 0, _SECCOMP_RET_ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    memory = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(instructions), ctypes.addressof(memory))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
        raise OSError(ctypes.get_errno(), "prctl")
    number: int = _libc.syscall(
        *map(ctypes.c_long, (_SECCOMP, _SECCOMP_SET_MODE_FILTER)),
        ctypes.c_long(_SECCOMP_FILTER_FLAG_NEW_LISTENER),
        program,
    )
    if number < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return number


def _kind_of(message: int) -> int:
    """The gso_type in the offload header of the message at this address."""
    (parts,) = struct.unpack(
        "@P", ctypes.string_at(message + _PARTS_OFFSET, 8)
    )
    (header,) = struct.unpack("@P", ctypes.string_at(parts, 8))
    return ctypes.string_at(header, 2)[1]


def _send(
    kind: int, descriptor: int, messages: int, count: int, flags: int
) -> int:
    """Sends the messages before the first of this kind. Returns how many the
    kernel took, or an error number as a negative number."""
    for i in range(count):
        if _kind_of(messages + i * _MESSAGE_SIZE) == kind:
            count = i
            break
    if count == 0:
        return -errno.EINVAL
    arguments = (_SENDMMSG, descriptor, messages, count, flags)
    sent: int = _libc.syscall(*map(ctypes.c_long, arguments))
    return sent if sent >= 0 else -ctypes.get_errno()


def _answer(listener: int, call: Call, kind: int) -> int:
    """Answers for the kernel until the call ends. Returns how many calls of
    sendmmsg() got EINVAL."""
    refused = 0
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    while call.pending:
        ready = poller.poll(10)
        if not ready or not ready[0][1] & select.POLLIN:  # the thread ends
            continue
        told = bytearray(_NOTIFICATION.size)
        fcntl.ioctl(listener, _SECCOMP_IOCTL_NOTIF_RECV, told)
        number, _, _, _, _, _, *arguments = _NOTIFICATION.unpack(told)
        result = _send(kind, *arguments[:4])
        refused += result == -errno.EINVAL
        response = _RESPONSE.pack(number, max(0, result), min(0, result), 0)
        fcntl.ioctl(listener, _SECCOMP_IOCTL_NOTIF_SEND, response)
    return refused


def without_super_frames(
    kind: int, function: Callable[[], Any]
) -> tuple[Any, int]:
    """Calls the function in a thread for which sendmmsg() refuses super-frames
    of this gso_type, over sockets with offload headers. Returns its result,
    and how many calls of sendmmsg() got EINVAL."""
    begin, listeners = os.pipe()

    def run() -> Any:
        os.write(listeners, struct.pack("i", _listen()))
        return function()

    try:
        call = Call(run)
        poller = select.poll()
        poller.register(begin, select.POLLIN)
        while not poller.poll(10):
            if not call.pending:
                return call.result(), 0
        (listener,) = struct.unpack("i", os.read(begin, 4))
    finally:
        os.close(begin)
        os.close(listeners)
    try:
        refused = _answer(listener, call, kind)
    finally:
        os.close(listener)
    return call.result(), refused
