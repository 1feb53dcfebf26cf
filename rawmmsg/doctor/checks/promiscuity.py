"""Does promiscuous mode work on the interface?

No kernel refuses it (net/core/dev.c:dev_set_promiscuity()), but on some kinds
of interface it has no effect: what shares one interface among several, by
address, delivers to each only what is addressed to it.
"""

import struct
from collections.abc import Iterator
from typing import Final

from ..finding import Finding, note, ok, problem
from ..kernel.links import Link, link_by_index
from ..quoting import in_shell

__all__ = ["check"]

NAME: Final = "promiscuity"

# linux/if_link.h
_IFLA_MACVLAN_MODE: Final = 1
_IFLA_MACVLAN_FLAGS: Final = 2
_MACVLAN_MODES: Final = {
    1: "private",
    2: "vepa",
    4: "bridge",
    8: "passthru",
    16: "source",
}
_MACVLAN_MODE_PASSTHRU: Final = 8
_MACVLAN_FLAG_NOPROMISC: Final = 1


def check(link: Link) -> Iterator[Finding]:
    obstacle, remedy = _obstacle(link)
    asked = link.promiscuity > 0
    if obstacle is None:
        yield ok(
            NAME,
            f"promiscuous mode is {'on' if asked else 'possible'}",
            promiscuity=link.promiscuity,
            kind=link.kind,
        )
        return
    found = problem if asked else note
    used = "is on, but" if asked else ""
    yield found(
        NAME,
        " ".join(
            f"promiscuous mode {used} has no effect on {link.name}:"
            f" {obstacle}".split()
        ),
        remedy,
        promiscuity=link.promiscuity,
        kind=link.kind,
    )


def _obstacle(link: Link) -> tuple[str | None, str]:
    """Returns why promiscuous mode has no effect, if so, and the remedy."""
    if link.kind in ("macvlan", "macvtap"):
        return _obstacle_of_macvlan(link)
    if link.kind in ("ipvlan", "ipvtap"):
        # drivers/net/ipvlan/ipvlan_core.c:ipvlan_handle_frame()
        return (
            f"an {link.kind} receives no unicast frame for another IP address",
            "open the socket on the interface below it",
        )
    return None, ""


def _obstacle_of_macvlan(link: Link) -> tuple[str | None, str]:
    mode = _number("=I", link.kind_data.get(_IFLA_MACVLAN_MODE))
    flags = _number("=H", link.kind_data.get(_IFLA_MACVLAN_FLAGS))
    if mode != _MACVLAN_MODE_PASSTHRU:
        # drivers/net/macvlan.c:macvlan_handle_frame()
        return (
            f"a {link.kind} in mode {_MACVLAN_MODES.get(mode, mode)} receives"
            " no unicast frame for another MAC address",
            "open the socket on the interface below it, or make the"
            f" interface again: ip link add ... type {link.kind} mode"
            " passthru",
        )
    below = link_by_index(link.lower) if link.lower_is_here else None
    if flags & _MACVLAN_FLAG_NOPROMISC and not (below and below.promiscuity):
        name = in_shell(below.name) if below else "INTERFACE_BELOW"
        return (
            "it was made with the flag nopromisc, so the interface below it"
            " does not become promiscuous",
            f"ip link set {name} promisc on",
        )
    return None, ""


def _number(form: str, data: bytes | None) -> int:
    return 0 if data is None else int(struct.unpack_from(form, data)[0])
