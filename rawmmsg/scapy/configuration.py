"""Scapy's configuration, told to use our sockets."""

import functools
from types import TracebackType
from typing import Any, Final

import scapy.arch  # it chooses Scapy's own sockets, which must not come later
import scapy.config
from scapy.config import conf

from .sockets import (
    L2RawMmsgListenSocket,
    L2RawMmsgSocket,
    L3RawMmsgSocket,
)

_OURS: Final[dict[str, Any]] = {
    "L2socket": L2RawMmsgSocket,
    "L2listen": L2RawMmsgListenSocket,
    "L3socket": L3RawMmsgSocket,
    "L3socket6": functools.partial(L3RawMmsgSocket, filter="ip6"),
}

# What conf would have without us; empty while we are not installed.
_theirs: dict[str, Any] = {}

_choose_sockets: Final = scapy.config._set_conf_sockets


def _apply() -> None:
    for name, ours in _OURS.items():
        _theirs[name] = getattr(conf, name)
        setattr(conf, name, ours)


def _choose_and_apply() -> None:
    """In place of the function by which Scapy sets its sockets, whenever
    conf.use_pcap changes."""
    _choose_sockets()
    _apply()


class Installation:
    """What install() returns: leaving its `with` block uninstalls, unless the
    sockets were installed before."""

    def __init__(self, first: bool) -> None:
        self._first = first

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._first:
            uninstall()


def install() -> Installation:
    """Makes our sockets those of conf.L2socket, L2listen, L3socket and
    L3socket6, until uninstall(), whatever happens to conf.use_pcap.

    To be used as a context manager, or not. Scapy keeps sockets of its own for
    layer 3 on the loopback interface.
    """
    first = not _theirs
    if first:
        _apply()
        scapy.config._set_conf_sockets = _choose_and_apply
    return Installation(first)


def uninstall() -> None:
    """Gives conf the sockets back that it would have by now without us, but
    where somebody has set another meanwhile. Harmless when not installed."""
    if not _theirs:
        return
    scapy.config._set_conf_sockets = _choose_sockets
    for name, theirs in _theirs.items():
        if getattr(conf, name) is _OURS[name]:
            setattr(conf, name, theirs)
    _theirs.clear()
