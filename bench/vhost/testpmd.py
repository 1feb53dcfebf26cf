"""testpmd, the program with which DPDK tests its drivers. Here it is a virtual
machine, whose network card DPDK's virtio-user driver provides, or a switch."""

import contextlib
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ..lab import cpus, native, peers
from ..lab.contender import UnavailableError

PATIENCE: Final = 20.0  # seconds, for operations that take a few

# Of huge pages, for each process.
MEGABYTES: Final = 128
_BUFFERS: Final = 16_384  # of 2 KiB
_BURST: Final = 64  # frames that it receives and sends at once

_PROMPT: Final = "testpmd> "
# The process has a mount of its own, so its pages are free again when it has
# ended, however it ends.
_MOUNT: Final = 'mount -t hugetlbfs -o pagesize=2M none "$0" && exec "$@"'
_NO_DRIVER: Final = re.compile('EAL: failed to parse device "([a-z_]+)')

_COUNTS: Final = re.compile(
    r"Forward statistics for port (\d+) .*?"
    r"RX-packets: (\d+) .*?TX-packets: (\d+) +TX-dropped: (\d+)",
    re.DOTALL,
)


class Counts(NamedTuple):
    """The frames of a port: received, sent, and dropped instead of sent."""

    received: int
    sent: int
    dropped: int


class Testpmd:
    """A running testpmd; see running()."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid
        self._read()

    def start(self) -> None:
        """Starts to forward."""
        self.run("start")

    def stop(self) -> list[Counts]:
        """Stops to forward; returns each port's counts since start()."""
        text = self.run("stop")
        found = [[int(n) for n in one] for one in _COUNTS.findall(text)]
        return [Counts(*counts) for _, *counts in sorted(found)]

    def run(self, command: str) -> str:
        """Types a command; returns what it prints."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        """What it prints until it asks for a command."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        text, deadline = "", time.monotonic() + PATIENCE
        while not text.endswith(_PROMPT):
            left = max(0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError(f"testpmd does not answer: {text}")
            read = os.read(descriptor, 65536).decode()
            if not read:
                raise self._failure()
            text += read
        return text

    def _failure(self) -> Exception:
        _, words = self._process.communicate(timeout=PATIENCE)
        if words.startswith(("unshare:", "mount:")):
            what = "the right to mount hugetlbfs"
            return UnavailableError(what, "run as root")
        driver = _NO_DRIVER.search(words)
        if driver is not None:
            install, _ = peers.PROGRAMS["dpdk-testpmd"]
            return UnavailableError(f"DPDK's driver {driver[1]}", install)
        return RuntimeError(f"testpmd has ended: {words}")


@contextlib.contextmanager
def running(
    cpu: int, folder: str, name: str, ports: Sequence[str]
) -> Iterator[Testpmd]:
    """Runs testpmd on one CPU. It forwards between `ports`, virtual devices
    such as "net_vhost0,iface=PATH". Its files are in `folder`; `name` is not
    that of another one there. It ends with this process. Raises
    UnavailableError if DPDK, or the driver of a port, is not installed."""
    pages = Path(folder) / f"{name}.pages"
    pages.mkdir()
    command = [peers.program("unshare"), "--mount", "sh", "-c", _MOUNT]
    command += [str(pages), "setpriv", "--pdeathsig=KILL", "stdbuf", "-oL"]
    command += [peers.program("dpdk-testpmd"), "--no-pci", "--no-telemetry"]
    command += ["--lcores", f"0@{cpu},1@{cpu}", "-m", str(MEGABYTES)]
    command += ["--huge-dir", str(pages), "--single-file-segments"]
    command += ["--file-prefix", name, "--log-level=error"]
    for port in ports:
        command += ["--vdev", port]
    command += ["--", "--interactive", "--no-flush-rx", f"--burst={_BURST}"]
    command += [f"--total-num-mbufs={_BUFFERS}"]
    environment = native.environment() | {"RUNTIME_DIRECTORY": folder}
    with cpus.pinned(cpu):
        started = native.start(command, environment)
    with started as process:
        try:
            yield Testpmd(process)
        finally:
            process.kill()
