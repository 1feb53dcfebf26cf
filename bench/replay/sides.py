"""Contenders that send a recording."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth, veth_pair

from ..forward.hosts import run
from ..lab import cpus, native, peers
from ..lab.contender import (
    GroundTruthError,
    P,
    Ready,
    Slice,
    UnavailableError,
)
from ..lab.link import HEADER, PATIENCE, numbered
from ..merging import sides as merging
from ..merging.frames import Datagrams
from ..send import sides as send

# ---- A file that is sent again and again ------------------------------------

LOOPS: Final = 200


def rawmmsg(place: send.Place) -> Ready:
    """rawmmsg replay at top speed."""
    return _rawmmsg(place, 1)


def merged(place: merging.Place) -> Ready:
    """The same with super-frames."""
    return _rawmmsg(place, place.joined, "--merge")


def _rawmmsg(place: send.Place, joined: int, *options: str) -> Ready:
    def arguments(interface: str, times: int, _: int) -> list[str]:
        loop = ["--top-speed", f"--loop={times}"]
        return ["replay", send.FILE, interface, *loop, *options]

    return send.program(
        *(send.RAWMMSG, send.write_pcap, arguments, r" in (\d+\.\d+) s\n"),
        place,
        joined=joined,
    )


def looped(prepare: Callable[[P], Ready]) -> Callable[[P], Ready]:
    """The same, always with LOOPS loops, or as many as the far side can
    check."""

    def prepare_looped(place: P) -> Ready:
        ready = prepare(place)

        def run_slice(times: int) -> Slice:
            most = LOOPS if times > 1 else 1
            return ready.run(min(most, ready.most))

        return Ready(run_slice, ready.work, LOOPS)

    return prepare_looped


# ---- A large file that is sent once -----------------------------------------


class LargeFile(contextlib.ExitStack):
    """A veth pair, and a file of about so many bytes with numbered frames of
    one flow. A context manager."""

    def __init__(self, size: int, make: Datagrams) -> None:
        super().__init__()
        self.veth: Veth = self.enter_context(veth_pair())
        self.folder = self.enter_context(
            tempfile.TemporaryDirectory(prefix="rawmmsg-bench-")
        )
        packets = [make(1, i) for i in range(1024)]
        part = send.write_pcap_of(packets)
        header, body = part[:24], part[24:]
        parts = max(1, size // len(body))
        self.headers = make.headers
        self.frames = parts * len(packets)
        self.bytes = parts * sum(map(len, packets))
        with Path(self.folder, send.FILE).open("wb") as file:
            file.write(header)
            for _ in range(parts):
                file.write(body)

    def arrived(self) -> tuple[int, int]:
        return _counts(self.veth.b)


def _counts(interface: str) -> tuple[int, int]:
    """Frames and bytes that the interface has received."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    (row,) = (one for one in lines if one.strip().startswith(f"{interface}:"))
    size, frames = map(int, row.partition(":")[2].split()[:2])
    return frames, size


Command: TypeAlias = Callable[[str], Sequence[str]]
"""Makes the command that sends the file on an interface."""


def replays(*options: str) -> Command:
    return lambda interface: [
        *(*send.PYTHON, "replay", send.FILE, interface, *options)
    ]


def tcpreplays(*options: str) -> Command:
    program = peers.program("tcpreplay")
    return lambda interface: [
        *(program, "--quiet", *options, f"--intf1={interface}", send.FILE)
    ]


def once(
    make: Callable[..., Command], *options: str, merges: bool = False
) -> Callable[[LargeFile], Ready]:
    """A program that sends the file once. The time is that of the whole
    program, because a file that is not looped has to be read."""

    def prepare(place: LargeFile) -> Ready:
        command = make(*options)(place.veth.a)

        def run_once(_: int) -> Slice:
            before = place.arrived()
            begin = time.perf_counter_ns()
            done = native.run(command, place.folder)
            ns = time.perf_counter_ns() - begin
            printed = done.stdout + done.stderr
            _check_arrived(place, before, printed, merges=merges)
            found = re.search(r" in (\d+\.\d+) s", printed)
            sending = float(found[1]) if found else 0.0
            extra = {
                "while sending, Mpps": place.frames / max(sending, 1e-9) / 1e6
            }
            return Slice(place.frames / ns * 1e3, ns, extra)

        return Ready(run_once, place.frames)

    return prepare


def _check_arrived(
    place: LargeFile,
    before: tuple[int, int],
    printed: str,
    *,
    merges: bool,
) -> None:
    """Checks that all frames have arrived. The interface counts a super-frame
    as one, and its headers once."""
    frames, size = (
        now - then for now, then in zip(place.arrived(), before, strict=True)
    )
    wanted = place.frames
    if merges:
        found = re.search(r"merged into ([\d,]+)", printed)
        wanted = int(found[1].replace(",", "")) if found else wanted
    missing_headers = (place.frames - wanted) * place.headers
    if (frames, size) != (wanted, place.bytes - missing_headers):
        raise GroundTruthError(
            f"{place.frames} frames of {place.bytes} bytes sent, {frames} of"
            f" {size} bytes arrived: {printed}"
        )


# ---- The gaps of a recording ------------------------------------------------


class Gaps(contextlib.ExitStack):
    """A veth pair, and a recording of frames with random gaps, on average of
    so many seconds. A context manager."""

    def __init__(
        self,
        frames: int,
        mean: float,
        receivers_cpu: int,
        gaps: Iterator[float],
    ) -> None:
        super().__init__()
        self.veth: Veth = self.enter_context(veth_pair())
        self.folder = self.enter_context(
            tempfile.TemporaryDirectory(prefix="rawmmsg-bench-")
        )
        self.receivers_cpu = receivers_cpu
        make = numbered(64)
        self.packets = [make(1, i) for i in range(frames)]
        # Microseconds, since tcpreplay knows no others.
        self.gaps = [
            max(1, round(1e6 * mean * next(gaps))) for _ in range(frames - 1)
        ]
        times = [0]
        for gap in self.gaps:
            times.append(times[-1] + gap)
        Path(self.folder, send.FILE).write_bytes(
            send.write_pcap_of(self.packets, times)
        )

    @property
    def microseconds(self) -> int:
        return sum(self.gaps)


def follows(
    make: Callable[..., Command], *options: str
) -> Callable[[Gaps], Ready]:
    """A program that sends at the recorded times. The figure is the error
    that 99 % of the gaps do not exceed, in microseconds."""

    def prepare(place: Gaps) -> Ready:
        command = make(*options)(place.veth.a)
        chrt = [peers.program("chrt"), "--fifo", "10"]
        if os.geteuid() or native.run([*chrt, "true"], "/").returncode:
            raise UnavailableError("a real-time priority", "run as root")

        def run_once(_: int) -> Slice:
            stamps = _stamps(place, [*chrt, *command])
            found = [
                (after - before) / 1e3 for before, after in pairwise(stamps)
            ]
            errors = sorted(
                abs(one - wanted)
                for one, wanted in zip(found, place.gaps, strict=True)
            )
            within = sum(one <= 300 for one in errors)
            total = (stamps[-1] - stamps[0]) / 1e3
            extra = {
                "median, us": errors[len(errors) // 2],
                "within 0.3 ms, %": 100 * within / len(errors),
                "duration, %": 100 * total / place.microseconds,
            }
            return Slice(errors[len(errors) * 99 // 100], total * 1e3, extra)

        return Ready(run_once, len(place.packets))

    return prepare


def _stamps(place: Gaps, command: Sequence[str]) -> list[int]:
    """Runs the command, and returns when the kernel has received each
    frame."""
    batch = PacketBatch(64, 128)
    stamps: list[int] = []
    packets: list[bytes] = []
    with RawSocket(
        place.veth.b, timestamps="software", ignore_outgoing=True
    ) as sock:
        sock.settimeout(PATIENCE)
        process = subprocess.Popen(
            command,
            cwd=place.folder,
            env=native.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with process, cpus.pinned(place.receivers_cpu):
            while len(stamps) < len(place.packets):
                count = sock.recvmmsg_into(batch)
                stamps += batch.timestamps_ns[:count].tolist()
                packets += batch.tolist()
    if packets != place.packets or 0 in stamps:
        raise GroundTruthError("frames were changed, or are not stamped")
    return stamps


# ---- Memory -----------------------------------------------------------------


class SparseFile(contextlib.ExitStack):
    """A veth pair, and a sparse file of so many bytes: the headers of its
    frames have memory, their bytes are holes. A context manager."""

    FRAME: Final = 60_000

    def __init__(self, size: int, receivers_cpu: int) -> None:
        super().__init__()
        self.receivers_cpu = receivers_cpu
        self.veth: Veth = self.enter_context(veth_pair())
        for name in (self.veth.a, self.veth.b):
            ip = peers.program("ip")
            run([ip, "link", "set", "dev", name, "mtu", "65535"])
        self.folder = self.enter_context(
            tempfile.TemporaryDirectory(prefix="rawmmsg-bench-")
        )
        header = send.write_pcap_of([bytes(self.FRAME)])[:40]
        self.frames = size // (self.FRAME + 16)
        with Path(self.folder, send.FILE).open("wb") as file:
            file.write(header[:24])
            for _ in range(self.frames):
                file.write(header[24:])
                file.seek(self.FRAME - len(HEADER), os.SEEK_CUR)
                file.write(HEADER)


def memory(
    make: Callable[..., Command], *options: str
) -> Callable[[SparseFile], Ready]:
    """The most memory that the program has, with the pages of the file that it
    maps."""

    def prepare(place: SparseFile) -> Ready:
        command = make(*options)(place.veth.a)

        def run_once(_: int) -> Slice:
            before = _counts(place.veth.b)[0]
            begin = time.perf_counter_ns()
            process = subprocess.Popen(
                command,
                cwd=place.folder,
                env=native.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            with process, cpus.pinned(place.receivers_cpu):
                most = _watch_memory(process)
            ns = time.perf_counter_ns() - begin
            arrived = _counts(place.veth.b)[0] - before
            if process.returncode or arrived != place.frames:
                raise GroundTruthError(
                    f"{place.frames} frames sent, {arrived} arrived"
                )
            return Slice(most * 1024 / 1e6, ns)

        return Ready(run_once, place.frames)

    return prepare


def _watch_memory(process: subprocess.Popen[bytes]) -> int:
    """The last VmHWM of the process, in KiB. Its ru_maxrss would begin with
    the memory of this process."""
    most = 0
    while process.poll() is None:
        text = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        if found:
            most = int(found[1])
        time.sleep(0.005)
    return most
