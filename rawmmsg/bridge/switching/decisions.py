"""Where the frames of a key go. A decision is made once, and used again until
something that it depends on has changed."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic
from typing import Final, Protocol

from .table import AddressTable, Station
from .vlans import LEFT_OUT, UNCHANGED, Vlans

__all__ = ["Decision", "Decisions", "Fate", "Rules"]

_KEY: Final = struct.Struct("=6s6sH")

# IEEE 802.1Q, 8.6.3: a bridge does not forward them. In a lab, the two ends of
# LACP or LLDP are often virtual machines behind the switch.
_LINK_LOCAL: Final = bytes.fromhex("0180c20000")
_LAST_LINK_LOCAL: Final = 0x0F

_NOBODY: Final = bytes(6)

# Decisions for so many keys are kept at most.
_MOST_KEYS: Final = 16384


class Fate(Enum):
    """What happens to a frame."""

    FORWARDED = "forwarded"
    FILTERED = "filtered"
    """Its destination is behind the port where it has arrived."""
    MALFORMED = "malformed"
    """Not an Ethernet frame, or its source is not the address of a
    station."""
    WRONG_VLAN = "vlan"
    """The port is not a member of its VLAN."""
    LINK_LOCAL = "link_local"
    ISOLATED = "isolated"
    """Both ports are isolated."""
    NO_PORT = "no_port"
    """No other port is a member of its VLAN."""
    TOO_MANY_FLOODED = "flood_limit"


@dataclass(eq=False, slots=True)
class Decision:
    """Equal decisions of a port are the same object. `forms`: a choice for
    show() for each port that gets a copy, by its number."""

    fate: Fate
    forms: Mapping[int, int] = field(default_factory=dict)
    is_flooded: bool = False
    frames: int = 0
    """How many frames it was made for, as the caller has counted."""
    only: int = field(init=False)
    """The only port that gets a copy, if it gets the frames unchanged;
    otherwise -1."""

    def __post_init__(self) -> None:
        self.only = -1
        if list(self.forms.values()) == [UNCHANGED]:
            (self.only,) = self.forms


class Rules(Protocol):
    """What is configured for a port."""

    @property
    def vlans(self) -> Vlans: ...
    @property
    def is_isolated(self) -> bool: ...


class Decisions:
    """Decides about frames by their keys, and learns their sources.

    A decision is forgotten when the port of its source or its destination
    changes, and after a second: so a station that sends is learned again each
    second, and does not age.
    """

    def __init__(
        self, table: AddressTable, passes_link_local: bool = True
    ) -> None:
        self.made: dict[int, dict[bytes, Decision]] = {}
        """By the number of the port where the frames have arrived, and by
        their key. Only for reading."""
        self._table = table
        self._passes_link_local = passes_link_local
        self._ports: dict[int, Rules] = {}
        # Equal decisions of a port.
        self._known: dict[int, dict[object, Decision]] = {}
        # The decisions that depend on a station.
        self._uses: dict[Station, list[tuple[int, bytes]]] = {}
        self._count = 0
        # About frames that are flooded, by their port, VLAN and tag.
        self._floods: dict[tuple[int, int, int], Decision] = {}

    def add(self, number: int, rules: Rules) -> None:
        """From now on, a port with this number gets frames."""
        self._ports[number] = rules
        self.made[number] = {}
        self._known[number] = {}
        self.forget_all()

    def remove(self, number: int) -> None:
        """The port gets no more frames, and its decisions are not needed any
        more."""
        del self._ports[number], self.made[number], self._known[number]
        self.forget_all()
        for other in self._known:
            self._forget_copies_for(number, other)

    def _forget_copies_for(self, number: int, source: int) -> None:
        """Forgets the decisions about frames from the port `source` that went
        to the port with this number, but keeps their counts. Otherwise, ports
        that come and go would leave more and more of them behind."""
        known = self._known[source]
        for what, decision in list(known.items()):
            if number in decision.forms:
                del known[what]
                kept = self._same(
                    source, decision.fate, is_flooded=decision.is_flooded
                )
                kept.frames += decision.frames

    def known(self, number: int) -> Sequence[Decision]:
        """All decisions about frames from a port that it has had until now,
        with their counts."""
        return list(self._known[number].values())

    def too_many_flooded(self, number: int) -> Decision:
        """Returns the decision about frames beyond the limit of a port."""
        return self._same(number, Fate.TOO_MANY_FLOODED)

    def forget(self, station: Station) -> None:
        """Forgets what depends on this station."""
        for number, key in self._uses.pop(station, ()):
            decisions = self.made.get(number)
            if decisions is not None:
                decisions.pop(key, None)

    def forget_all(self) -> None:
        for decisions in self.made.values():
            decisions.clear()
        self._uses.clear()
        self._count = 0
        self._floods.clear()

    def decide(self, number: int, key: bytes) -> Decision:
        """Returns the decision about frames with this key that have arrived
        at a port."""
        decision = self.made[number].get(key)
        if decision is not None:
            return decision
        if self._count >= _MOST_KEYS:
            self.forget_all()
        destination, source, tag = _KEY.unpack(key)
        decision = self._make(number, destination, source, tag)
        # Learning the source may have forgotten other decisions, but not this
        # one, which is kept only now.
        self.made[number][key] = decision
        self._count += 1
        vlan = self._ports[number].vlans.vlan_of(tag)
        if vlan is not None:
            use = number, key
            self._uses.setdefault((vlan, source), []).append(use)
            if not destination[0] & 1:
                self._uses.setdefault((vlan, destination), []).append(use)
        return decision

    def _make(
        self, number: int, destination: bytes, source: bytes, tag: int
    ) -> Decision:
        if source[0] & 1 or source == _NOBODY:
            return self._same(number, Fate.MALFORMED)
        vlan = self._ports[number].vlans.vlan_of(tag)
        if vlan is None:
            return self._same(number, Fate.WRONG_VLAN)
        # As the kernel's bridge, it learns from frames of link protocols that
        # it drops (net/bridge/br_input.c:br_handle_local_finish()).
        self._table.learn((vlan, source), number, monotonic())
        if not self._passes_link_local and _is_link_local(destination):
            return self._same(number, Fate.LINK_LOCAL)
        if destination[0] & 1:
            return self._flood(number, vlan, tag)
        port = self._table.find((vlan, destination))
        if port is None:
            return self._flood(number, vlan, tag)
        if port == number:
            return self._same(number, Fate.FILTERED)
        return self._pass_to(number, port, vlan, tag)

    def _pass_to(
        self, number: int, port: int, vlan: int, tag: int
    ) -> Decision:
        if self._are_isolated(number, port):
            return self._same(number, Fate.ISOLATED)
        form = self._ports[port].vlans.form_of(vlan, tag)
        if form == LEFT_OUT:
            return self._same(number, Fate.WRONG_VLAN)
        return self._same(number, Fate.FORWARDED, {port: form})

    def _flood(self, number: int, vlan: int, tag: int) -> Decision:
        what = number, vlan, tag
        decision = self._floods.get(what)
        if decision is None:
            decision = self._floods[what] = self._make_flood(*what)
        return decision

    def _make_flood(self, number: int, vlan: int, tag: int) -> Decision:
        forms = {}
        for port, rules in self._ports.items():
            if port == number or self._are_isolated(number, port):
                continue
            form = rules.vlans.form_of(vlan, tag)
            if form != LEFT_OUT:
                forms[port] = form
        if not forms:
            return self._same(number, Fate.NO_PORT)
        return self._same(number, Fate.FORWARDED, forms, is_flooded=True)

    def _are_isolated(self, one: int, other: int) -> bool:
        return self._ports[one].is_isolated and self._ports[other].is_isolated

    def _same(
        self,
        number: int,
        fate: Fate,
        forms: Mapping[int, int] | None = None,
        is_flooded: bool = False,
    ) -> Decision:
        """Returns the decision with these attributes."""
        forms = forms or {}
        what = fate, is_flooded, tuple(forms.items())
        known = self._known[number]
        decision = known.get(what)
        if decision is None:
            decision = known[what] = Decision(fate, forms, is_flooded)
        return decision


def _is_link_local(address: bytes) -> bool:
    return address[:5] == _LINK_LOCAL and address[5] <= _LAST_LINK_LOCAL
