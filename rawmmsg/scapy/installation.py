"""install() and uninstall(): which sockets Scapy opens."""

import functools
from types import TracebackType
from typing import Any, Final

import scapy.arch  # first: it sets Scapy's own sockets in conf
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

# The sockets that conf would use without rawmmsg; empty unless installed.
_theirs: dict[str, Any] = {}

_choose_sockets: Final = scapy.config._set_conf_sockets


def _apply() -> None:
    for name, ours in _OURS.items():
        _theirs[name] = getattr(conf, name)
        setattr(conf, name, ours)


def _choose_and_apply() -> None:
    """Replaces the function that sets Scapy's sockets whenever conf.use_pcap
    changes."""
    _choose_sockets()
    _apply()


class Installation:
    """The result of install(). The end of its `with` block uninstalls the
    sockets, unless they were installed before."""

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
    """Makes Scapy use the sockets of rawmmsg (conf.L2socket, L2listen,
    L3socket and L3socket6) until uninstall(), even if conf.use_pcap changes.

    Can be used as a context manager. For layer 3 on the loopback interface,
    Scapy keeps using its own sockets.
    """
    first = not _theirs
    if first:
        _apply()
        scapy.config._set_conf_sockets = _choose_and_apply
    return Installation(first)


def uninstall() -> None:
    """Restores the sockets that `conf` would use without rawmmsg, except where
    other code has replaced them since. Harmless if not installed."""
    if not _theirs:
        return
    scapy.config._set_conf_sockets = _choose_sockets
    for name, theirs in _theirs.items():
        if getattr(conf, name) is _OURS[name]:
            setattr(conf, name, theirs)
    _theirs.clear()
