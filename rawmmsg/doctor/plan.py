"""Which checks run, in which order."""

import errno
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, ParamSpec

from .checks import (
    buffers,
    counters,
    elsewhere,
    features,
    filters,
    link,
    namespaces,
    offloads,
    privileges,
    promiscuity,
    qdisc,
    sockets,
    stamping,
)
from .finding import Finding, note, ok
from .kernel.links import Link, find_link
from .sample import Sample, take_sample

__all__ = ["Plan", "examine"]

_P = ParamSpec("_P")


@dataclass(frozen=True)
class Plan:
    """What the user asked for."""

    interface: str | None
    only: Collection[str]  # these checks; empty: all
    seconds: float  # between the two readings of the counters
    rcvbuf: int | None
    sndbuf: int | None


# Checks of the machine
_OF_MACHINE: Final[dict[str, Callable[[Plan], Iterator[Finding]]]] = {
    "privileges": lambda _: privileges.check(),
    "namespaces": lambda _: namespaces.check(),
    "buffers": lambda plan: buffers.check(plan.rcvbuf, plan.sndbuf),
    "kernel": lambda _: features.check(),
    "stamping": lambda _: stamping.check(),
}
# Checks of the interface's state
_OF_LINK: Final[dict[str, Callable[[Link], Iterator[Finding]]]] = {
    "link": link.check,
    "promiscuity": promiscuity.check,
}
# Checks that compare two samples: of the interface, and of everything
_OF_TRAFFIC_THERE: Final[
    dict[str, Callable[[Sample, Sample], Iterator[Finding]]]
] = {
    "offloads": lambda _, after: offloads.check(after),
    "qdisc": qdisc.check,
    "drops": counters.check_interface,
}
_OF_TRAFFIC: Final[
    dict[str, Callable[[Sample, Sample], Iterator[Finding]]]
] = {
    "filters": filters.check,
    "sockets": sockets.check,
    "softnet": counters.check_softnet,
}


def examine(plan: Plan) -> Iterator[Finding]:
    """Runs the checks; each finding comes as soon as it is known."""
    for name in _wanted(plan, _OF_MACHINE):
        yield from _guarded(name, _OF_MACHINE[name], plan)
    if plan.interface is None:
        yield from _examine_traffic(plan, None)
    else:
        yield from _guarded(
            "interface", _examine_interface, plan, plan.interface
        )


def _examine_interface(plan: Plan, interface: str) -> Iterator[Finding]:
    found = find_link(interface)
    if found is None:
        yield from elsewhere.check(interface)
        return
    for _ in _wanted(plan, ["interface"]):
        yield ok(
            "interface",
            f"{found.name} is in this network namespace",
            interface=found.name,
            index=found.index,
        )
    for name in _wanted(plan, _OF_LINK):
        yield from _guarded(name, _OF_LINK[name], found)
    yield from _examine_traffic(plan, found)


def _examine_traffic(plan: Plan, found: Link | None) -> Iterator[Finding]:
    checks = _OF_TRAFFIC if found is None else _OF_TRAFFIC_THERE | _OF_TRAFFIC
    wanted = _wanted(plan, checks)
    if not wanted:
        return
    index = None if found is None else found.index
    try:
        before = take_sample(index)
        with suppress(KeyboardInterrupt):  # Ctrl-C: it has been enough
            time.sleep(plan.seconds)
        after = take_sample(index)
    except OSError as error:
        yield _unreadable(error)
        return
    if found is not None and after.link is None:
        yield note("interface", f"{found.name} has disappeared meanwhile")
        return
    for name in wanted:
        yield from _guarded(name, checks[name], before, after)


def _guarded(
    name: str,
    check: Callable[_P, Iterator[Finding]],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> Iterator[Finding]:
    """Runs a check. What the kernel or a security policy refuses ends this
    check, and not the report."""
    try:
        yield from check(*args, **kwargs)
    except OSError as error:
        yield _refused(name, error)


def _unreadable(error: OSError) -> Finding:
    if error.errno != errno.ENOENT or error.filename is not None:
        return _refused("sockets", error)
    return note(
        "sockets",
        "packet sockets and counters were not looked at: the kernel does not"
        f" list its packet sockets ({error.strerror})",
        "modprobe af_packet_diag",
    )


def _refused(name: str, error: OSError) -> Finding:
    reason = error.strerror or str(error)
    if error.filename is not None:
        return note(
            name, f"not looked at: {error.filename}: {reason}", "mount /proc"
        )
    return note(
        name,
        f"not looked at: {reason}",
        "run as root outside of containers, which may forbid it",
    )


def _wanted(plan: Plan, names: Collection[str]) -> list[str]:
    return [name for name in names if name in plan.only or not plan.only]
