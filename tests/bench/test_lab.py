"""What all measurements of bench/ use: the runner, the ground truth, the
results, and the report."""

import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.child import tool

from bench.lab import environment, link, native, peers
from bench.lab.contender import (
    AgainError,
    Comparison,
    Contender,
    GroundTruthError,
    Missing,
    Ready,
    Slice,
    UnavailableError,
    control,
)
from bench.lab.environment import StampProbe
from bench.lab.link import AUXDATA, Frames, Link
from bench.lab.result import Row, Run, Section, Spread, Table
from bench.lab.runner import Calibrate, Lab, Mode, Pace
from bench.loop.sides import CLoop, Place
from bench.report import charts, document, tables

FOLDER = Path(__file__).resolve().parents[2] / "bench"
BRIEF = Lab(Mode.BRIEF)
FOUR_ROUNDS = Pace(4, 0.001)


@pytest.fixture
def frames() -> Frames:
    """Four numbered frames as if received, without a network."""
    frames = Frames(4, 64)
    for received, sent in zip(
        frames.into_views, frames.out_views, strict=True
    ):
        received[:] = sent
    return frames


# Ground truth


def test_frames_received_as_sent_are_accepted(frames: Frames) -> None:
    frames.check([64] * 4)


def test_frames_of_an_earlier_slice_are_refused(frames: Frames) -> None:
    frames.number()
    with pytest.raises(GroundTruthError, match=r"\[0, 1, 2, 3"):
        frames.check([64] * 4)


def test_one_wrong_byte_is_found(frames: Frames) -> None:
    frames.into_views[2][63] ^= 1
    with pytest.raises(GroundTruthError, match=r"\[2\]"):
        frames.check([64] * 4)


def test_one_wrong_length_is_found(frames: Frames) -> None:
    with pytest.raises(GroundTruthError, match="frame 1 has 63 bytes"):
        frames.check([64, 63, 64, 64])


def test_part_of_a_batch_is_run_again(frames: Frames) -> None:
    with pytest.raises(AgainError):
        frames.check([64] * 3)


@pytest.mark.parametrize("received", [0, 1, 3])
def test_frame_too_few_or_too_many_is_found(received: int) -> None:
    """Of two that are expected, in the socket's counts and in its queue."""
    with Link() as made:
        made.counter.read()
        for _ in range(received):
            made.tx.send(bytes(64))
            made.rx.recv(64)
        with pytest.raises(GroundTruthError, match=f"{received} arrived"):
            made.counter.check(2)


def test_frame_left_in_the_queue_is_found() -> None:
    with Link() as made:
        made.counter.read()
        made.tx.send(bytes(64))
        with pytest.raises(GroundTruthError, match="never received"):
            made.counter.check(1)


def test_baseline_sees_every_byte_and_no_tag() -> None:
    tool("gcc")
    batch, size, times = 8, 100, 3
    with Link() as made:
        place = Place(made, Frames(batch, size))
        for options in (0, AUXDATA):
            baseline = CLoop(place, "loop/side.c:calls", options)
            made.set_options(options)
            baseline.run(times)
            assert baseline.prove() == [size] * batch
            packets = batch * times
            assert baseline.totals() == [packets, size * packets, 0, 0]


# The runner


def contender(
    name: str, run: Callable[[int], Slice], baseline: str | None = None
) -> Contender[None]:
    return Contender(name, lambda _: Ready(run), baseline)


def table(
    contenders: Sequence[Contender[None]],
    pace: Pace = FOUR_ROUNDS,
    calibrate: Calibrate = Calibrate.ONCE,
    comparisons: Sequence[Comparison] = (),
) -> Table:
    return BRIEF.table(
        *("loop/key", "A title", "ns/packet", contenders, None, pace),
        calibrate=calibrate,
        comparisons=comparisons,
    )


def test_each_round_has_a_slice_of_each_contender() -> None:
    order: list[str] = []

    def one(name: str) -> Contender[None]:
        def run(_: int) -> Slice:
            order.append(name)
            return Slice(1.0, extra={"runs": order.count(name)})

        return contender(name, run)

    made = table([one("a"), one("b")], Pace(40, 0))
    assert [row.rounds for row in made.rows] == [40, 40]
    assert made.rows[1].extra["runs"].median == 20.5
    rounds = {tuple(order[i : i + 2]) for i in range(0, len(order), 2)}
    assert rounds == {("a", "b"), ("b", "a")}


def test_slices_take_about_the_wanted_time() -> None:
    """With EQUAL all do as much work as the first, with EACH as much as they
    can."""
    seen: dict[str, int] = {}

    def one(name: str, ns_each: int, work: int) -> Contender[None]:
        def run(times: int) -> Slice:
            seen[name] = times
            return Slice(1.0, times * ns_each)

        return Contender(name, lambda _: Ready(run, work))

    both = [one("fast", 1_000, 8), one("slow", 10_000, 16)]
    table(both, Pace(1, 0.001), Calibrate.EQUAL)
    assert seen == {"fast": 1000, "slow": 500}
    table(both, Pace(1, 0.001), Calibrate.EACH)
    assert seen == {"fast": 1000, "slow": 100}


def test_no_slice_has_more_than_can_be_checked() -> None:
    """The first ones, which find out how much takes how long, included."""
    seen: list[int] = []

    def run(times: int) -> Slice:
        seen.append(times)
        return Slice(1.0, times * 10)

    made = Contender[None]("a", lambda _: Ready(run, most=100))
    table([made], Pace(1, 0.001), Calibrate.EACH)
    assert max(seen) == 100


def test_slice_that_could_not_be_checked_is_run_again() -> None:
    runs = 0

    def run(_: int) -> Slice:
        nonlocal runs
        runs += 1
        if runs % 3:
            raise AgainError
        return Slice(runs)

    assert table([contender("a", run)], Pace(2, 0)).rows[0].rounds == 2
    assert runs == 6


def test_slices_that_can_never_be_checked_are_an_error() -> None:
    def run(_: int) -> Slice:
        raise AgainError

    with pytest.raises(GroundTruthError, match="no slice could be checked"):
        table([contender("a", run)])


def test_missing_peers_are_named_once() -> None:
    """Whether they are noticed before or while the contender runs."""

    def fail(_: object) -> Slice:
        raise UnavailableError("pcap.h", "apt-get install libpcap-dev")

    def unprepared(_: object) -> Ready:
        raise UnavailableError("pcap.h", "apt-get install libpcap-dev")

    made = table(
        [
            contender("a", lambda _: Slice(1.0)),
            contender("b", fail, "a"),
            Contender("c", unprepared),
            contender("d", lambda _: Slice(2.0), "b"),
        ]
    )
    assert [row.name for row in made.rows] == ["a", "d"]
    assert made.rows[1].ratio is None
    (peer,) = made.missing
    assert str(peer) == "missing here: pcap.h (apt-get install libpcap-dev)"


def test_ratios_are_calculated_round_by_round() -> None:
    """A machine that slows down during the run does not change them."""
    figures = iter([1.0, 2.0, 20.0])
    last = 1.0

    def run(_: int) -> Slice:
        nonlocal last
        last = next(figures)
        return Slice(last)

    made = table([contender("a", run)], Pace(3, 0))
    assert made.rows[0].figure.median == 2.0
    spreads = BRIEF.table(
        "key",
        "A title",
        "us",
        [
            contender("a", lambda _: Slice(2.0)),
            contender("b", lambda _: Slice(4.0), "a"),
        ],
        None,
        Pace(3, 0),
        calibrate=Calibrate.ONCE,
    )
    assert spreads.rows[1].ratio == Spread(2.0, 2.0, 2.0)


def test_control_is_the_same_contender_again() -> None:
    one = contender("a", lambda _: Slice(1.0))
    again = control(one)
    assert (again.name, again.baseline) == ("a, control", "a")
    assert again.prepare is one.prepare
    assert (again.at_least, again.at_most) == (0.99, 1.01)


def test_comparison_has_a_row_of_its_own() -> None:
    both = [
        contender("a", lambda _: Slice(6.0)),
        contender("b", lambda _: Slice(2.0), "a"),
    ]
    made = table(both, comparisons=[Comparison("a", "b", at_least=2)])
    assert [row.name for row in made.rows] == ["a", "b", "a"]
    assert made.rows[2].ratio == Spread(3.0, 3.0, 3.0)
    assert made.rows[2].holds


@pytest.mark.parametrize(
    ("bounds", "ratio", "holds"),
    [
        ((0.97, None), 0.97, True),
        ((0.97, None), 0.96, False),
        ((None, 1.03), 1.02, True),
        ((0.99, 1.01), 1.02, False),
        ((None, None), 2.0, None),
    ],
)
def test_targets_are_judged_by_the_ratio(
    bounds: tuple[float | None, float | None],
    ratio: float,
    holds: bool | None,
) -> None:
    judged, at = Spread(ratio, ratio, ratio), Spread(5, 5, 5)
    assert Row("a", at, 1, "b", judged, *bounds).holds is holds
    assert Row("a", at, 1, "b", None, *bounds).holds is None


# What is missing


def test_missing_compiler_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="install gcc"):
        native.compiler()


def test_missing_header_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool("gcc")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    source = tmp_path / "side.c"
    source.write_text("#include <pcap/pcap.h>\n#error no\n")
    with pytest.raises((UnavailableError, RuntimeError)) as e:
        native.library("side.c")
    if isinstance(e.value, RuntimeError):  # installed
        assert "#error no" in str(e.value)
    else:
        assert "libpcap-dev" in str(e.value)


def test_program_that_comes_with_a_missing_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(UnavailableError) as e:
        peers.program("ovsdb-tool")
    assert e.value.missing == Missing(
        "ovsdb-tool", "apt-get install openvswitch-switch"
    )


def test_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = {"no-such": ("apt-get install x", "--version")}
    monkeypatch.setattr(peers, "PROGRAMS", programs)
    monkeypatch.setattr(peers, "MODULES", {"no_such": "no-such"})
    with pytest.raises(UnavailableError, match="apt-get install x"):
        peers.program("no-such")
    with pytest.raises(UnavailableError, match="pip install no-such"):
        peers.module("no_such.part")
    peers.found.cache_clear()
    found = peers.found()
    peers.found.cache_clear()
    assert found["no-such"] == "missing: apt-get install x"
    assert found["no_such"] == "missing: pip install no-such"


# The machine


def test_timestamps_of_another_socket_are_noticed() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        StampProbe() as probe,
    ):
        sock.setsockopt(socket.SOL_SOCKET, link.SO_TIMESTAMPNS, 1)
        assert probe.wait_for(True, 10)


def test_machine_is_described() -> None:
    found = environment.collect()
    assert {"date", "commit", "kernel", "mitigations"} <= set(found)
    assert found["Model name"]


# Results and the report


@pytest.fixture
def run() -> Run:
    """A run with figures for both plots."""
    spread = Spread(0.9, 1.0, 1.1)
    rows = (
        Row("C", spread, 200, extra={"tx, ns": spread}),
        Row("C, control", spread, 200, "C", spread, 0.99, 1.01),
        Row("rawmmsg", spread, 200, "C", spread, at_most=0.5),
    )
    peer = Missing("trafgen", "apt-get install x")
    loops = [
        Table(f"loop/{size}B/batch{batch}", "A loop", "ns/packet", rows)
        for size in (64, 1500)
        for batch in (1, 64)
    ]
    send = Table("send/64B", "A send", "Mpps", rows, (peer,), ("A remark.",))
    sections = {
        "loop": Section(loops, seconds=60.0),
        "send": Section([send], [peer], "one is lost"),
    }
    facts = {"date": "2026-11-30", "commit": "0123", "kernel": "Linux"}
    return Run("quick", facts, {"trafgen": "missing"}, sections)


def test_results_are_saved_as_json(run: Run) -> None:
    """A table in a line, and nothing that is empty."""
    text = run.to_json()
    assert Run.from_json(text) == run
    assert sum("batch64" in line for line in text.splitlines()) == 2
    assert "null" not in text


def test_table_for_a_terminal(run: Run) -> None:
    made = run.table("send/64B")
    assert made is not None
    text = tables.text(made)
    for words in (
        "A send [send/64B]",
        "Mpps (more is better)",
        "1.000 (0.900-1.100)",
        "≤ 0.5: does not hold",
        "control 1.000 (0.900-1.100) ≥ 0.99, ≤ 1.01: holds; tx, ns",
        "200 rounds.",
        "A remark.",
        "missing here: trafgen (apt-get install x)",
    ):
        assert words in text


def test_report_says_what_run_it_is_of(run: Run, tmp_path: Path) -> None:
    document.write(run, tmp_path)
    text = (tmp_path / "REPORT.md").read_text("utf-8")
    for words in (
        "on 2026-11-30 at commit 0123, in quick mode",
        "**This is a quick run",
        "measurement send is void: one is lost",
        "5 of 10 are met",
        "kernel: Linux",
        "Peers: trafgen: missing",
        "`loop/1500B/batch64`",
    ):
        assert words in text


def test_report_shows_every_ratio_of_a_contender() -> None:
    figure, twice, thrice = (Spread(n, n, n) for n in (12.0, 2.0, 3.0))
    rows = (
        Row("a", figure, 1, "b", twice, at_least=1),
        Row("a", figure, 1, "c", thrice, at_least=4),
    )
    section = Section([Table("k", "A title", "Mpps", rows)])
    text = document.report(Run("full", sections={"s": section}))
    assert (
        "| a | 12.0 (12.0-12.0)<br>2.000 (2.000-2.000) of b<br>≥ 1: holds<br>"
        "3.000 (3.000-3.000) of c<br>≥ 4: does not hold |"
    ) in text


def test_plots_have_their_text_as_text(run: Run) -> None:
    plots = dict(charts.plots(run))
    assert list(plots) == ["loop.svg", "send.svg"]
    for text in plots.values():
        assert re.search("<text[^>]*>rawmmsg</text>", text)
    assert "packets in a batch" in plots["loop.svg"]
    assert "dashed: C" in plots["send.svg"]
    assert dict(charts.plots(Run("full", {}, {}))) == {}


def test_report_in_the_tree_is_that_of_its_run() -> None:
    folder = FOLDER / "results"
    made = Run.from_json((folder / "run.json").read_text("utf-8"))
    expected = dict(charts.plots(made)) | {"REPORT.md": document.report(made)}
    for name, text in expected.items():
        assert (folder / name).read_text("utf-8") == text, (
            "python -m bench --from bench/results/run.json"
            " --report bench/results"
        )
    assert set(made.sections) == {
        path.parent.name for path in FOLDER.glob("*/measure.py")
    }


def test_committed_output_is_small() -> None:
    files = (FOLDER / "results").iterdir()
    assert sum(path.stat().st_size for path in files) < 300_000
