"""Counts the system calls that a function makes, with strace(1)."""

import ctypes
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from ..lab import native, peers
from ..lab.contender import UnavailableError

_T = TypeVar("_T")

# <linux/prctl.h>
_PR_SET_PTRACER: Final = 0x59616D61
_ANY: Final = ctypes.c_ulong(-1)
_STATUS: Final = Path("/proc/thread-self/status")

_PATIENCE: Final = 10.0  # seconds, for strace to attach or to detach

# Calls that allocate memory for Python's objects, not sockets'.
_MEMORY: Final = {"brk", "madvise", "mmap", "mprotect", "mremap", "munmap"}


def counted(work: Callable[[], _T]) -> tuple[_T, Mapping[str, int]]:
    """Runs `work` in this thread. Returns its result, and how often it made
    each system call, except those that allocate memory.

    Raises UnavailableError if strace is missing or may not trace this process.
    """
    strace = peers.program("strace")
    with tempfile.TemporaryDirectory(prefix="rawmmsg-bench-") as folder:
        log = Path(folder, "calls")
        # strace is not an ancestor, which Yama may require; without Yama
        # prctl(2) fails, which does not matter.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
        # It attaches to this thread, so that imports are not traced.
        command = [strace, "-qq", "-o", str(log), "-p", str(os.getpid())]
        tracer = native.start(command)
        try:
            _wait_for(tracer)
            os.access("/mark/begin", os.F_OK)
            result = work()
            os.access("/mark/end", os.F_OK)
        finally:
            tracer.terminate()  # it detaches before it ends
            tracer.communicate(timeout=_PATIENCE)
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, 0, 0, 0, 0)
        lines = log.read_text(errors="replace").splitlines()
        (begin,) = [i for i, one in enumerate(lines) if "/mark/begin" in one]
        (end,) = [i for i, one in enumerate(lines) if "/mark/end" in one]
        names = [line.partition("(")[0] for line in lines[begin + 1 : end]]
        return result, Counter(one for one in names if one not in _MEMORY)


def _wait_for(tracer: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while f"TracerPid:\t{tracer.pid}\n" not in _STATUS.read_text():
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise UnavailableError(
                "the right to trace system calls",
                "sysctl -w kernel.yama.ptrace_scope=1, and no other tracer",
            )
        time.sleep(0.002)
