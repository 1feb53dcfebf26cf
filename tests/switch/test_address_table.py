"""The address table of a switch."""

import pytest

from rawmmsg.bridge.switching.table import AddressTable, Station


def station(number: int, vlan: int = 1) -> Station:
    return vlan, number.to_bytes(6, "big")


class Table(AddressTable):
    """Keeps the stations that it says to forget."""

    def __init__(self, ageing: float = 300, limit: int = 8192) -> None:
        self.forgotten: list[Station] = []
        super().__init__(self.forgotten.append, ageing, limit)

    @property
    def stations(self) -> list[Station]:
        return [entry[0] for entry in self.entries()]


def test_a_station_is_found_where_it_sent_last() -> None:
    table = Table()
    assert table.find(station(1)) is None
    table.learn(station(1), 3, 0)
    table.learn(station(1), 3, 1)
    assert (table.find(station(1)), table.moved) == (3, 0)
    table.learn(station(1), 4, 2)
    assert (table.find(station(1)), table.moved) == (4, 1)
    assert (table.learned, len(table)) == (1, 1)


def test_an_address_in_two_vlans_is_two_stations() -> None:
    table = Table()
    table.learn(station(1, 5), 3, 0)
    table.learn(station(1, 6), 4, 0)
    assert table.find(station(1, 5)) == 3
    assert table.find(station(1, 6)) == 4
    assert table.find(station(1, 7)) is None


def test_silent_stations_are_forgotten() -> None:
    table = Table(ageing=10)
    for number in range(3):
        table.learn(station(number), 0, number)
    table.learn(station(0), 0, 5)
    table.expire(11.5)
    assert table.stations == [station(2), station(0)]
    assert table.aged == 1
    table.expire(15)
    assert (len(table), table.aged) == (0, 3)


def test_a_full_table_forgets_the_oldest() -> None:
    table = Table(limit=3)
    for number in (1, 2, 3, 1, 4):
        table.learn(station(number), 0, 0)
    assert table.stations == [station(3), station(1), station(4)]
    assert (table.displaced, table.learned) == (1, 4)


def test_a_flood_does_not_displace_a_station_that_sends() -> None:
    table = Table(limit=100)
    for number in range(10_000):
        table.learn(station(1 << 20), 1, 0)
        table.learn(station(number), 0, 0)
    assert len(table) == 100
    assert table.find(station(1 << 20)) == 1


def test_stations_of_a_port_are_forgotten_together() -> None:
    table = Table()
    for number in range(4):
        table.learn(station(number), number % 2, 0)
    table.forget_port(1)
    assert table.stations == [station(0), station(2)]


@pytest.mark.parametrize("event", ["learn", "move", "age", "displace", "port"])
def test_it_says_when_decisions_about_a_station_are_out_of_date(
    event: str,
) -> None:
    table = Table(ageing=10, limit=1)
    table.learn(station(1), 0, 0)
    assert table.forgotten == [station(1)]
    table.learn(station(1), 0, 1)
    assert table.forgotten == [station(1)], "nothing has changed"
    if event == "move":
        table.learn(station(1), 1, 1)
    elif event == "age":
        table.expire(20)
    elif event == "displace":
        table.learn(station(2), 0, 1)
    elif event == "port":
        table.forget_port(0)
    assert table.forgotten.count(station(1)) == 1 + (event != "learn")
