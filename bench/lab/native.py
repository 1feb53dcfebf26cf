"""Compiles the C sides (bench/c) when they run, once per process."""

import atexit
import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ..framework import GroundTruthError, Unavailable

SOURCES: Final = Path(__file__).parents[1] / "c"

_FLAGS: Final = ("-O2", "-std=gnu11", "-Wall", "-Wextra")

# What a compiler or linker does not find, and where it comes from.
_INSTALL: Final[Mapping[str, str]] = {
    "pcap.h": "apt-get install libpcap-dev",
    "pcap/pcap.h": "apt-get install libpcap-dev",
    "pcap": "apt-get install libpcap-dev",
    "xdp/xsk.h": "apt-get install libxdp-dev libbpf-dev",
    "xdp": "apt-get install libxdp-dev libbpf-dev",
    "bpf/bpf.h": "apt-get install libbpf-dev",
    "bpf": "apt-get install libbpf-dev",
}
_NOT_FOUND: Final = re.compile(
    r"(?:fatal error: |cannot find -l|library not found for -l)"
    r"'?([\w./]*\w)"
)


def library(source: str, *libraries: str) -> ctypes.CDLL:
    """A source of bench/c as a shared library; `libraries` are linked to it.

    Raises Unavailable where a compiler or a library's headers are missing,
    and RuntimeError with the compiler's words for anything else.
    """
    return ctypes.CDLL(str(compiled(source, libraries, shared=True)))


def program(source: str, *libraries: str) -> Path:
    """A source of bench/c as an executable, which lives as long as this
    process. Raises as library() does."""
    return compiled(source, libraries, shared=False)


@functools.cache
def compiled(source: str, libraries: Sequence[str], shared: bool) -> Path:
    path = _folder() / (Path(source).stem + (".so" if shared else ""))
    command = [*_compiler(), *_FLAGS]
    command += ["-shared", "-fPIC"] if shared else ["-pthread"]
    command += ["-o", str(path), str(SOURCES / source)]
    command += [f"-l{name}" for name in libraries]
    done = subprocess.run(
        command,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        absent = _NOT_FOUND.search(done.stderr)
        if absent is not None and absent[1] in _INSTALL:
            raise Unavailable(f"{absent[1]} for {source}", _INSTALL[absent[1]])
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return path


def _compiler() -> list[str]:
    given = os.environ.get("CC", "").split()
    found = shutil.which("gcc") or shutil.which("cc")
    if not given and found is None:
        raise Unavailable(
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


def environment() -> dict[str, str]:
    """For programs that are not Python: without a sanitizer that is preloaded
    into this process, which would slow them down and find their leaks."""
    return {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}


def start(
    argv: Sequence[str | Path], env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts a program whose result finish() takes; `env` is environment()
    unless given."""
    return subprocess.Popen(
        [str(argument) for argument in argv],
        env=environment() if env is None else env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float) -> dict[str, float]:
    """Waits for a program and returns the figures that it printed, as one
    line of JSON.

    Raises GroundTruthError with its words where it failed, or took more than
    `timeout` seconds; it has ended in any case.
    """
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise GroundTruthError(
                f"{process.args!r} did not end in {timeout} s: {err}"
            ) from None
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise GroundTruthError(
            f"{process.args!r} ended with {process.returncode}: {err}"
        )
    figures: dict[str, float] = json.loads(out)
    return figures


def run(argv: Sequence[str | Path], timeout: float) -> dict[str, float]:
    """Runs a C side and returns its figures, as finish() does."""
    return finish(start(argv), timeout)
