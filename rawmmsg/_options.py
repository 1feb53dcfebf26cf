"""Parses the arguments of RawSocket() and set_fanout() for the C code.

These functions make no system call, and the C code makes none before they have
returned. Wrong arguments therefore change nothing.
"""

from __future__ import annotations

import os
import sys
import warnings
from operator import index

from .constants import FANOUT_FLAG_DEFRAG, FANOUT_FLAG_ROLLOVER, FanoutMode

# Only for type checkers: typing takes as long to import as the package.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from socket import AddressFamily, SocketKind
    from typing import Any

    from typing_extensions import Buffer

__all__ = ["make_family", "make_type", "parse", "parse_fanout"]

# linux/if_ether.h
_ETH_P_ALL = 0x0003
_SOCK_DGRAM = 2
_SOCK_RAW = 3

_INT_MAX = 2**31 - 1
_IFNAMSIZ = 16
# struct packet_mreq (packet(7))
_PACKET_MR_MULTICAST = 0
_PACKET_MR_PROMISC = 1
_PACKET_MR_ALLMULTI = 2
_LONGEST_ADDRESS = 8

# What htons() makes of common protocols, on a little-endian machine.
_SWAPPED = {
    int.from_bytes(protocol.to_bytes(2), "little"): protocol
    for protocol in (
        *(_ETH_P_ALL, 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8),
        *(0x88B5, 0x88B6, 0x88CC, 0x88F7),
    )
    if sys.byteorder == "little"
}

# The index is the number that the C code expects.
_TIMESTAMPS = (None, "software", "hardware")

# PACKET_FANOUT_FLAG_UNIQUEID (linux/if_packet.h)
_FANOUT_UNIQUE_ID = 0x2000
_FANOUT_MODES = {mode.name.lower(): mode for mode in FanoutMode}

# Arguments that an adopted descriptor determines.
_DETERMINED = "interface protocol type netns allow_down".split()


def parse(
    interface: str | None = None,
    *,
    protocol: int | None = None,
    type: int | None = None,
    filter: object = None,
    promisc: object = False,
    ignore_outgoing: object = None,
    vlan: object = None,
    addresses: object = None,
    timestamps: str | None = None,
    vnet_hdr: bool | int | None = None,
    fanout: str | FanoutMode | tuple[Any, ...] | None = None,
    allmulti: object = False,
    multicast: Iterable[Buffer] | None = None,
    qdisc_bypass: object = False,
    rcvbuf: int | None = None,
    sndbuf: int | None = None,
    netns: str | bytes | os.PathLike[str] | None = None,
    allow_down: object = False,
    fileno: int | None = None,
) -> tuple[Any, ...]:
    """Returns the constructor's arguments in the order of `struct options` in
    C: sizes and truth values as int, and -1 for None."""
    if fileno is not None:
        given = [interface, protocol, type, netns, allow_down or None]
        if given != [None] * len(given):
            raise ValueError(
                "fileno= determines interface, protocol, type and namespace:"
                f" {_listed(given)} cannot be given as well"
            )
    parsed = (
        *_parse_interface(interface),
        _parse_protocol(protocol),
        _parse_type(type),
        filter,
        _parse_truth(ignore_outgoing),
        _parse_truth(vlan),
        _parse_truth(addresses),
        _parse_timestamps(timestamps),
        _parse_vnet_hdr(vnet_hdr),
        *_parse_fanout_option(fanout),
        _parse_memberships(promisc, allmulti, multicast),
        bool(qdisc_bypass),
        _parse_size("rcvbuf", rcvbuf),
        _parse_size("sndbuf", sndbuf),
        _parse_netns(netns),
        bool(allow_down),
        _parse_size("fileno", fileno),
    )
    if fileno is None:
        _check_new(interface, protocol, type, vnet_hdr)
        if interface is None:
            needs = {
                "promisc": promisc,
                "allmulti": allmulti,
                "multicast": multicast is not None,
                "hardware time stamps": timestamps == "hardware",
            }
            for what, wanted in needs.items():
                if wanted:
                    raise ValueError(f"{what} needs an interface")
    return parsed


# The name that Python's own messages about the arguments show.
parse.__qualname__ = "RawSocket"


def parse_fanout(
    mode: str | FanoutMode,
    group: int | None = None,
    flags: int = 0,
    program: Buffer | int | None = None,
) -> tuple[int, object]:
    """Returns the value of PACKET_FANOUT, without the flag for outgoing
    packets, and the program."""
    mode = _parse_fanout_mode(mode)
    number = _parse_size("group", group)
    if number > 0xFFFF:
        raise ValueError(f"group must be 0 to 0xffff, not {number:#x}")
    flags = index(flags)
    if flags & ~(FANOUT_FLAG_DEFRAG | FANOUT_FLAG_ROLLOVER):
        raise ValueError(
            "flags may have FANOUT_FLAG_DEFRAG and FANOUT_FLAG_ROLLOVER, and"
            f" no other bit: {flags:#x}"
        )
    _check_fanout_program(mode, number, program)
    if number < 0:
        number, flags = 0, flags | _FANOUT_UNIQUE_ID
    return number | (mode | flags) << 16, program


parse_fanout.__qualname__ = "set_fanout"


def make_family(number: int) -> AddressFamily:
    """Returns RawSocket.family."""
    # Importing socket takes longer than importing the package.
    from socket import AddressFamily

    return AddressFamily(number)


def make_type(number: int) -> SocketKind:
    """Returns RawSocket.type."""
    from socket import SocketKind

    return SocketKind(number)


def _parse_fanout_mode(mode: str | FanoutMode) -> FanoutMode:
    if isinstance(mode, FanoutMode):
        return mode
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a str or a FanoutMode, not {mode!r}")
    if mode not in _FANOUT_MODES:
        raise ValueError(
            f"mode must be one of {', '.join(_FANOUT_MODES)}, not {mode!r}"
        )
    return _FANOUT_MODES[mode]


def _check_fanout_program(
    mode: FanoutMode, group: int, program: object
) -> None:
    needed = mode in (FanoutMode.CBPF, FanoutMode.EBPF)
    if program is None:
        if group < 0 and needed:
            raise ValueError("a new group of this mode needs a program")
    elif not needed:
        raise ValueError("only the modes 'cbpf' and 'ebpf' have a program")
    elif isinstance(program, str):
        raise TypeError(
            "the program of a fanout group returns the number of a member."
            " A filter expression cannot do that: give instructions"
        )
    elif _is_number(program) != (mode == FanoutMode.EBPF):
        raise ValueError(
            "the program must be instructions for 'cbpf', and a descriptor"
            " for 'ebpf'"
        )


def _parse_fanout_option(
    fanout: str | FanoutMode | tuple[Any, ...] | None,
) -> tuple[int, object]:
    """Returns -1 for None, which is not a value of PACKET_FANOUT."""
    if fanout is None:
        return -1, None
    if isinstance(fanout, (str, FanoutMode)):
        return parse_fanout(fanout)
    if not isinstance(fanout, tuple):
        raise TypeError(
            "fanout must be a mode, or a tuple of the arguments of"
            f" set_fanout(), not {fanout!r}"
        )
    return parse_fanout(*fanout)


def _listed(given: list[object]) -> str:
    return ", ".join(
        name
        for name, value in zip(_DETERMINED, given, strict=True)
        if value is not None
    )


def _check_new(
    interface: str | None,
    protocol: int | None,
    type: int | None,
    vnet_hdr: bool | int | None,
) -> None:
    if interface is None and protocol is not None and index(protocol) == 0:
        raise ValueError(
            "protocol=0 makes a send-only socket, which needs an interface"
        )
    if vnet_hdr and type == _SOCK_DGRAM:
        raise ValueError("vnet_hdr needs SOCK_RAW (packet(7))")


def _parse_interface(interface: str | None) -> tuple[str | None, bytes]:
    if interface is None:
        return None, b""
    if not isinstance(interface, str):
        raise TypeError(f"interface must be str or None, not {interface!r}")
    # An exact str, so that repr and dealloc run no code of a subclass.
    interface = str.__str__(interface)
    name = os.fsencode(interface)
    if b"\0" in name:
        raise ValueError(
            f"interface must not contain a null byte: {interface!r}"
        )
    # The kernel drops a colon and what follows it, as the name of an alias.
    if not 0 < len(name) < _IFNAMSIZ or b":" in name:
        raise ValueError(
            f"interface must be a name of 1 to {_IFNAMSIZ - 1} bytes without"
            f" a colon, not {interface!r}"
        )
    return interface, name


def _parse_protocol(protocol: int | None) -> int:
    number = _parse_size("protocol", protocol)
    if number > 0xFFFF:
        raise ValueError(
            f"protocol must be an EtherType, 0 to 0xffff, not {number:#x}"
        )
    if number in _SWAPPED:
        warnings.warn(
            f"protocol {number:#06x} looks like htons("
            f"{_SWAPPED[number]:#06x}): RawSocket expects host order, without"
            " htons()",
            RuntimeWarning,
            stacklevel=3,
        )
    return _ETH_P_ALL if number < 0 else number


def _parse_type(type: int | None) -> int:
    number = _parse_size("type", type)
    if number not in (-1, _SOCK_RAW, _SOCK_DGRAM):
        raise ValueError(f"type must be SOCK_RAW or SOCK_DGRAM, not {type!r}")
    return _SOCK_RAW if number < 0 else number


def _parse_timestamps(timestamps: str | None) -> int:
    if timestamps not in _TIMESTAMPS:
        raise ValueError(
            "timestamps must be None, 'software' or 'hardware', not"
            f" {timestamps!r}"
        )
    return _TIMESTAMPS.index(timestamps)


def _parse_vnet_hdr(vnet_hdr: bool | int | None) -> int:
    """Returns the size of the header; True is the one that all kernels
    have."""
    if isinstance(vnet_hdr, bool):
        return 10 if vnet_hdr else 0
    size = _parse_size("vnet_hdr", vnet_hdr)
    if size not in (-1, 0, 10, 12):
        raise ValueError(f"vnet_hdr must be a bool, 10 or 12, not {size}")
    return size


def _parse_memberships(
    promisc: object, allmulti: object, multicast: Iterable[Buffer] | None
) -> tuple[tuple[int, bytes], ...]:
    """Returns the type and address of each struct packet_mreq."""
    parsed = []
    if promisc:
        parsed.append((_PACKET_MR_PROMISC, b""))
    if allmulti:
        parsed.append((_PACKET_MR_ALLMULTI, b""))
    for address in multicast if multicast is not None else ():
        data = bytes(memoryview(address))
        if not 1 <= len(data) <= _LONGEST_ADDRESS:
            raise ValueError(
                f"a hardware address has 1 to {_LONGEST_ADDRESS} bytes, not"
                f" {len(data)}"
            )
        parsed.append((_PACKET_MR_MULTICAST, data))
    return tuple(parsed)


def _parse_netns(
    netns: str | bytes | os.PathLike[str] | None,
) -> bytes | None:
    """Returns the path of a namespace; a name is one of `ip netns`."""
    if netns is None:
        return None
    path = os.fsencode(netns)
    if not path:
        raise ValueError("netns must not be empty")
    if b"\0" in path:
        raise ValueError(f"netns must not contain a null byte: {netns!r}")
    return path if b"/" in path else b"/var/run/netns/" + path


def _parse_truth(value: object) -> int:
    return -1 if value is None else bool(value)


def _parse_size(name: str, value: object) -> int:
    if value is None:
        return -1
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, not {value!r}") from None
    if number < 0:
        raise ValueError(f"{name} must not be negative: {number}")
    if number > _INT_MAX:
        raise OverflowError(f"{name} must be at most {_INT_MAX}: {number}")
    return number


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
