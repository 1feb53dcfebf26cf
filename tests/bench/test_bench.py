"""The measurements of bench/ run, and assert what they measure."""

import contextlib
import dataclasses
import importlib
import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest
from support.child import tool

ROOT = Path(__file__).resolve().parents[2]

# bench/registry.py, which lies beside the package under test: the package may
# be installed elsewhere, and the folder comes last in sys.path.
MEASUREMENTS = (
    "loop",
    "stride",
    "send",
    "capture",
    "forwarding",
    "forwarding_small",
    "superframes",
    "scapy_sniff",
    "scapy_send",
    "scapy_pace",
    "latency",
    "python_cost",
)


@pytest.fixture
def brief(bench: Any) -> Any:
    """A context for a moment."""
    framework = bench("framework")
    return framework.Context(framework.Mode.BRIEF)


@pytest.fixture
def frames(bench: Any) -> Any:
    """Four numbered frames as received: without the network."""
    frames = bench("network.link").Frames(4, 64)
    for received, sent in zip(
        frames.into_views, frames.out_views, strict=True
    ):
        received[:] = sent
    return frames


# The measurements


def test_every_measurement_is_tested(bench: Any) -> None:
    assert bench("registry").NAMES == MEASUREMENTS


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_measurement_passes_its_ground_truth(
    bench: Any, brief: Any, name: str
) -> None:
    """Each side runs, and each that does not says what it lacks."""
    shown: list[Any] = []
    tool("ip")
    section = bench("registry").measure(name, brief, shown.append)
    assert not section.error
    assert section.title
    assert section.text
    assert section.results == shown
    keys = [result.key for result in section.results]
    assert len(keys) == len(set(keys))
    assert all(key.split("/")[0] == name for key in keys)
    missing = [*section.missing]
    for result in section.results:
        missing += result.missing
        assert result.rows or result.missing
        for row in result.rows:
            assert row.figure.low <= row.figure.median <= row.figure.high
            assert row.limit is None or row.limit != row.name
    for peer in missing:
        assert peer.what
        assert peer.install
    assert section.results or missing


def test_loop_measures_every_side(bench: Any, brief: Any) -> None:
    """And the rings stamp every packet, plain sockets none unasked."""
    tool("gcc")
    loop = bench("measurements.loop")
    *_, table = loop.measure(brief)
    wanted = [contender.name for contender in loop.contenders(64)]
    if table.missing:
        wanted = [name for name in wanted if not name.startswith("libpcap")]
    assert [side.name for side in table.sides] == wanted
    extras = table.samples.extras
    for name in wanted:
        assert extras[name]["tx, ns"][0] > 0
        assert extras[name]["rx, ns"][0] > 0
    shares = {
        name: parts["stamped, %"][0]
        for name, parts in extras.items()
        if "stamped, %" in parts
    }
    assert shares["C"] == shares["C, bare"] == 0
    assert shares["C, stamps"] == 100
    assert shares["TPACKET_V2"] == shares["TPACKET_V3"] == 100


def test_limit_sees_every_byte_and_no_tag(bench: Any) -> None:
    batch, size, rounds = 8, 100, 3
    link, ways = bench("network.link"), bench("sides.directions")
    with link.Link() as ends, contextlib.ExitStack() as stack:
        frames = link.Frames(batch, size)
        shared = ways.SharedLink(ends)
        for options in (0, ways.AUXDATA):
            limit = ways.limit(options)(shared, frames, stack)
            limit.prepare()
            limit.run(rounds)
            assert limit.prove() == [size] * batch
            totals = limit.totals()
            assert totals.packets == batch * rounds
            assert totals.bytes == size * batch * rounds
            assert (totals.tags, totals.stamps) == (0, 0)


# Ground truth


def test_frames_received_as_sent_are_taken(frames: Any) -> None:
    frames.check([64] * 4)


def test_frames_of_an_earlier_slice_are_refused(
    bench: Any, frames: Any
) -> None:
    frames.number()
    with pytest.raises(
        bench("framework").GroundTruthError, match=r"\[0, 1, 2, 3"
    ):
        frames.check([64] * 4)


def test_one_wrong_byte_is_found(bench: Any, frames: Any) -> None:
    frames.into_views[2][63] ^= 1
    with pytest.raises(bench("framework").GroundTruthError, match=r"\[2\]"):
        frames.check([64] * 4)


def test_one_wrong_length_is_found(bench: Any, frames: Any) -> None:
    with pytest.raises(bench("framework").GroundTruthError, match="frame 1"):
        frames.check([64, 63, 64, 64])


@pytest.mark.parametrize("received", [0, 1, 3])
def test_a_frame_too_few_or_too_many_is_found(
    bench: Any, received: int
) -> None:
    """Of two that are expected, both in the socket's counts and its queue."""
    module = bench("network.link")
    with module.Link() as link:
        link.counter.reset()
        for _ in range(received):
            link.tx.send(bytes(64))
            link.rx.recv(64)
        with pytest.raises(module.GroundTruthError, match=f"{received} arriv"):
            link.counter.check(2)


def test_a_frame_left_in_the_queue_is_found(bench: Any) -> None:
    module = bench("network.link")
    with module.Link() as link:
        link.counter.reset()
        link.tx.send(bytes(64))
        with pytest.raises(module.GroundTruthError, match="never received"):
            link.counter.check(1)


def test_a_program_that_fails_is_a_failure_of_ground_truth(
    bench: Any,
) -> None:
    native = bench("tools.native")
    assert native.run(["sh", "-c", "echo '{\"packets\": 3}'"], 10) == {
        "packets": 3
    }
    with pytest.raises(
        bench("framework").GroundTruthError, match="one is lost"
    ):
        native.run(["sh", "-c", "echo one is lost >&2; exit 1"], 10)
    with pytest.raises(
        bench("framework").GroundTruthError, match="did not end"
    ):
        native.run(["sleep", "60"], 0.1)


def test_a_void_measurement_is_reported(
    bench: Any, brief: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = bench("registry")

    def measure(_: object) -> Any:
        raise bench("framework").GroundTruthError("one is lost")
        yield

    monkeypatch.setattr(registry.load("loop"), "measure", measure)
    section = registry.measure("loop", brief, pytest.fail)
    assert section.error == "GroundTruthError: one is lost"
    assert section.results == []


# Sides and their turns


def test_sides_take_turns(bench: Any, brief: Any) -> None:
    framework = bench("framework")
    order: list[str] = []

    def side(name: str) -> Any:
        def run() -> float:
            order.append(name)
            return float(len(order))

        return framework.Side(
            name, run, extra=lambda: {"runs": order.count(name)}
        )

    samples = brief.rounds([side("a"), side("b")], turns=40)
    assert len(samples.figures["a"]) == len(samples.figures["b"]) == 40
    assert samples.extras["b"]["runs"] == list(range(1, 41))
    turns = {tuple(order[i : i + 2]) for i in range(0, len(order), 2)}
    assert turns == {("a", "b"), ("b", "a")}


def test_what_is_missing_is_told_once(bench: Any) -> None:
    framework = bench("framework")

    def fail() -> object:
        raise framework.Unavailable("pcap.h", "apt-get install libpcap-dev")

    made, missing = framework.available([lambda: 1, fail, fail, lambda: 2])
    assert made == [1, 2]
    (peer,) = missing
    assert str(peer) == "missing here: pcap.h (apt-get install libpcap-dev)"


def test_ratios_are_taken_turn_by_turn(bench: Any) -> None:
    """A machine that gets slower meanwhile does not change them."""
    spread = bench("spread").ratio([2.0, 4.0, 40.0], [1.0, 2.0, 20.0])
    assert (spread.low, spread.median, spread.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("bounds", "ratio", "holds"),
    [
        ({"at_least": 0.97}, 0.97, True),
        ({"at_least": 0.97}, 0.96, False),
        ({"at_most": 1.03}, 1.02, True),
        ({"at_least": 0.99, "at_most": 1.01}, 1.02, False),
        ({}, 2.0, None),
    ],
)
def test_targets_are_judged_by_the_ratio(
    bench: Any, bounds: dict[str, float], ratio: float, holds: bool | None
) -> None:
    table = _table(bench, {"limit": [1.0], "ours": [ratio]}, **bounds)
    result = bench("results").Result.of(table)
    assert result.row("ours").holds is holds


def test_a_limit_that_is_not_installed_judges_nothing(bench: Any) -> None:
    table = _table(bench, {"ours": [2.0]}, at_least=1)
    row = bench("results").Result.of(table).row("ours")
    assert (row.ratio, row.holds) == (None, None)


# What is missing


def test_a_missing_compiler_is_named(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    native = bench("tools.native")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    native.compiled.cache_clear()
    with pytest.raises(bench("framework").Unavailable, match="install gcc"):
        native.library("limit.c")


def test_a_missing_header_is_named(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool("gcc")
    native = bench("tools.native")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    (tmp_path / "side.c").write_text("#include <xdp/xsk.h>\n#error no\n")
    monkeypatch.setenv("CPATH", "")
    with pytest.raises((bench("framework").Unavailable, RuntimeError)) as e:
        native.program("side.c")
    if isinstance(e.value, RuntimeError):  # installed
        assert "#error no" in str(e.value)
    else:
        assert "libxdp-dev" in str(e.value)


def test_a_missing_peer_is_named(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = bench("tools.peers")
    monkeypatch.setitem(peers.PROGRAMS, "no-such", ("apt-get install x", ""))
    monkeypatch.setitem(peers.MODULES, "no_such", "no-such")
    unavailable = bench("framework").Unavailable
    with pytest.raises(unavailable, match="apt-get install x"):
        peers.program("no-such")
    with pytest.raises(unavailable, match="pip install no-such"):
        peers.module("no_such.part")


# The machine


def test_stamping_by_another_socket_is_seen(bench: Any) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        bench("tools.stamping").Probe() as probe,
    ):
        sock.setsockopt(
            socket.SOL_SOCKET, bench("network.link").SO_TIMESTAMPNS, 1
        )
        assert probe.wait_for(True, 10)


def test_the_machine_is_described(bench: Any) -> None:
    environment = bench("tools.environment")
    found = dict(environment.lines(environment.collect()))
    assert {"kernel", "cpu", "clock source", "mitigations"} <= set(found)
    assert found["stamped by others"] in ("yes", "no")
    assert found["rawmmsg"]


# Results, claims and the report


def _table(bench: Any, figures: dict[str, list[float]], **bounds: Any) -> Any:
    """A table of these figures; the bounds are for "ours"."""
    framework = bench("framework")
    sides = [
        framework.Side(
            name,
            float,
            limit="limit" if name == "ours" else None,
            **(bounds if name == "ours" else {}),
        )
        for name in figures
    ]
    extras: dict[str, dict[str, list[float]]] = {name: {} for name in figures}
    samples = framework.Samples(figures, extras)
    missing = [framework.Missing("tcpreplay", "apt-get install tcpreplay")]
    return framework.Table(
        "loop/64B/batch64",
        "A table",
        "ns/packet",
        samples,
        sides,
        missing,
        ["A note."],
    )


def _rows(bench: Any, **figures: float) -> list[Any]:
    results, spread = bench("results"), bench("spread").Spread
    return [
        results.Row(name, spread(one * 0.9, one, one * 1.1), 200)
        for name, one in figures.items()
    ]


@pytest.fixture
def run(bench: Any) -> Any:
    """A run in which every claim is measured."""
    results, spread = bench("results"), bench("spread").Spread
    shares = {"C, bare": 0.0}
    figures = {
        "C": 1000.0,
        "C, bare": 960.0,
        "C, bare, stamps": 1010.0,
        "rawmmsg": 1010.0,
        "stdlib": 1500.0,
        "TPACKET_V2": 900.0,
        "TPACKET_V3": 880.0,
        "libpcap": 950.0,
        "TPACKET_V2, copied": 970.0,
        "TPACKET_V3, copied": 950.0,
        "TPACKET_V2, in cache, copied": 900.0,
        "TPACKET_V3, in cache, copied": 900.0,
    }
    rows = [
        dataclasses.replace(
            row,
            limit=None if row.name == "C" else "C",
            ratio=spread(0.9, row.figure.median / 1000, 1.1),
            at_most=2.0,
            extra={
                "tx, ns": spread(590, 600, 610),
                "rx, ns": spread(290, 300, 310),
                "stamped, %": spread(*3 * [shares.get(row.name, 100.0)]),
            },
        )
        for row in _rows(bench, **figures)
    ]
    loops = [
        results.Result(f"loop/{size}B/batch{batch}", "A loop", unit, rows)
        for size in (64, 1500)
        for batch in (1, 64)
        for unit in ("ns/packet",)
    ]
    costs = [
        results.Result(
            f"python_cost/64B/batch{batch}",
            "A cost",
            "ns/packet",
            _rows(
                bench,
                **{
                    "C": 1000.0,
                    "rawmmsg": 1000.0 + 500 / batch,
                    "rawmmsg, a handler per packet": 1150.0 + 500 / batch,
                },
            ),
        )
        for batch in (1, 64, 1024)
    ]
    sends = [
        results.Result(
            f"send/{size}B",
            "A send",
            "Mpps",
            _rows(
                bench,
                **{
                    "C sendmmsg": 0.8,
                    "libpcap inject (C)": 0.5,
                    "libpcap inject (C), deaf": 0.75,
                },
            ),
        )
        for size in (64, 1500)
    ]
    forwards = [
        results.Result(
            "forwarding/two-way",
            "A forwarder",
            "Gbit/s",
            _rows(
                bench,
                **{
                    "C": 10.0,
                    "C, plain frames": 1.3,
                    "rawmmsg bridge": 9.7,
                    "kernel's bridge": 12.9,
                },
            ),
        )
    ]
    missing = bench("framework").Missing("trafgen", "apt-get install x")
    sections = {
        "loop": results.Section("Loop", "Text.", loops, [missing]),
        "python_cost": results.Section("Cost", "Text.", costs),
        "send": results.Section("Send", "Text.", sends, error="one is lost"),
        "forwarding": results.Section("Forwarding", "Text.", forwards),
    }
    return results.Run("full", {"kernel": "Linux"}, sections)


def test_results_are_kept_as_json(
    bench: Any, run: Any, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    run.save(file)
    kept = type(run).load(file)
    assert list(kept.sections) == list(run.sections)
    row = kept.result("loop/64B/batch64").row("TPACKET_V3, copied")
    assert (row.figure.median, row.ratio.median) == (950, 0.95)
    assert (row.limit, row.at_most, row.turns) == ("C", 2, 200)
    assert kept == run.kept()


def test_a_table_says_all(bench: Any) -> None:
    table = _table(
        bench, {"limit": [1000.0] * 3, "ours": [1020.0] * 3}, at_most=1.03
    )
    text = bench("report.tables").text(bench("results").Result.of(table))
    for words in (
        "A table",
        "ns/packet (less is better)",
        "1,020 (1,020-1,020)",
        "1.020 (1.020-1.020)",
        "≤ 1.03: holds",
        "3 turns",
        "A note.",
        "missing here: tcpreplay (apt-get install tcpreplay)",
    ):
        assert words in text


EXPECTED = {
    "Stamping costs what it costs": ("holds", "+5.2 % at 64 bytes"),
    "The ring cannot switch it off": ("holds", "recvmmsg() 0 %"),
    "The ring saves nothing": ("holds", "TPACKET_V2 at 64 bytes +1.0 %"),
    "Batched socket calls": ("holds", "1.49 at 1,500 bytes"),
    "libpcap's send": ("depends", "1.60 at 64 bytes"),
    "For a VM's bulk traffic": ("holds", "7.7 in C"),
    "Python's own cost": ("depends", "+15.0 % is left"),
}


@pytest.mark.parametrize("start", EXPECTED)
def test_claim_is_judged_by_its_figures(
    bench: Any, run: Any, start: str
) -> None:
    claims = bench("report.claims")
    (claim,) = [one for one in claims.CLAIMS if one.text.startswith(start)]
    verdict, words = EXPECTED[start]
    found = claim.verdict(run)
    assert found.verdict == verdict
    assert words in found.figures
    nothing = dataclasses.replace(run, sections={})
    assert claim.verdict(nothing).verdict == "not measured"


def test_every_claim_has_a_test(bench: Any) -> None:
    assert len(bench("report.claims").CLAIMS) == len(EXPECTED)


def test_where_it_does_not_help_is_said(bench: Any, run: Any) -> None:
    words = "\n".join(bench("report.no_help").no_help(run))
    assert "0.75 of what the kernel's bridge does" in words
    assert "150 ns" in words
    assert "TPACKET_V3" in words


def test_the_report_has_tables_and_plots(
    bench: Any, run: Any, tmp_path: Path
) -> None:
    report = bench("report.document")
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(
            bench("framework").Unavailable, match="install matplotlib"
        ):
            report.write(run, tmp_path)
        return
    report.write(run, tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    for words in (
        "Stamping costs what it costs: holds.",
        "as the batch grows: depends.",
        " | holds |",
        "Where rawmmsg does not help",
        "missing here: trafgen (apt-get install x)",
        "**Void**: one is lost",
        "| kernel | Linux |",
    ):
        assert words in page
    for name in ("loop", "cpu", "python_cost", "send", "forwarding"):
        assert f"(plots/{name}.svg)" in page
        for form in ("svg", "png"):
            assert (tmp_path / "plots" / f"{name}.{form}").stat().st_size


def test_the_report_in_the_tree_is_that_of_its_run(bench: Any) -> None:
    folder = ROOT / "bench"
    run = bench("results").Run.load(folder / "results.json")
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert bench("report.document").page(run) == page, (
        "python -m bench --from bench/results.json --report bench"
    )
    assert not [name for name in MEASUREMENTS if name not in run.sections]
    for name in bench("report.plots").titles(run):
        assert (folder / "plots" / f"{name}.svg").is_file()
        assert (folder / "plots" / f"{name}.png").is_file()


# The command


def test_the_command_measures_and_keeps_figures(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool("gcc")
    tool("ip")
    file = tmp_path / "results.json"
    main = bench("__main__").main
    assert main(["--brief", "stride", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "2,112, control" in printed
    assert "clock source: " in printed
    run = bench("results").Run.load(file)
    assert run.mode == "brief"
    assert list(run.sections) == ["stride"]


def test_the_command_lists_measurements(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("__main__").main(["--list"]) == 0
    printed = capsys.readouterr().out
    for name in MEASUREMENTS:
        assert f"{name}: " in printed


def test_the_command_refuses_unknown_measurements(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        bench("__main__").main(["--brief", "lop"])
    assert refusal.value.code == 2
    assert "no measurement 'lop'" in capsys.readouterr().err
