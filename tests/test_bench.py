"""The measurements of bench/ run, and assert what they measure."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BRIEFLY = ["--slices", "2", "--slice-ms", "1"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of bench/, which lies beside the package under test.

    Its folder comes last in sys.path: the package may be installed elsewhere.
    """
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    return lambda name: importlib.import_module(f"bench.{name}")


@pytest.fixture
def frames(bench: Any) -> Any:
    """Four numbered frames as received: without the network."""
    frames = bench("link").Frames(4, 64)
    for received, sent in zip(
        frames.into_views, frames.out_views, strict=True
    ):
        received[:] = sent
    return frames


def test_every_side_of_the_loop_passes_its_ground_truth(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes, batches = ["64", "1500"], ["1", "16"]
    bench("__main__").main(
        ["loop", "--size", *sizes, "--batch", *batches, *BRIEFLY]
    )
    printed = capsys.readouterr().out
    for size in sizes:
        for batch in batches:
            assert f"{size}-byte frames, batches of {batch}:" in printed
    for side in bench("loop").SIDES:
        lines = printed.count(f"\n{side.name} ")
        assert lines == len(batches) * len(sizes), f"{side.name} is missing"


def test_every_stride_passes_its_ground_truth(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes, strides = ["64", "1500"], ["2048", "1600"]
    bench("__main__").main(
        [
            *("stride", "--size", *sizes, "--batch", "16"),
            *("--stride", *strides, *BRIEFLY),
        ]
    )
    printed = capsys.readouterr().out
    for side in ("2048", "2048, control", "1600"):
        lines = printed.count(f"\n{side} ")
        assert lines == len(sizes), f"{side} is missing"


def test_the_limit_sees_every_byte_and_no_tag(bench: Any) -> None:
    batch, size, rounds = 8, 100, 3
    link_module, loop = bench("link"), bench("loop")
    with link_module.Link() as link:
        frames = link_module.Frames(batch, size)
        for auxdata in (False, True):
            link.set_auxdata(auxdata)
            with loop.open_limit(link, frames, auxdata) as limit:
                assert limit.run(rounds) == [size] * batch
                assert limit.totals() == (size * batch * rounds, 0)


def test_frames_received_as_sent_are_taken(frames: Any) -> None:
    frames.check([64] * 4)


def test_frames_of_an_earlier_slice_are_refused(
    bench: Any, frames: Any
) -> None:
    frames.number()
    with pytest.raises(bench("link").GroundTruthError, match=r"\[0, 1, 2, 3"):
        frames.check([64] * 4)


def test_one_wrong_byte_is_found(bench: Any, frames: Any) -> None:
    frames.into_views[2][63] ^= 1
    with pytest.raises(bench("link").GroundTruthError, match=r"\[2\]"):
        frames.check([64] * 4)


def test_one_wrong_length_is_found(bench: Any, frames: Any) -> None:
    with pytest.raises(bench("link").GroundTruthError, match="frame 1"):
        frames.check([64, 63, 64, 64])


@pytest.mark.parametrize("received", [0, 1, 3])
def test_a_frame_too_few_or_too_many_is_found(
    bench: Any, received: int
) -> None:
    """Of two that are expected, both in the socket's counts and its queue."""
    module = bench("link")
    with module.Link() as link:
        link.reset()
        for _ in range(received):
            link.tx.send(bytes(64))
            link.rx.recv(64)
        with pytest.raises(module.GroundTruthError, match=f"{received} arriv"):
            link.check(2)


def test_a_frame_left_in_the_queue_is_found(bench: Any) -> None:
    module = bench("link")
    with module.Link() as link:
        link.reset()
        link.tx.send(bytes(64))
        with pytest.raises(module.GroundTruthError, match="never received"):
            link.check(1)


def test_ratios_are_taken_turn_by_turn(bench: Any) -> None:
    """A machine that gets slower meanwhile does not change them."""
    times = {"ours": [2.0, 4.0, 40.0], "limit": [1.0, 2.0, 20.0]}
    spread = bench("slices").ratio(times, "ours", "limit")
    assert (spread.low, spread.median, spread.high) == (2.0, 2.0, 2.0)


def test_a_missing_compiler_is_named(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = bench("limit")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="install gcc"):
        limit.load.__wrapped__()
