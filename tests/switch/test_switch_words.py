"""docs/reference/switch.md explains every name and every word of the
statistics, and no others."""

import re
from dataclasses import fields

import pytest
from support.blocks import ROOT

from rawmmsg.bridge import PortCounts, Switch
from rawmmsg.bridge.drops import Dropped
from rawmmsg.bridge.switching.decisions import Fate
from rawmmsg.bridge.switching.display import report, summary

pytestmark = pytest.mark.no_network

Row = tuple[str, ...]


def table(heading: str) -> list[Row]:
    """The cells of the first table below the heading."""
    page = (ROOT / "docs/reference/switch.md").read_text(encoding="utf-8")
    _, found, rest = page.partition(f"# {heading}\n")
    assert found, heading
    rows = re.findall(r"^\| (.*) \|$", rest.split("\n#")[0], re.MULTILINE)
    assert len(rows) > 2, heading
    return [tuple(cell.strip() for cell in row.split("|")) for row in rows[2:]]


def names(heading: str) -> set[str]:
    return {row[0].strip("`") for row in table(heading)}


def test_counts_of_ports_are_explained() -> None:
    assert names("Statistics") == {one.name for one in fields(PortCounts)}


def test_reasons_are_explained() -> None:
    counted = {Fate.FORWARDED, Fate.FILTERED}
    fates = {one.value for one in Fate if one not in counted}
    drops = {one.name for one in fields(Dropped)}
    assert names("Reasons") == {*fates, *drops, "hook"}


def test_stations_and_json_are_explained() -> None:
    with Switch() as switch:
        line = report(switch)
        assert names("JSON") == set(line)
        assert names("Stations") == set(switch.stations())


def test_words_of_the_summary_are_explained() -> None:
    """In the order of the table. A count that the summary does not print has
    no words."""
    counts = PortCounts(
        received=1000,
        bytes=1001,
        calls=1002,
        forwarded=1003,
        flooded=1004,
        filtered=1005,
        dropped={"vlan": 1006},
        kernel_dropped=1007,
        copies=1008,
        made=1009,
        joined=1010,
        sent=1011,
        waiting=1012,
        copies_dropped={"queue_full": 1013},
    )
    printed = re.findall(r"([\d,]+) ([a-z ]+)", summary("port", counts))
    # The first of two equal numbers is a total, the other one its reason.
    words = {value: text.strip() for value, text in reversed(printed)}
    for i, (name, explained, *_) in enumerate(table("Statistics")):
        assert words.get(f"{1000 + i:,}", "") == explained, name
