"""The measurement of recorders finds whatever is wrong in a file."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from support.frames import PACKET, batch_of

from bench.lab.contender import GroundTruthError
from bench.lab.link import numbered
from bench.recording.sides import count_frames
from rawmmsg.pcap import Writer

SIZE = 64
FRAMES = [numbered(SIZE)(number, number % 3) for number in range(100)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recording"


def record(file: Path, frames: Iterable[bytes]) -> None:
    with Writer(file) as writer:
        writer.write(batch_of(list(frames)), times=0)


def test_all_frames_are_counted(file: Path) -> None:
    record(file, FRAMES)
    assert count_frames(file, range(100), SIZE) == 100


def test_lost_frames_are_not_counted(file: Path) -> None:
    record(file, FRAMES[:50] + FRAMES[60:])
    assert count_frames(file, range(100), SIZE) == 90


def test_frames_of_the_kernel_are_not_counted(file: Path) -> None:
    other = PACKET[:12] + b"\x86\xdd" + PACKET[14:]
    record(file, [other, *FRAMES, other])
    assert count_frames(file, range(100), SIZE) == 100


@pytest.mark.parametrize(
    "frames",
    [
        [*FRAMES[:5], FRAMES[4]],
        [FRAMES[1], FRAMES[0]],
        [FRAMES[0][:-1] + b"x"],
        [numbered(SIZE)(100, 0)],
    ],
    ids=["twice", "disordered", "changed", "never sent"],
)
def test_wrong_frames_are_found(file: Path, frames: list[bytes]) -> None:
    record(file, frames)
    with pytest.raises(GroundTruthError):
        count_frames(file, range(100), SIZE)
