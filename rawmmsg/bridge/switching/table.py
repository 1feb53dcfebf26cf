"""The address table: behind which port a station is."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["AGEING", "MOST_STATIONS", "AddressTable", "Station"]

AGEING: Final = 300.0
"""Seconds after which a station that sends nothing is forgotten (IEEE 802.1Q,
8.8.3)."""

MOST_STATIONS: Final = 8192

Station = tuple[int, bytes]
"""A VLAN and a MAC address in it."""


class AddressTable:
    """Maps stations to the numbers of ports.

    It has at most `limit` stations: the one that was silent for the longest
    time is forgotten for a new one. So a flood of addresses does not displace
    stations that send.

    `forget` is called with each station whose port is a new one, or is not
    known any more.
    """

    def __init__(
        self,
        forget: Callable[[Station], object],
        ageing: float = AGEING,
        limit: int = MOST_STATIONS,
    ) -> None:
        self.ageing = ageing
        self.limit = limit
        self.learned = 0
        self.moved = 0
        self.aged = 0
        self.displaced = 0
        self._forget = forget
        # The port, and when the station sent last. The oldest come first.
        self._stations: OrderedDict[Station, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stations)

    def entries(self) -> list[tuple[Station, int, float]]:
        """All stations, their ports, and when they were last heard."""
        return [(key, *value) for key, value in self._stations.items()]

    def learn(self, station: Station, port: int, now: float) -> None:
        """A frame from this station has arrived at the port."""
        stations = self._stations
        known = stations.get(station)
        stations[station] = port, now
        if known is not None:
            stations.move_to_end(station)
            if known[0] != port:
                self.moved += 1
                self._forget(station)
            return
        self.learned += 1
        if len(stations) > self.limit:
            self.displaced += 1
            self._forget(stations.popitem(last=False)[0])
        self._forget(station)

    def find(self, station: Station) -> int | None:
        """Returns the port of a station, or None if it is not known."""
        known = self._stations.get(station)
        return None if known is None else known[0]

    def expire(self, now: float) -> None:
        """Forgets stations that have been silent for too long."""
        stations = self._stations
        while stations:
            station, (_, heard) = next(iter(stations.items()))
            if now - heard < self.ageing:
                return
            del stations[station]
            self.aged += 1
            self._forget(station)

    def forget_port(self, port: int) -> None:
        """Forgets all stations behind a port."""
        gone = [
            key for key, known in self._stations.items() if known[0] == port
        ]
        for station in gone:
            del self._stations[station]
            self._forget(station)
