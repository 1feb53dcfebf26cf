"""Decisions about frames: how many are kept, and that their counts stay."""

import struct

from rawmmsg.bridge.switching.decisions import Decisions, Fate
from rawmmsg.bridge.switching.members import PortRules
from rawmmsg.bridge.switching.table import AddressTable, Station
from rawmmsg.bridge.switching.vlans import NO_TAG

RULES = PortRules()
BROADCAST = b"\xff" * 6


def station(number: int) -> bytes:
    return b"\x02\0" + number.to_bytes(4, "big")


def key(destination: bytes, source: bytes) -> bytes:
    return struct.pack("=6s6sH", destination, source, NO_TAG)


def make() -> Decisions:
    def forget(one: Station) -> None:
        decisions.forget(one)

    decisions = Decisions(AddressTable(forget))
    return decisions


def test_ports_that_come_and_go_leave_no_decisions_behind() -> None:
    decisions = make()
    decisions.add(0, RULES)
    decisions.add(1, RULES)
    for number in range(2, 102):
        decisions.add(number, RULES)
        flooded = decisions.decide(0, key(BROADCAST, station(0)))
        assert set(flooded.forms) == {1, number}
        flooded.frames += 1
        decisions.decide(number, key(station(0), station(number)))
        known = decisions.decide(0, key(station(number), station(0)))
        assert set(known.forms) == {number}
        known.frames += 10
        decisions.remove(number)
    kept = decisions.known(0)
    assert len(kept) == 2
    assert sorted((one.is_flooded, one.frames) for one in kept) == [
        (False, 1000),
        (True, 100),
    ]
    again = decisions.decide(0, key(BROADCAST, station(0)))
    assert set(again.forms) == {1}


def test_many_stations_keep_few_decisions() -> None:
    """Equal decisions are one object, and no more keys are kept than there is
    room for."""
    decisions = make()
    decisions.add(0, RULES)
    decisions.add(1, RULES)
    for number in range(100_000):
        one = decisions.decide(0, key(BROADCAST, station(number)))
        one.frames += 1
    assert len(decisions.made[0]) <= 16_384
    assert [(one.fate, one.frames) for one in decisions.known(0)] == [
        (Fate.FORWARDED, 100_000)
    ]


def test_a_decision_follows_its_destination() -> None:
    decisions = make()
    for number in range(3):
        decisions.add(number, RULES)
    to_b = key(station(2), station(1))
    assert set(decisions.decide(0, to_b).forms) == {1, 2}
    decisions.decide(1, key(station(1), station(2)))
    assert set(decisions.decide(0, to_b).forms) == {1}
    decisions.decide(2, key(station(1), station(2)))
    assert set(decisions.decide(0, to_b).forms) == {2}
    decisions.decide(0, key(station(1), station(2)))
    assert decisions.decide(0, to_b).fate is Fate.FILTERED
