"""Compiles the C sources of the measurements when they run, once a process,
and calls them.

A contender in C is a shared library with the functions of lab/side.h. ctypes
releases the GIL, so a whole slice runs in C.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from .contender import UnavailableError
from .link import Counter, Ends, Frames, Link

SOURCES: Final = Path(__file__).parents[1]

_FLAGS: Final = ("-O2", "-std=gnu11", "-Wall", "-Wextra")

# Headers and libraries that may be missing, and the commands to install them.
INSTALL: Final[Mapping[str, str]] = {
    "pcap/pcap.h": "apt-get install libpcap-dev",
    "pcap": "apt-get install libpcap-dev",
    "c": "apt-get install libc6-dev",
}
_NOT_FOUND: Final = re.compile(
    r"(?:fatal error: |cannot find -l|library not found for -l)"
    r"'?([\w./]*\w)"
)


def library(source: str) -> ctypes.CDLL:
    """Compiles a source to a shared library and loads it. "loop/side.c:ring"
    is loop/side.c with the receiver lab/receive_ring.h.

    Raises UnavailableError if a compiler or a header is missing, and
    RuntimeError with the compiler's message for anything else.
    """
    return ctypes.CDLL(str(_library(source)))


@functools.cache
def _library(source: str) -> Path:
    file, _, receiver = source.partition(":")
    path = _folder() / re.sub(r"\W", "-", source)
    more = [f'-DRECEIVER="receive_{receiver}.h"'] if receiver else []
    more += ["-shared", "-fPIC"]
    _compile(file, path, more, ["-lpcap"] if "pcap" in source else [])
    return path


@functools.cache
def program(source: str) -> Path:
    """Compiles a source to a program that needs no libraries; returns its
    path, which ends like the source's without the suffix. Raises the errors of
    library()."""
    path = _folder() / Path(source).stem
    _compile(source, path, ["-static"], [])
    return path


def _compile(
    source: str, path: Path, options: list[str], libraries: list[str]
) -> None:
    command = [*compiler(), *_FLAGS, f"-I{SOURCES / 'lab'}", *options]
    command += ["-o", str(path), str(SOURCES / source), *libraries]
    done = run(command)
    if done.returncode != 0:
        absent = _NOT_FOUND.search(done.stderr)
        if absent is not None and absent[1] in INSTALL:
            raise UnavailableError(absent[1], INSTALL[absent[1]])
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def compiler() -> list[str]:
    """The command that compiles C, or UnavailableError."""
    given = os.environ.get("CC", "").split()
    found = shutil.which("gcc") or shutil.which("cc")
    if not given and found is None:
        raise UnavailableError(
            "a C compiler", "apt-get install gcc libc6-dev linux-libc-dev"
        )
    return given or [str(found)]


@functools.cache
def _folder() -> Path:
    path = tempfile.mkdtemp(prefix="rawmmsg-bench-")
    atexit.register(_remove, path, os.getpid())
    return Path(path)


def _remove(path: str, owner: int) -> None:
    # A forked child runs the same handlers.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)


# ---- Contenders in C -------------------------------------------------------

ERROR_SIZE: Final = 256  # lab/side.h

# enum side_option, with AUXDATA and STAMPS
V3: Final = 4
COPY: Final = 8
ONE_BY_ONE: Final = 16
INJECT: Final = 32
LARGE: Final = 64
SEND_ONLY: Final = 128
BUFFERED: Final = 256
VNET_HDR: Final = 512
FLOOD: Final = 1024
FORWARD: Final = 2048


class _Setup(ctypes.Structure):
    """struct side_setup"""

    _fields_ = (
        ("tx", ctypes.c_int),
        ("rx", ctypes.c_int),
        ("tx_name", ctypes.c_char_p),
        ("rx_name", ctypes.c_char_p),
        ("out", ctypes.c_void_p),
        ("in", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("room", ctypes.c_size_t),
        ("stride", ctypes.c_size_t),
        ("batch", ctypes.c_uint),
        ("options", ctypes.c_uint),
    )


class Side:
    """A contender in C, opened by side_open() of its library.

    `names` are the interfaces that it sends to and receives from, `tx` and
    `rx` the sockets for that; rx=-1 makes it open its own. It uses the memory
    of `frames`. Raises OSError if it cannot be opened, and the errors of
    library(). It is closed with `stack`.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        source: str,
        names: tuple[str, str],
        frames: Frames,
        *,
        tx: int = -1,
        rx: int = -1,
        options: int = 0,
    ) -> None:
        self._library = library(source)
        self._source = source
        self._frames = frames
        memory = (frames.address(frames.out), frames.address(frames.into))
        sizes = (frames.size, frames.room, frames.stride, frames.batch)
        a, b = (name.encode() for name in names)
        self._setup = _Setup(tx, rx, a, b, *memory, *sizes, options)
        error = ctypes.create_string_buffer(ERROR_SIZE)
        self._library.side_open.restype = ctypes.c_void_p
        self._side = ctypes.c_void_p(
            self._library.side_open(ctypes.byref(self._setup), error)
        )
        if not self._side:
            raise OSError(f"{source}: {error.value.decode()}")
        stack.callback(self._library.side_close, self._side)

    @property
    def fileno(self) -> int:
        """The packet socket that receives; -1 if there is none."""
        return int(self._library.side_fileno(self._side))

    def call(self, function: str, *arguments: object) -> int:
        """Calls a function ("run" for side_run()); raises OSError if it
        returns -errno."""
        result = self._library[f"side_{function}"](self._side, *arguments)
        return succeeded(result, self._source)

    def address(self, function: str, *arguments: object) -> int:
        """Calls a function that returns a pointer."""
        found = self._library[f"side_{function}"]
        found.restype = ctypes.c_void_p
        return int(found(self._side, *arguments))


def on_link(
    link: Link, frames: Frames, source: str, options: int
) -> tuple[Side, Ends, Counter | None]:
    """A contender in C, the ends that it uses, and the counter of its socket.

    ":calls" uses the sockets of the link. Another one receives with a socket
    of its own, on a veth pair of its own, because two sockets on one pair
    would slow each other down.
    """
    shared = source.endswith(":calls")
    ends = link if shared else link.enter_context(Ends())
    tx, rx = ends.tx.fileno(), link.rx.fileno() if shared else -1
    setup = (source, ends.names, frames)
    side = Side(link, *setup, tx=tx, rx=rx, options=options)
    if side.fileno < 0:
        return side, ends, None
    return side, ends, link.enter_context(Counter(side.fileno))


def succeeded(result: int, source: str) -> int:
    """The result of a function in C; raises OSError if that is -errno."""
    if result < 0:
        raise OSError(-result, f"{source}: {os.strerror(-result)}")
    return result


# ---- Programs --------------------------------------------------------------


def environment() -> dict[str, str]:
    """The environment for programs other than Python: without a sanitizer,
    which would slow them down and report their leaks."""
    return {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}


def run(
    command: Sequence[str], cwd: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program for at most a minute, and collects what it prints."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=60,
    )


def start(
    argv: Sequence[str | Path], env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts a program with pipes; `env` is environment() by default."""
    return subprocess.Popen(
        [str(argument) for argument in argv],
        env=environment() if env is None else env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
