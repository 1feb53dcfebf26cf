"""A thread for which the kernel refuses a system call, as an older one does
(seccomp(2))."""

import ctypes
import platform
import struct
from collections.abc import Callable
from typing import Any, Final

from support.calls import Call

# <asm/unistd.h>
PREADV2: Final = {"x86_64": 327, "s390x": 376}.get(platform.machine(), 286)
READLINK: Final = {"x86_64": 89, "s390x": 85}.get(platform.machine(), 78)

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_RET_ERRNO: Final = 0x00050000
_SECCOMP_RET_ALLOW: Final = 0x7FFF0000

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _refuse(number: int, error: int) -> None:
    """For this thread, until it ends."""
    instructions = [
        (0x20, 0, 0, 0),  # ld [0], the number of the call
        (0x15, 0, 1, number),
        (0x06, 0, 0, _SECCOMP_RET_ERRNO | error),
        (0x06, 0, 0, _SECCOMP_RET_ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    memory = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(instructions), ctypes.addressof(memory))
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0),
    ):
        words = [
            ctypes.c_ulong(one) if isinstance(one, int) else one
            for one in arguments
        ]
        if _libc.prctl(*words):
            raise OSError(ctypes.get_errno(), "prctl")


def run_without(
    number: int, error: int, function: Callable[..., Any], *arguments: object
) -> Any:
    """Calls the function in a thread for which the system call fails with
    this error."""

    def run() -> Any:
        _refuse(number, error)
        return function(*arguments)

    return Call(run).result()
