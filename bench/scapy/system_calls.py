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
_NONE: Final = ctypes.c_ulong(0)

_PATIENCE: Final = 10.0  # seconds, for strace to attach or to detach

# Calls that allocate memory for Python's objects have nothing to do with
# sockets.
_MEMORY: Final = frozenset(
    {"brk", "madvise", "mmap", "mprotect", "mremap", "munmap"}
)


def counted(work: Callable[[], _T]) -> tuple[_T, Mapping[str, int]]:
    """Runs `work` in this thread. Returns its result, and how often it made
    each system call, except those that allocate memory.

    Raises UnavailableError if strace is missing or may not trace this process.
    """
    strace = peers.program("strace")
    with tempfile.TemporaryDirectory(prefix="rawmmsg-bench-") as folder:
        log = Path(folder, "calls")
        _let_trace(_ANY)
        tracer = native.start(
            # It attaches to this thread, so that imports are not traced.
            [strace, "-qq", "-o", log, "-p", str(os.getpid())]
        )
        try:
            _wait_for(tracer)
            _mark("begin")
            result = work()
            _mark("end")
        finally:
            tracer.terminate()  # it detaches before it ends
            tracer.communicate(timeout=_PATIENCE)
            _let_trace(_NONE)
        return result, _between_marks(log.read_text(errors="replace"))


def _let_trace(whom: ctypes.c_ulong) -> None:
    """Allows strace, which is not an ancestor, to trace this process even if
    Yama restricts ptrace(2). Without Yama prctl(2) fails, which does not
    matter."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, whom, 0, 0, 0)


def _wait_for(tracer: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while _tracer() != tracer.pid:
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise UnavailableError(
                "the right to trace system calls",
                "sysctl -w kernel.yama.ptrace_scope=1, and no other tracer",
            )
        time.sleep(0.002)


def _tracer() -> int:
    """The process that traces this thread; 0: none."""
    status = Path("/proc/thread-self/status").read_text()
    _, _, after = status.partition("TracerPid:")
    return int(after.split(maxsplit=1)[0])


def _mark(name: str) -> None:
    """Makes a system call that marks a place in the log."""
    os.access(f"/mark/{name}", os.F_OK)


def _between_marks(log: str) -> Mapping[str, int]:
    lines = log.splitlines()
    (first,) = [i for i, line in enumerate(lines) if "/mark/begin" in line]
    (last,) = [i for i, line in enumerate(lines) if "/mark/end" in line]
    names = [line.partition("(")[0] for line in lines[first + 1 : last]]
    return Counter(name for name in names if name not in _MEMORY)
