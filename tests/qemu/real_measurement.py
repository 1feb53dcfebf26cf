"""The measurement of two guests on one bridge (bench/guests) runs, and checks
what it measures. Run by run.py."""

from bench import __main__ as command
from bench.guests.measure import COMPARED
from bench.lab.runner import Lab, Mode


def test_measurement_passes_its_ground_truth() -> None:
    section = command.measure("guests", Lab(Mode.BRIEF))
    assert not section.error
    assert section.missing == []
    (table,) = section.tables
    assert table.missing == ()
    assert [row.name for row in table.rows] == [one.name for one in COMPARED]
    assert all(row.figure.median > 0 for row in table.rows)
