"""The ports of a switch on its command line."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from ..ports import GuestOptions, Port, PortError, Written, read_port
from .members import PortRules
from .vlans import LAST_VLAN, Vlans

__all__ = ["parse_spec"]

_OPTIONS: Final = {
    "access": "VLAN",
    "trunk": "VLAN+VLAN...",
    "native": "VLAN",
    "isolated": "",
    "flood": "FRAMES_PER_SECOND",
    "queue": "FRAMES",
    "plain": "",
}

_MOST_QUEUED: Final = 65536
_MOST_FLOODED: Final = 1_000_000_000


def parse_spec(
    text: str,
    guest_options: GuestOptions,
    numbers: dict[str, int],
    names: Collection[str],
) -> tuple[Port, PortRules]:
    """Returns the port with this description, not open yet, and its rules.

    `numbers`: how many ports of each kind there are; it counts this one.
    `names`: those of all other ports. Raises PortError if the description has
    a wrong form, or if the name is one of them.
    """
    port, written = read_port(text, _OPTIONS, guest_options=guest_options)
    kind = written.kind
    numbers[kind] = numbers.get(kind, 0) + 1
    port.name = written.options.get("name") or (
        written.fields[0]
        if kind in ("interface", "tap")
        else f"{kind}{numbers[kind]}"
    )
    if port.name in names:
        raise PortError(
            f"{text!r}: two ports have the name {port.name}; if they are not"
            " the same, name one of them with the option name=NAME"
        )
    return port, _rules(written)


def _rules(written: Written) -> PortRules:
    options = written.options
    flood = _number(written, "flood", _MOST_FLOODED)
    queue = _number(written, "queue", _MOST_QUEUED)
    rules = PortRules(
        _vlans(written),
        is_isolated="isolated" in options,
        flood=flood,
        is_plain="plain" in options,
    )
    return rules if queue is None else replace(rules, queue=queue)


def _vlans(written: Written) -> Vlans:
    options = written.options
    if "access" in options:
        if "trunk" in options or "native" in options:
            raise PortError(
                f"{written.text!r}: an access port has no trunk= and no"
                " native="
            )
        return Vlans.access(_vlan(written, options["access"]))
    native = _native(written, options)
    if "trunk" not in options:
        return Vlans() if native is None else Vlans(native)
    tagged = frozenset(
        _vlan(written, text) for text in options["trunk"].split("+")
    )
    return Vlans(native, tagged)


def _native(written: Written, options: Mapping[str, str]) -> int | None:
    return _vlan(written, options["native"]) if "native" in options else None


def _vlan(written: Written, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not (
        0 < int(text) <= LAST_VLAN
    ):
        raise PortError(
            f"{written.text!r}: {text!r} is not the number of a VLAN (1 to"
            f" {LAST_VLAN})"
        )
    return int(text)


def _number(written: Written, word: str, largest: int) -> int | None:
    text = written.options.get(word)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or not (
        0 < int(text) <= largest
    ):
        raise PortError(
            f"{written.text!r}: {word} must be a number from 1 to {largest:,}"
        )
    return int(text)
