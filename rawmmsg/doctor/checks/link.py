"""Is the interface up, and does it have a carrier?"""

from collections.abc import Iterator
from typing import Final

from ..finding import Finding, ok, problem
from ..kernel.links import Link, link_by_index
from ..quoting import in_shell

__all__ = ["check"]

NAME: Final = "link"

_ARPHRD_ETHER: Final = 1  # linux/if_arp.h
# linux/if.h, enum of RFC 2863
_OPERSTATES: Final = {
    1: "not present",
    2: "down",
    3: "lower layer down",
    4: "testing",
    5: "dormant",
}


def check(link: Link) -> Iterator[Finding]:
    if not link.up:
        yield problem(
            NAME,
            f"{link.name} is down: RawSocket raises ENETDOWN (unless"
            " allow_down=True), and no frame passes",
            f"ip link set {in_shell(link.name)} up",
            up=False,
            mtu=link.mtu,
            kind=link.kind,
        )
    elif not link.carrier or link.operstate in _OPERSTATES:
        yield _without_carrier(link)
    else:
        promiscuous = ", promiscuous" if link.promiscuity else ""
        yield ok(
            NAME,
            f"{link.name} is up and has a carrier, MTU"
            f" {link.mtu:,}{promiscuous}",
            up=True,
            carrier=True,
            mtu=link.mtu,
            kind=link.kind,
            promiscuity=link.promiscuity,
            ethernet=link.hardware_type == _ARPHRD_ETHER,
        )


def _without_carrier(link: Link) -> Finding:
    state = _OPERSTATES.get(link.operstate, "no carrier")
    remedy = "connect the cable, or start the far end"
    far = link_by_index(link.lower) if _has_lower_here(link) else None
    if far is not None and not far.up:
        state = f"{state}: {far.name} is down"
        remedy = f"ip link set {in_shell(far.name)} up"
    elif link.lower and not link.lower_is_here:
        remedy = "set up the far end, which is in another network namespace"
    return problem(
        NAME,
        f"{link.name} is up, but has no carrier ({state}); frames sent to it"
        " are dropped",
        remedy,
        up=True,
        carrier=link.carrier,
        operstate=link.operstate,
        mtu=link.mtu,
        kind=link.kind,
    )


def _has_lower_here(link: Link) -> bool:
    return link.lower not in (0, link.index) and link.lower_is_here
