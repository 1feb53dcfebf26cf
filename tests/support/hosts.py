"""Hosts in network namespaces of their own, whose TCP and UDP talk to each
other through whatever joins their ports."""

import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from rawmmsg.testing import Veth
from support.linux import (
    ETHTOOL_SGRO,
    ETHTOOL_SGSO,
    ETHTOOL_STSO,
    ETHTOOL_STXCSUM,
    ethtool,
    ip,
    other_namespace,
)

P = ParamSpec("P")
R = TypeVar("R")

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h

_OFFLOADS: Final = (ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO)


@dataclass(frozen=True)
class Host:
    """A host with one interface; `pid` is a process inside."""

    interface: str
    number: int
    pid: int

    def address(self, family: socket.AddressFamily) -> str:
        if family == socket.AF_INET:
            return f"198.51.100.{self.number}"
        return f"2001:db8::{self.number}"

    def call(
        self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Calls the function in this namespace. Sockets made there stay
        there."""

        def inside() -> R:
            # Moves only this thread (setns(2)), which ends after the call.
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/proc/{self.pid}/ns/net") as file:
                if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
            return function(*args, **kwargs)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(inside).result()

    def leave_nothing_to_hardware(self) -> None:
        """Makes the host send complete frames that fit the link, and receive
        frames as they are (ethtool -K tx off tso off gso off gro off)."""
        for command in _OFFLOADS:
            self.call(ethtool, self.interface, command, 0)

    def checksum_errors(self) -> dict[str, int]:
        """The counters of packets received with a wrong checksum."""
        return {
            name: value
            for name, value in self._counters()
            if name.endswith("CsumErrors")
        }

    def counters(self) -> dict[str, int]:
        """All counters, such as Udp:InDatagrams and Udp6InDatagrams."""
        return dict(self._counters())

    def _counters(self) -> Iterator[tuple[str, int]]:
        directory = Path(f"/proc/{self.pid}/net")
        lines = (directory / "snmp").read_text().splitlines()
        # A line of names, then a line of values. Each begins with the
        # protocol.
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            protocol, *rest = names.split()
            for name, value in zip(rest, values.split()[1:], strict=True):
                yield protocol + name, int(value)
        for line in (directory / "snmp6").read_text().splitlines():
            name, value = line.split()
            yield name, int(value)


@contextmanager
def host(veth: Veth, number: int) -> Iterator[Host]:
    """Makes a host of the pair's end `a`. The end `b` is the port that leads
    to it."""
    with other_namespace() as pid:
        made = Host(veth.a, number, pid)
        ip("link", "set", veth.a, "netns", str(pid))
        for line in (
            f"link set {veth.a} up",
            f"address add {made.address(socket.AF_INET)}/24 dev {veth.a}",
            f"address add {made.address(socket.AF_INET6)}/64 dev {veth.a}"
            " nodad",
        ):
            made.call(ip, *line.split())
        yield made
