"""Which port a name on the command line means."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ..._command.grammar import (
    Form,
    PortError,
    Written,
    parse_address,
    read_name,
)
from .interfaces import Descriptor, Interface
from .paths import Access, parse_mode, parse_owner
from .port import Port
from .stream import StreamSocket
from .taps import Tap
from .udp import UdpSocket
from .unix import UnixSocket
from .vhost import GuestOptions, VhostUser
from .waiting import WaitingInterface

__all__ = ["parse_port", "parse_spin", "read_port"]

_DESCRIPTOR: Final = re.compile(r"\d{1,9}")  # fits in a C int
_MICROSECONDS: Final = re.compile(r"\d{1,7}")

_LONGEST_SPIN: Final = 1_000_000

# The longest name of an interface, linux/if.h.
_LONGEST_INTERFACE: Final = 15


@dataclass(frozen=True)
class _Defaults:
    """What holds for ports whose names do not say otherwise."""

    access: Access
    guest: GuestOptions


_BY_UMASK: Final = Access()
_BY_DEFAULT: Final = GuestOptions()


def parse_port(
    text: str,
    access: Access = _BY_UMASK,
    guest_options: GuestOptions = _BY_DEFAULT,
) -> Port:
    """Returns the port with this name, which is not open yet. Raises PortError
    if the name has a wrong form. The options in the name take precedence over
    `access` and `guest_options`."""
    port, _ = read_port(text, {}, access, guest_options)
    return port


def read_port(
    text: str,
    more: Mapping[str, str],
    access: Access = _BY_UMASK,
    guest_options: GuestOptions = _BY_DEFAULT,
) -> tuple[Port, Written]:
    """Does the same, and returns also what was written. All kinds have `more`
    options, which are as those of a Form."""
    kind, colon, _ = text.partition(":")
    if not colon:
        return _bare(text)
    if kind not in _KINDS:
        *forms, last = (str(form) for form, _ in _KINDS.values())
        raise PortError(
            f"{text!r}: not an interface, {', '.join(forms)} or {last}"
        )
    form, make = _KINDS[kind]
    written = read_name(text, replace(form, options={**form.options, **more}))
    port = make(written, _Defaults(access, guest_options))
    port.name = written.options.get("name", port.name)
    try:
        port.spin = parse_spin(written.options.get("spin", "0"))
    except ValueError as error:
        raise PortError(f"{written.text!r}: {error}") from None
    return port, written


def _bare(text: str) -> tuple[Port, Written]:
    if not text:
        raise PortError("the name of a port must not be empty")
    if "," in text and len(text) > _LONGEST_INTERFACE:
        raise PortError(
            f"{text!r}: an interface with options is written interface:{text}"
        )
    return Interface(text, text), Written("interface", text, (text,), {})


def _interface(written: Written, defaults: _Defaults) -> Port:
    (interface,) = written.fields
    netns = written.options.get("netns")
    if "wait" in written.options:
        notice = defaults.guest.notice
        return WaitingInterface(interface, interface, netns, notice)
    return Interface(interface, interface, netns)


def _tap(written: Written, _: _Defaults) -> Port:
    (interface,) = written.fields
    owner = written.options.get("owner")
    try:
        users = (-1, -1) if owner is None else parse_owner(owner)
    except ValueError as error:
        raise PortError(f"{written.text!r}: {error}") from None
    return Tap(interface, interface, users)


def _descriptor(written: Written, _: _Defaults) -> Port:
    (number,) = written.fields
    if not _DESCRIPTOR.fullmatch(number):
        raise PortError(
            f"{written.text!r}: the N of fd:N must be a descriptor number"
        )
    return Descriptor(written.text, int(number))


def _unix(written: Written, defaults: _Defaults) -> Port:
    local, remote = written.fields
    access = _access(written, defaults)
    return UnixSocket(written.text, local, remote, access)


def _udp(written: Written, _: _Defaults) -> Port:
    addresses = [parse_address(one) for one in written.fields]
    if None in addresses:
        raise PortError(
            f"{written.text!r}: not of the form udp:HOST:PORT,HOST:PORT"
        )
    local, remote = (one for one in addresses if one is not None)
    return UdpSocket(written.text, local, remote)


def _stream(written: Written, defaults: _Defaults) -> Port:
    (field,) = written.fields
    path = field.removeprefix("unix:")
    address = path if path != field else parse_address(field)
    if not address:
        raise PortError(
            f"{written.text!r}: not of the form stream:unix:PATH or"
            " stream:HOST:PORT"
        )
    listens = "listen" in written.options
    if not listens:
        _reject_access(written, "the peer creates the path")
    elif not isinstance(address, str):
        _reject_access(written, "a TCP port has no path")
    return StreamSocket(
        written.text,
        address,
        listens,
        _access(written, defaults),
        defaults.guest.report,
        defaults.guest.notice,
    )


def _vhost_user(written: Written, defaults: _Defaults) -> Port:
    (path,) = written.fields
    connects = "connect" in written.options
    if connects:
        _reject_access(written, "the virtual machine creates the path")
    options = defaults.guest
    if "trust-memory" in written.options:
        options = replace(options, trust_memory=True)
    access = _access(written, defaults)
    return VhostUser(written.text, path, connects, access, options)


def _access(written: Written, defaults: _Defaults) -> Access:
    """Applies mode= and owner=."""
    access = defaults.access
    try:
        if "mode" in written.options:
            access = replace(access, mode=parse_mode(written.options["mode"]))
        if "owner" in written.options:
            user, group = parse_owner(written.options["owner"])
            access = replace(access, user=user, group=group)
    except ValueError as error:
        raise PortError(f"{written.text!r}: {error}") from None
    return access


def parse_spin(text: str) -> float:
    """Converts microseconds to seconds. Raises ValueError."""
    if not _MICROSECONDS.fullmatch(text) or int(text) > _LONGEST_SPIN:
        raise ValueError(
            f"{text!r} is not a number of microseconds from 0 to"
            f" {_LONGEST_SPIN:,}"
        )
    return int(text) / 1e6


def _reject_access(written: Written, why: str) -> None:
    """Raises PortError for mode= and owner=."""
    for word in ("mode", "owner"):
        if word in written.options:
            raise PortError(f"{written.text!r}: no use of {word}=: {why}")


_COMMON: Final = {"name": "NAME", "spin": "MICROSECONDS"}
_OWNER: Final = "USER[:GROUP]"
_ACCESS: Final = {"mode": "OCTAL", "owner": _OWNER, **_COMMON}
_WORDS: Final = {"connect": "", "trust-memory": ""}

_Make = Callable[[Written, _Defaults], Port]

_KINDS: Final[Mapping[str, tuple[Form, _Make]]] = {
    form.kind: (form, make)
    for form, make in (
        (Form("unix", "LOCAL,REMOTE", _ACCESS), _unix),
        (Form("vhost-user", "PATH", _ACCESS | _WORDS), _vhost_user),
        (
            Form("stream", "unix:PATH|HOST:PORT", _ACCESS | {"listen": ""}),
            _stream,
        ),
        (Form("udp", "HOST:PORT,HOST:PORT", _COMMON), _udp),
        (
            Form(
                "interface", "NAME", {"netns": "NAME", "wait": "", **_COMMON}
            ),
            _interface,
        ),
        (Form("tap", "NAME", {"owner": _OWNER, **_COMMON}), _tap),
        (Form("fd", "N", _COMMON), _descriptor),
    )
}
