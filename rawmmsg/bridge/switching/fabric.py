"""The ports of a switch, and what they share."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from ..._rawmmsg import PacketBatch, _copy_frames
from ..batches import make_shared_stacks
from ..loop import Loop, Mover
from ..ports import Port, PortError
from .counts import PortCounts, by_reason
from .decisions import Decisions
from .members import Hook, Member, PortRules, Switchboard, make_member
from .queues import Queue
from .sinks import Sink, make_sink
from .table import AGEING, MOST_STATIONS, AddressTable

__all__ = ["Fabric"]

# Seconds after which a decision is made again, and silent stations are looked
# for: a quarter of the time after which they are forgotten, within limits.
_REFRESH: Final = 1.0
_OFTENEST: Final = 0.05

# Of how many ports that were removed the counts are kept.
_MOST_PAST: Final = 1000


@dataclass
class _Place:
    """A port in the switch. `member` and `sink` are its two sides."""

    name: str
    port: Port
    member: Member
    sink: Sink
    is_missing: bool = False  # when it was tended


def _keep_quiet(_: str, __: Exception) -> None:
    """Says nothing."""


class Fabric(Loop):
    """A switch between open ports.

    ageing             seconds after which a silent station is forgotten
    stations           how many stations it knows at most
    passes_link_local  whether frames to 01:80:c2:00:00:00 to :0f (LACP, LLDP,
                       STP) are flooded
    merges             whether TCP segments are merged for interfaces
    batch              how many frames it receives at once; by default it
                       decides
    on_frames          sees all frames before they are forwarded
    on_end             called with the name of a port that has ended, and why,
                       after the port was removed and closed
    """

    def __init__(
        self,
        *,
        ageing: float = AGEING,
        stations: int = MOST_STATIONS,
        passes_link_local: bool = True,
        merges: bool = True,
        batch: int | None = None,
        on_frames: Hook | None = None,
        on_end: Callable[[str, Exception], object] = _keep_quiet,
    ) -> None:
        self.table = AddressTable(self._forget, ageing, stations)
        self._decisions = Decisions(self.table, passes_link_local)
        stacks = make_shared_stacks(batch)
        self._board = Switchboard(self._decisions, stacks, on_frames)
        self._merges = merges
        self._on_end = on_end
        self._places: dict[str, _Place] = {}
        self._open_ports: list[Port] = []
        self._parts: list[Mover] = []
        self._past: dict[str, PortCounts] = {}  # of ports that were removed
        self._next_number = 0
        # For frames that the program sends.
        self._own = stacks[1][-1][0]
        super().__init__(self._open_ports, self._parts)
        self._refreshed_at = monotonic()
        self.every(max(_OFTENEST, min(_REFRESH, ageing / 4)), self._refresh)

    def _forget(self, station: tuple[int, bytes]) -> None:
        self._decisions.forget(station)

    def _refresh(self) -> None:
        # The table knows of one frame of a station since the refresh before,
        # and not of later ones: a station is not older than that refresh.
        self.table.expire(self._refreshed_at)
        self._refreshed_at = monotonic()
        self._decisions.forget_all()

    # Ports

    @property
    def names(self) -> list[str]:
        """The names of all ports."""
        return list(self._places)

    @property
    def members(self) -> list[Member]:
        return [place.member for place in self._places.values()]

    def add(
        self, name: str, port: Port, rules: PortRules | None = None
    ) -> None:
        """Adds an open port. Raises PortError if the switch has one with this
        name, or the same port. Must not be called while `on_frames` runs."""
        self._check_hook("add")
        if name in self._places:
            raise PortError(f"{name}: two ports have this name")
        for place in self._places.values():
            if place.port.is_same(port):
                raise PortError(f"{place.name} and {name} are the same port")
        rules = rules or PortRules()
        number = self._next_number
        self._next_number += 1
        queue = Queue(rules.queue)
        sink = make_sink(port, queue, self._merges, self._board.note)
        self._board.sinks[number] = sink
        self._decisions.add(number, rules)
        member = make_member(self._board, number, port, rules)
        self._places[name] = _Place(name, port, member, sink)
        self._open_ports.append(port)
        self._parts += [member, sink]
        self._find_descriptors()
        self._rearm()

    def remove(self, name: str) -> Port:
        """Removes a port, and returns it, still open. Drops the frames that
        wait for it. Must not be called while `on_frames` runs."""
        self._check_hook("remove")
        place = self._places.pop(name)
        place.sink.finish()
        self._remember(name, _counts(place))
        self._decisions.remove(place.member.number)
        self.table.forget_port(place.member.number)
        del self._board.sinks[place.member.number]
        self._parts.remove(place.member)
        self._parts.remove(place.sink)
        self._open_ports.remove(place.port)
        self._find_descriptors()
        self._rearm()
        return place.port

    def _remember(self, name: str, counts: PortCounts) -> None:
        """Keeps the counts of a port that is removed."""
        before = self._past.pop(name, PortCounts())
        self._past[name] = before + counts
        if len(self._past) > _MOST_PAST:
            del self._past[next(iter(self._past))]

    def _tend(self) -> None:
        for place in list(self._places.values()):
            port = place.port
            try:
                if port.tend():
                    self._find_descriptors()
            except (OSError, PortError) as error:
                self._board.failed.append((port, error))
            else:
                self._look_at_link(place)
        self._remove_failed()

    def _look_at_link(self, place: _Place) -> None:
        """If the link of a port has gone down, its stations may be elsewhere
        soon."""
        port = place.port
        if not (port.is_interface or port.tells_of_peers):
            return
        is_missing = port.missing() is not None
        if is_missing and not place.is_missing:
            self.table.forget_port(place.member.number)
        place.is_missing = is_missing

    def _remove_failed(self) -> None:
        failed, self._board.failed = self._board.failed, []
        for port, error in failed:
            for place in list(self._places.values()):
                if place.port is port:
                    self.remove(place.name).close()
                    self._on_end(place.name, error)

    # Running

    def _rearm(self) -> None:
        if self._board.failed:
            self._remove_failed()
        super()._rearm()

    def _check_hook(self, name: str) -> None:
        """`on_frames` is called while frames are being forwarded: their memory
        is in use, and the ports must stay."""
        if self._board.is_in_hook:
            raise RuntimeError(
                f"{name}() cannot be called by on_frames, while the switch"
                " forwards its frames: call it later, from every()"
            )

    # Frames of the program

    def send(self, name: str, batch: PacketBatch) -> None:
        """Forwards frames as if they had arrived at this port now. Does not
        call `on_frames`. Must not be called while `on_frames` runs."""
        self._check_hook("send")
        member = self._places[name].member
        own, at = self._own, 0
        while at < len(batch):
            own.clear()
            stop = min(len(batch), at + own.capacity)
            copied = _copy_frames(batch, at, stop, own) - at
            if not copied:
                raise ValueError(
                    f"packet {at} is longer than a super-frame can be"
                )
            at += copied
            member.add_own(own)
        if self._board.has_changed():
            self._rearm()

    # Statistics

    def statistics(self) -> dict[str, PortCounts]:
        """Returns the counts of each port, by its name. Those of a port that
        was removed stay, and go on if it is added again: of the 1,000 that
        were removed last."""
        counts = dict(self._past)
        for name, place in list(self._places.items()):
            counts[name] = counts.get(name, PortCounts()) + _counts(place)
        return counts

    def addresses(self) -> list[tuple[int, str, str, float]]:
        """Returns the VLAN and the address of each known station, its port,
        and how many seconds ago it was heard."""
        names = {
            place.member.number: name for name, place in self._places.items()
        }
        now = monotonic()
        return [
            (vlan, address.hex(":"), names[number], now - heard)
            for (vlan, address), number, heard in self.table.entries()
        ]


def _counts(place: _Place) -> PortCounts:
    sink = place.sink
    return place.member.counts() + PortCounts(
        copies=sink.copies,
        made=sink.made,
        joined=sink.joined,
        sent=sink.sent,
        waiting=sink.waiting,
        copies_dropped=dict(by_reason(sink.dropped)),
    )
