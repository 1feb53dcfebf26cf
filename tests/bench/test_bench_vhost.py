"""bench/vhost finds every frame that is lost or changed between a host and a
virtual machine, and says what it needs."""

import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from support.child import tool
from support.frames import pending

from bench.forward import hosts
from bench.lab import native
from bench.lab.contender import GroundTruthError, UnavailableError
from bench.lab.runner import Lab
from bench.vhost import (
    download,
    measure,
    pages,
    recordings,
    testpmd,
    upload,
)
from bench.vhost.machine import Place
from bench.vhost.switches import bridge
from bench.vhost.testpmd import Counts
from rawmmsg import RawSocket

Frames = list[bytes]

COUNT = 64  # frames that a machine sends at a time
SECONDS = 0.1


def same(frames: Frames) -> Frames:
    return frames


def lose(frames: Frames) -> Frames:
    return frames[:-1]


def change(frames: Frames) -> Frames:
    return [*frames[:-1], frames[-1][:-1] + b"!"]


def duplicate(frames: Frames) -> Frames:
    return [*frames[:-1], frames[-2]]


def swap(frames: Frames) -> Frames:
    return [*frames[:-2], frames[-1], frames[-2]]


class Machine:
    """A virtual machine and its switch, for which a packet socket at the
    switch's interface stands. `alter` is what they do to frames."""

    alter: ClassVar[Callable[[Frames], Frames]] = same

    def __init__(
        self,
        place: Place,
        _: object,
        interface: str,
        frames: Iterable[bytes] = (),
    ) -> None:
        self._frames = list(frames)
        self._next = 0
        self._sock = place.stack.enter_context(
            RawSocket(interface, ignore_outgoing=True)
        )
        self._received: Frames = []
        self._count = 0
        self._timer = threading.Timer(SECONDS / 2, self._send)
        self.file = FILES.pop()
        self.testpmd = self

    @contextmanager
    def switching(self) -> Iterator[None]:
        yield

    def switchs_cpu_ns(self) -> int:
        return 0

    def start(self) -> None:
        if self._frames:
            self._timer = threading.Timer(SECONDS / 2, self._send)
            self._timer.start()

    def _send(self) -> None:
        sent = self._frames[self._next : self._next + COUNT]
        self._next = (self._next + COUNT) % len(self._frames)
        self._sock.sendmmsg_all(Machine.alter(sent))

    def stop(self) -> list[Counts]:
        if self._frames:
            self._timer.join()
        return [Counts(0, COUNT, 0), Counts(COUNT, 0, 0)]

    def run(self, command: str) -> str:
        """The commands of testpmd that bench/vhost uses."""
        if command == "port stop 1":
            recordings.write(self.file, Machine.alter(self._received))
            self._received.clear()
        if command == "show port stats 0":
            new = pending(self._sock)
            self._received += new
            self._count += len(new)
        return f"  RX-packets: {self._count}  RX-missed: 0"


FILES: list[Path] = []


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    """Where such machines are."""
    for module in (upload, download):
        monkeypatch.setattr(module, "Machine", Machine)
    monkeypatch.setattr(upload, "_ROOM", None)
    monkeypatch.setattr(upload, "_SHORT", SECONDS)
    monkeypatch.setattr(upload, "_WARM_UP", 0)
    monkeypatch.setattr(hosts, "PATIENCE", 0.5)
    FILES[:] = [tmp_path / "frames.pcap"]
    with ExitStack() as stack:
        yield Place(stack, 0, 0, size=64, seconds=SECONDS, burst=8)


FAULTS = pytest.mark.parametrize("fault", [lose, change, duplicate, swap])


def test_frames_from_a_machine_are_accepted(place: Place) -> None:
    """Those of a timed run, of which some are compared, too."""
    made = upload.Upload(place, bridge)
    for _ in range(3):
        assert made.run(1).figure > 0


@FAULTS
def test_fault_from_a_machine_is_found(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Frames], Frames],
) -> None:
    made = upload.Upload(place, bridge)
    monkeypatch.setattr(Machine, "alter", fault)
    with pytest.raises(GroundTruthError, match=r"64 frames of|of 64 frames"):
        made.run(1)


@pytest.fixture
def downloading(place: Place) -> download.Download:
    """A host that sends for so short a time that the smallest receive buffer
    holds all frames."""
    tool("gcc")
    return download.Download(replace(place, seconds=0.001), bridge)


def test_frames_to_a_machine_are_accepted(
    downloading: download.Download,
) -> None:
    for _ in range(2):
        assert downloading.run(1).extra["sender, ns"] > 0


@FAULTS
def test_fault_to_a_machine_is_found(
    downloading: download.Download,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Frames], Frames],
) -> None:
    monkeypatch.setattr(Machine, "alter", fault)
    with pytest.raises(GroundTruthError, match="frames sent"):
        downloading.run(1)


def test_recording_holds_frames(tmp_path: Path) -> None:
    frames = [bytes([i] * (60 + i)) for i in range(5)]
    path = tmp_path / "frames.pcap"
    for made in (frames, []):
        recordings.write(path, made)
        assert list(recordings.read(path)) == made


# testpmd

SAYS = "printf 'testpmd> '; read line; printf '%s'; read line"
STATISTICS = """
  ---------------------- Forward statistics for port 0  --------------------
  RX-packets: 1              RX-dropped: 0             RX-total: 1
  TX-packets: 20             TX-dropped: 3             TX-total: 23

  ---------------------- Forward statistics for port 1  --------------------
  RX-packets: 40             RX-dropped: 0             RX-total: 40
  TX-packets: 5              TX-dropped: 0             TX-total: 5

  +++++++++++++++ Accumulated forward statistics for all ports++++++++++++++
  RX-packets: 41             RX-dropped: 0             RX-total: 41
  TX-packets: 25             TX-dropped: 3             TX-total: 28
testpmd> """


@contextmanager
def program(script: str) -> Iterator["subprocess.Popen[str]"]:
    with native.start(["sh", "-c", script]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_counts_of_each_port_are_read() -> None:
    with program(SAYS.replace("%s", STATISTICS)) as process:
        assert testpmd.Testpmd(process).stop() == [
            Counts(1, 20, 3),
            Counts(40, 5, 0),
        ]


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ('EAL: failed to parse device "net_vhost0"', "net_vhost"),
        ("mount: none: permission denied", "run as root"),
        ("unshare: Operation not permitted", "run as root"),
    ],
)
def test_what_testpmd_lacks_is_named(printed: str, words: str) -> None:
    with (
        program(f"echo '{printed}' >&2") as process,
        pytest.raises(UnavailableError, match=words),
    ):
        testpmd.Testpmd(process)


def test_testpmd_that_fails_says_why() -> None:
    with (
        program("echo out of memory >&2") as process,
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        testpmd.Testpmd(process)


# What it needs


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program that is called like testpmd."""
    path = tmp_path / "dpdk-testpmd"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_missing_dpdk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnavailableError, match="apt-get install dpdk"):
        list(measure.measure(Lab()))


@pytest.mark.usefixtures("installed")
def test_single_cpu_is_not_enough() -> None:
    with pytest.raises(UnavailableError, match="a second CPU"):
        list(measure.measure(Lab(senders_cpu=0, receivers_cpu=0)))


@pytest.mark.usefixtures("installed")
def test_system_without_huge_pages_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pages, "_FOLDER", tmp_path / "none")
    with pytest.raises(UnavailableError, match="512 free huge pages"):
        list(measure.measure(Lab(senders_cpu=0, receivers_cpu=1)))


@pytest.mark.parametrize(
    ("total", "free", "taken"), [(0, 0, 10), (10, 10, 10), (12, 4, 18)]
)
def test_huge_pages_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    total: int,
    free: int,
    taken: int,
) -> None:
    """If the system has them, as many as are missing are taken."""
    files = {"nr_hugepages": total, "free_hugepages": free}
    for name, number in files.items():
        (tmp_path / name).write_text(f"{number}\n")
    monkeypatch.setattr(pages, "_FOLDER", tmp_path)
    seen = []

    def free_now() -> int:
        seen.append(int((tmp_path / "nr_hugepages").read_text()))
        return free if len(seen) == 1 else 10

    monkeypatch.setattr(pages, "_free", free_now)
    with pages.huge_pages(10):
        assert seen == [total, taken]
    assert int((tmp_path / "nr_hugepages").read_text()) == total


def test_huge_pages_that_the_system_has_not_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("nr_hugepages", "free_hugepages"):
        (tmp_path / name).write_text("3\n")
    monkeypatch.setattr(pages, "_FOLDER", tmp_path)
    with (
        pytest.raises(UnavailableError, match="free some memory"),
        pages.huge_pages(10),
    ):
        pass
    assert (tmp_path / "nr_hugepages").read_text() == "3"
