"""Compiles and loads the C limit (limit.c)."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

_SOURCE = Path(__file__).with_name("limit.c")


@functools.cache
def load() -> ctypes.CDLL:
    """The library, compiled once per process.

    Raises FileNotFoundError where there is no C compiler, and RuntimeError
    with the compiler's words for anything else.
    """
    compiler = (
        os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    )
    if compiler is None:
        raise FileNotFoundError(
            "the limit needs a C compiler: install gcc"
            " (apt-get install gcc libc6-dev)"
        )
    with tempfile.TemporaryDirectory(prefix="rawmmsg-bench-") as folder:
        path = os.path.join(folder, "limit.so")
        command = [*compiler.split(), "-O2", "-std=c11", "-Wall", "-Wextra"]
        command += ["-shared", "-fPIC", "-o", path, str(_SOURCE)]
        done = subprocess.run(
            command,
            # A sanitizer that is preloaded here finds leaks in compilers.
            env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        # It stays mapped when the file is gone.
        library = ctypes.CDLL(path)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    unsigned, integer = ctypes.c_uint, ctypes.c_int
    numbers = ctypes.POINTER(ctypes.c_uint64)
    library.loop_open.restype = pointer
    library.loop_open.argtypes = (
        *(integer, integer, unsigned, pointer, size, pointer, size, size),
        integer,
    )
    library.loop_run.argtypes = (
        *(pointer, unsigned, ctypes.POINTER(ctypes.c_uint32)),
    )
    library.loop_totals.argtypes = (pointer, numbers, numbers)
    library.loop_totals.restype = None
    library.loop_close.argtypes = (pointer,)
    library.loop_close.restype = None
    return library


class Loop:
    """A C program that sends a batch and receives it back.

    Takes descriptors and addresses: who calls keeps them valid.
    """

    def __init__(
        self,
        *,
        tx: int,
        rx: int,
        batch: int,
        out: int,
        size: int,
        into: int,
        room: int,
        stride: int,
        auxdata: bool,
    ) -> None:
        self._library = load()
        self._lengths = (ctypes.c_uint32 * batch)()
        self._loop: int | None = self._library.loop_open(
            tx, rx, batch, out, size, into, room, stride, auxdata
        )
        if self._loop is None:
            raise MemoryError

    def run(self, rounds: int) -> list[int]:
        """Runs a slice; the lengths of what the last call received."""
        count = self._library.loop_run(self._loop, rounds, self._lengths)
        if count < 0:
            raise OSError(-count, f"limit: {os.strerror(-count)}")
        return self._lengths[:count]

    def totals(self) -> tuple[int, int]:
        """Bytes received and tags seen in all slices."""
        seen, tags = ctypes.c_uint64(), ctypes.c_uint64()
        self._library.loop_totals(self._loop, seen, tags)
        return seen.value, tags.value

    def close(self) -> None:
        loop, self._loop = self._loop, None
        self._library.loop_close(loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
