"""Every measurement of bench/ runs, and checks what it measures."""

from pathlib import Path
from typing import Any

import pytest
from support.child import tool

from bench import __main__ as command
from bench.lab import peers
from bench.lab.contender import GroundTruthError
from bench.lab.result import Run
from bench.lab.runner import Lab, Mode
from bench.loop import measure as loop

BRIEF = Lab(Mode.BRIEF)


@pytest.mark.parametrize("name", command.NAMES)
def test_measurement_passes_its_ground_truth(name: str) -> None:
    """Each contender runs, or the table says what it lacks."""
    tool("ip")
    section = command.measure(name, BRIEF)
    assert not section.error
    keys = [table.key for table in section.tables]
    assert len(keys) == len(set(keys))
    assert all(key.split("/")[0] == name for key in keys)
    missing = [*section.missing]
    for table in section.tables:
        missing += table.missing
        assert table.rows or table.missing
        for row in table.rows:
            assert row.figure.low <= row.figure.median <= row.figure.high
            assert row.baseline is None or row.baseline != row.name
    assert all(peer.what and peer.install for peer in missing)
    assert section.tables or missing


@pytest.mark.parametrize("name", command.NAMES)
def test_measurement_says_how_it_measures(name: str) -> None:
    title, text = command.describe(name)
    assert title
    assert text


def test_loop_measures_every_contender() -> None:
    """And the rings timestamp every packet, plain sockets none unasked."""
    tool("gcc")
    tables = {table.key: table for table in loop.measure(BRIEF)}
    table = tables["loop/1500B/batch64"]
    wanted = [contender.name for contender in loop.contenders(64)]
    if table.missing:
        wanted = [name for name in wanted if not name.startswith("libpcap")]
    assert [row.name for row in table.rows] == wanted
    extra = {row.name: row.extra for row in table.rows}
    for name in wanted:
        assert extra[name]["tx, ns"].median > 0
        assert extra[name]["rx, ns"].median > 0
    shares = {
        name: parts["stamped, %"].median
        for name, parts in extra.items()
        if "stamped, %" in parts
    }
    assert shares["C"] == shares["C, bare"] == 0
    assert shares["C, stamps"] == 100
    assert shares["TPACKET_V2"] == shares["TPACKET_V3"] == 100


def test_only_packets_of_the_wanted_size_are_measured() -> None:
    tool("gcc")
    lab = Lab(Mode.BRIEF, only_sizes=[1500])
    keys = [table.key for table in loop.measure(lab)]
    assert keys
    assert all(key.startswith("loop/1500B/") for key in keys)


def test_void_measurement_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(_: object) -> Any:
        raise GroundTruthError("one is lost")
        yield

    monkeypatch.setattr(command.load("loop"), "measure", measure)
    section = command.measure("loop", BRIEF)
    assert section.error == "GroundTruthError: one is lost"
    assert section.tables == []
    assert "loop: VOID: GroundTruthError" in capsys.readouterr().out


def test_command_measures_and_saves_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool("gcc")
    tool("ip")
    file = tmp_path / "run.json"
    arguments = ["--brief", "superframes", "--json", str(file)]
    assert command.main([*arguments, "--report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "rawmmsg, super-frames" in printed
    assert "clock source" in printed
    run = Run.from_json(file.read_text("utf-8"))
    assert run.mode == "brief"
    assert list(run.sections) == ["superframes"]
    assert "in brief mode" in (tmp_path / "REPORT.md").read_text("utf-8")


def test_command_shows_peers_found_and_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "NAMES", ())
    monkeypatch.setattr(
        peers,
        "found",
        lambda: {"iperf3": "3.12", "trafgen": "missing: apt-get install x"},
    )
    assert command.main(["--brief"]) == 0
    printed = capsys.readouterr().out
    assert "iperf3   3.12" in printed
    assert "trafgen  missing: apt-get install x" in printed


def test_command_lists_measurements(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--list"]) == 0
    printed = capsys.readouterr().out
    for name in command.NAMES:
        assert f"{name}: " in printed


def test_command_refuses_unknown_measurements(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as refusal:
        command.main(["--brief", "lop"])
    assert refusal.value.code == 2
    assert "no measurement is called 'lop'" in capsys.readouterr().err
