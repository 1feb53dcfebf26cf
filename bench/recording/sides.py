"""Contenders that record what another CPU sends at a steady pace."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rawmmsg.pcap import Reader

from ..forward.hosts import wait_until
from ..lab import cpus, native, peers
from ..lab.contender import (
    GroundTruthError,
    Ready,
    Slice,
    UnavailableError,
)
from ..lab.link import HEADER, NUMBERS, Ends, numbered
from ..lab.pace import Sender

BURST: Final = 64

STEP: Final = 0.1  # million frames a second

# The rate at which CPU times are compared.
COMPARED: Final = 0.1

# tcpdump gets a block of its ring after a second at the latest.
_QUIET: Final = 1.2

_COMPARED_EVERY: Final = 64

_AS_ROOT: Final = "run as root"

Command = Callable[[str, Path], Sequence[str]]
"""Makes the command that records an interface to a file."""


@dataclass(frozen=True)
class Place:
    """Frames of `size` bytes are sent for some seconds, and recorded in a file
    in the folder. `rates`: how many rates are tried, from the lowest."""

    stack: contextlib.ExitStack
    folder: Path
    senders_cpu: int
    recorders_cpu: int
    size: int
    seconds: float
    rates: int


def place(stack: contextlib.ExitStack, **options: object) -> Place:
    """A place whose folder is in memory, if the system has one there."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    made = tempfile.TemporaryDirectory(prefix="rawmmsg-bench-", dir=parent)
    folder = Path(stack.enter_context(made))
    return Place(stack, folder, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Run:
    """What happened at one rate. The CPU times are for a frame, in ns."""

    lost: int
    is_slow: bool
    """Whether the sender could not keep the rate, which proves nothing."""
    sender: float
    recorder: float


class Recorder:
    """A contender on a veth pair of its own."""

    def __init__(self, place: Place, command: Command) -> None:
        self._place = place
        self._command = command
        ends = place.stack.enter_context(Ends())
        self._interface = ends.veth.b
        self._sender = Sender(place.stack, ends, BURST, place.size)
        self._best = 0  # the rate of the last slice, in steps

    def run(self, _: int) -> Slice:
        """The highest rate at which no frame is lost, in million frames a
        second: each lower one was tried in this slice or an earlier one."""
        begin = time.monotonic_ns()
        at = max(1, self._best)
        while at > 1 and not self._keeps(at):
            at -= 1
        while at < self._place.rates and self._keeps(at + 1):
            at += 1
        compared = self._record(COMPARED)
        self._best = at if at > 1 or not compared.lost else 0
        ns = time.monotonic_ns() - begin
        total = compared.sender + compared.recorder
        extra = {
            "CPU, ns": total,
            "sender, ns": compared.sender,
            "recorder, ns": compared.recorder,
        }
        return Slice(self._best * STEP, ns, extra)

    def _record(self, rate: float) -> Run:
        place, first = self._place, self._sender.number
        file = place.folder / "recording"
        with self._recording(file) as process:
            before = _cpu_ns(process.pid)
            sent = self._sender.send(
                *(rate * 1e6, place.seconds, place.senders_cpu),
                before=_go_first,
            )
            _wait_until_idle(process.pid)
            used = _cpu_ns(process.pid) - before
        numbers = range(first, self._sender.number)
        recorded = count_frames(file, numbers, place.size)
        file.unlink()
        lost = len(numbers) - recorded
        is_slow = sent.wall_ns > 1.05e9 * place.seconds
        times = sent.cpu_ns / sent.sent, used / sent.sent
        return Run(lost, is_slow, *times)

    def _keeps(self, step: int) -> bool:
        """Whether every frame is recorded at this rate."""
        run = self._record(step * STEP)
        return not run.lost and not run.is_slow

    @contextlib.contextmanager
    def _recording(self, file: Path) -> Iterator[subprocess.Popen[str]]:
        """Runs the command. All that it prints goes to a file."""
        output = self._place.folder / "output"
        command = self._command(self._interface, file)
        with (
            cpus.pinned(self._place.recorders_cpu),
            output.open("w") as printed,
        ):
            process = subprocess.Popen(
                command,
                env=native.environment(),
                stdout=printed,
                stderr=printed,
                text=True,
            )
            _go_first(process.pid)
        with process:
            try:
                # tcpdump, dumpcap, and rawmmsg record
                words = ("listening on", "File: ", "recording ")
                wait_until(
                    lambda: (
                        any(one in output.read_text() for one in words)
                        or process.poll() is not None
                    ),
                    f"{command[0]} does not record",
                )
                if process.poll() is not None:
                    raise OSError(f"{command[0]}: {output.read_text()}")
                yield process
            finally:
                process.send_signal(signal.SIGINT)
        if process.returncode:
            raise GroundTruthError(f"{command[0]}: {output.read_text()}")


def _go_first(pid: int = 0) -> None:
    """Lets a process, or this thread, run before others, if the user may
    choose that."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))


def _cpu_ns(pid: int) -> int:
    """How long the threads of a process have had a CPU."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def _wait_until_idle(pid: int) -> None:
    """Waits until the process has nothing to do."""
    before, quiet = -1, 0.0
    while quiet < _QUIET:
        time.sleep(0.1)
        now = _cpu_ns(pid)
        # A recorder that waits wakes up now and then.
        quiet = quiet + 0.1 if now - before < 2e6 else 0.0
        before = now


def count_frames(file: Path, numbers: range, size: int) -> int:
    """How many of the frames with these numbers are in the file. Raises
    GroundTruthError unless they are in order and unchanged."""
    make, at = numbered(size), len(HEADER)
    count, last = 0, numbers.start - 1
    with Reader(file) as reader:
        for batch in reader:
            for frame in batch:
                if frame[12:14] != HEADER[12:14]:
                    continue  # the kernel's own
                number, index = NUMBERS.unpack_from(frame, at)
                if not last < number < numbers.stop:
                    raise GroundTruthError(f"{number} follows {last}")
                last = number
                count += 1
                if count % _COMPARED_EVERY == 1 and frame != make(
                    number, index
                ):
                    raise GroundTruthError(f"frame {number} was changed")
    return count


def rawmmsg(*options: str) -> Command:
    return lambda interface, file: (
        *(sys.executable, "-m", "rawmmsg", "record"),
        *(*options, interface, str(file)),
    )


def tcpdump(*options: str) -> Command:
    program = peers.program("tcpdump")
    # Even with -Z root, it sets its groups.
    if Path("/proc/self/setgroups").read_text().strip() == "deny":
        raise UnavailableError("a tcpdump that may set its groups", _AS_ROOT)
    # Not as another user, who could not write into the folder.
    return lambda interface, file: (
        *(program, "-n", "-Z", "root", *options),
        *("-i", interface, "-w", str(file)),
    )


def dumpcap(*options: str) -> Command:
    program = peers.program("dumpcap")
    return lambda interface, file: (
        *(program, "-q", *options, "-i", interface, "-w", str(file)),
    )


def prepared(
    make: Callable[..., Command], *options: str
) -> Callable[[Place], Ready]:
    """Makes a contender ready for the runner."""
    return lambda place: Ready(Recorder(place, make(*options)).run)
