"""The ports of a switch on its command line."""

import argparse
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ..arguments import mode, owner
from ..ports import (
    Access,
    Descriptor,
    GuestOptions,
    Interface,
    Port,
    PortError,
    StreamPort,
    UdpSocket,
    UnixSocket,
    VhostUser,
    parse_address,
)
from ..ports.grammar import Kind, Spec, parse_spec
from .members import PortRules
from .vlans import LAST_VLAN, Vlans

__all__ = ["PortSpec", "parse_port"]

_COMMON: Final = {
    "name": "NAME",
    "access": "VLAN",
    "trunk": "VLAN+VLAN...",
    "native": "VLAN",
    "isolated": "",
    "flood": "FRAMES_PER_SECOND",
    "queue": "FRAMES",
    "plain": "",
}
_PATH: Final = {"mode": "OCTAL", "owner": "USER[:GROUP]"}

_KINDS: Final = {
    "interface": Kind(("NAME",), {**_COMMON, "netns": "NAME", "wait": ""}),
    "unix": Kind(("LOCAL", "REMOTE"), {**_COMMON, **_PATH}),
    "udp": Kind(("HOST:PORT", "HOST:PORT"), _COMMON),
    "fd": Kind(("N",), _COMMON),
    "stream": Kind(("ADDRESS",), {**_COMMON, **_PATH, "listen": ""}),
    "vhost-user": Kind(
        ("PATH",), {**_COMMON, **_PATH, "connect": "", "trust-memory": ""}
    ),
}

_MOST_QUEUED: Final = 65536
_MOST_FLOODED: Final = 1_000_000_000
_DESCRIPTOR: Final = re.compile(r"\d{1,9}")  # fits in a C int


@dataclass(frozen=True)
class PortSpec:
    """A port of a switch. `make` returns it, not open yet. `waits`: whether
    the switch runs without it until it can be opened, and again when it has
    ended."""

    name: str
    make: Callable[[], Port]
    rules: PortRules
    waits: bool


def parse_port(
    text: str,
    guest_options: GuestOptions,
    numbers: dict[str, int],
    names: Collection[str],
) -> PortSpec:
    """Returns the port with this description.

    `numbers`: how many ports of each kind there are; it counts this one.
    `names`: those of all other ports. Raises PortError if the description has
    a wrong form, or if the name is one of them.
    """
    spec = parse_spec(text, _KINDS)
    numbers[spec.kind] = numbers.get(spec.kind, 0) + 1
    name = spec.options.get("name") or (
        spec.fields[0]
        if spec.kind == "interface"
        else f"{spec.kind}{numbers[spec.kind]}"
    )
    if name in names:
        raise PortError(
            f"{text!r}: two ports have the name {name}; give one of them"
            " another with the option name=NAME"
        )
    make = _maker(spec, name, guest_options)
    return PortSpec(name, make, _rules(spec), "wait" in spec.options)


def _maker(
    spec: Spec, name: str, guest_options: GuestOptions
) -> Callable[[], Port]:
    """Returns a function that makes the port. Checks what it needs."""
    fields, options = spec.fields, spec.options
    if spec.kind == "interface":
        return lambda: Interface(name, fields[0], options.get("netns"))
    if spec.kind == "fd":
        if not _DESCRIPTOR.fullmatch(fields[0]):
            raise PortError(
                f"{spec.text!r}: the N of fd:N must be a descriptor number"
            )
        return lambda: Descriptor(name, int(fields[0]))
    if spec.kind == "udp":
        local, remote = map(parse_address, fields)
        if local is None or remote is None:
            raise PortError(
                f"{spec.text!r}: not of the form udp:HOST:PORT,HOST:PORT"
            )
        return lambda: UdpSocket(name, local, remote)
    if spec.kind == "stream":
        return _stream_maker(spec, name, guest_options)
    access = _access(spec)
    if spec.kind == "unix":
        return lambda: UnixSocket(name, fields[0], fields[1], access)
    connects = "connect" in options
    if connects and access != Access():
        raise PortError(
            f"{spec.text!r}: mode and owner are for a path that the switch"
            " creates, and with connect it creates none"
        )
    if "trust-memory" in options:
        guest_options = replace(guest_options, trust_memory=True)
    return lambda: VhostUser(name, fields[0], connects, access, guest_options)


def _stream_maker(
    spec: Spec, name: str, messages: GuestOptions
) -> Callable[[], Port]:
    text, access, listens = (
        spec.fields[0],
        _access(spec),
        "listen" in spec.options,
    )
    kind, _, path = text.partition(":")
    address = path if kind == "unix" and path else parse_address(text)
    if address is None:
        raise PortError(
            f"{spec.text!r}: not of the form stream:unix:PATH or"
            " stream:HOST:PORT"
        )
    if access != Access() and not (listens and isinstance(address, str)):
        raise PortError(
            f"{spec.text!r}: mode and owner are for a path that the switch"
            " creates: stream:unix:PATH,listen"
        )
    return lambda: StreamPort(
        name, address, listens, access, messages.report, messages.notice
    )


def _access(spec: Spec) -> Access:
    options = spec.options
    try:
        user, group = owner(options["owner"]) if "owner" in options else _OURS
        bits = mode(options["mode"]) if "mode" in options else None
    except argparse.ArgumentTypeError as error:
        raise PortError(f"{spec.text!r}: {error}") from None
    return Access(bits, user, group)


_OURS: Final = (-1, -1)


def _rules(spec: Spec) -> PortRules:
    options = spec.options
    flood = _number(spec, "flood", _MOST_FLOODED)
    queue = _number(spec, "queue", _MOST_QUEUED)
    rules = PortRules(
        _vlans(spec),
        is_isolated="isolated" in options,
        flood=flood,
        is_plain="plain" in options,
    )
    return rules if queue is None else replace(rules, queue=queue)


def _vlans(spec: Spec) -> Vlans:
    options = spec.options
    if "access" in options:
        if "trunk" in options or "native" in options:
            raise PortError(
                f"{spec.text!r}: an access port has no trunk= and no native="
            )
        return Vlans.access(_vlan(spec, options["access"]))
    native = _native(spec, options)
    if "trunk" not in options:
        return Vlans() if native is None else Vlans(native)
    tagged = frozenset(
        _vlan(spec, text) for text in options["trunk"].split("+")
    )
    return Vlans(native, tagged)


def _native(spec: Spec, options: Mapping[str, str]) -> int | None:
    return _vlan(spec, options["native"]) if "native" in options else None


def _vlan(spec: Spec, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not (
        0 < int(text) <= LAST_VLAN
    ):
        raise PortError(
            f"{spec.text!r}: {text!r} is not the number of a VLAN (1 to"
            f" {LAST_VLAN})"
        )
    return int(text)


def _number(spec: Spec, word: str, largest: int) -> int | None:
    text = spec.options.get(word)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or not (
        0 < int(text) <= largest
    ):
        raise PortError(
            f"{spec.text!r}: {word} must be a number from 1 to {largest:,}"
        )
    return int(text)
