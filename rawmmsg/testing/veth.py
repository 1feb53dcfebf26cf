"""Pairs of virtual Ethernet interfaces (veth(4)), made with ip(8)."""

import errno
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from .namespace import in_namespace, write_file

__all__ = ["Veth", "veth_pair"]

_IFNAMSIZ: Final = 16  # <linux/if.h>
_READY_TIMEOUT: Final = 10.0

_numbers = itertools.count()
_numbers_lock = threading.Lock()


@dataclass(frozen=True)
class Veth:
    """Two connected interfaces: each receives what the other sends.

    `a` and `b` are their names. As a context manager, it deletes them at the
    end of the block.
    """

    a: str
    b: str

    def up(self, end: str | None = None) -> None:
        """Brings up one end ("a" or "b", or its name), or both ends. If both
        ends are up then, it returns when the link carries frames."""
        lines = [f"link set dev {name} up" for name in self._ends(end)]
        lines += [f"link show dev {self.a}", f"link show dev {self.b}"]
        answer = _ip("-json", "-batch", "-", lines=lines)
        # The end that came up first gets its carrier and its queue a moment
        # later, from a work queue of the kernel
        # (net/core/link_watch.c:linkwatch_do_dev()).
        deadline = time.monotonic() + _READY_TIMEOUT
        while not _ready(answer):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self.a} and {self.b} have no carrier"
                    f" {_READY_TIMEOUT:.0f} s after they were brought up"
                )
            time.sleep(0.001)
            answer = _ip("-json", "-batch", "-", lines=lines[-2:])

    def down(self, end: str | None = None) -> None:
        """Takes down one end ("a" or "b", or its name), or both ends."""
        lines = [f"link set dev {name} down" for name in self._ends(end)]
        _ip("-batch", "-", lines=lines)

    def delete(self) -> None:
        """Deletes both interfaces. Does nothing if they are gone already."""
        for name in (self.a, self.b):
            if name in _interfaces():
                try:
                    _ip("link", "delete", "dev", name)
                except RuntimeError:
                    if name in _interfaces():
                        raise

    def _ends(self, end: str | None) -> list[str]:
        if end is None:
            return [self.a, self.b]
        if end in ("a", self.a):
            return [self.a]
        if end in ("b", self.b):
            return [self.b]
        raise ValueError(
            f"end must be 'a', 'b' or an interface of the pair, not {end!r}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()


def veth_pair(
    name_a: str | None = None,
    name_b: str | None = None,
    *,
    mtu: int = 1500,
    ipv6: bool = False,
    up: bool = True,
) -> Veth:
    """Makes a veth pair in the private namespace of the caller.

    When it returns, both ends are up and carry frames, unless `up` is false.
    The kernel sends no packets of its own on them, unless `ipv6` is true.
    Names that are not given are chosen, and are unique.

    Raises RuntimeError outside a namespace made by this package, so that a
    mistake cannot change the host's network. Raises FileNotFoundError if the
    `ip` command is missing, OSError (EOPNOTSUPP) if the kernel has no veth
    driver, and RuntimeError with the output of `ip` if it fails otherwise.
    """
    if not in_namespace():
        raise RuntimeError(
            "not in a private network namespace: call enter_namespace() first"
        )
    with _numbers_lock:
        number = next(_numbers)
    # With the pid, because other processes may share the namespace.
    a = name_a or f"v{os.getpid()}n{number}a"
    b = name_b or f"v{os.getpid()}n{number}b"
    for name in (a, b):
        # The kernel replaces %d; a line of `ip -batch` ends at #.
        if len(os.fsencode(name)) >= _IFNAMSIZ or set(name) & set(
            "/ \t\n\"'%#"
        ):
            raise ValueError(f"not a name for an interface: {name!r}")
    size = str(mtu)
    _ip(
        *("link", "add", "name", a, "mtu", size),
        *("type", "veth", "peer", "name", b, "mtu", size),
    )
    pair = Veth(a, b)
    try:
        if not ipv6:
            _disable_ipv6(a)
            _disable_ipv6(b)
        if up:
            pair.up()
    except BaseException:
        pair.delete()
        raise
    return pair


def _disable_ipv6(name: str) -> None:
    """Without IPv6, the kernel sends no router solicitations and no multicast
    reports."""
    try:
        write_file(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1")
    except FileNotFoundError:
        pass  # this kernel has no IPv6
    except OSError:
        # /proc/sys is read-only, as in a container. An interface without a
        # link-local address sends no solicitations either.
        _ip("link", "set", "dev", name, "addrgenmode", "none")


def _ready(answer: str) -> bool:
    """Returns whether the link carries frames, or cannot because an end is
    down. `answer` is what `ip -json` printed: a list per line, each with one
    interface."""
    ends = [json.loads(line)[0] for line in answer.splitlines()]
    if not all("UP" in end["flags"] for end in ends):
        return True
    return all(
        end["operstate"] == "UP" and end["qdisc"] != "noop" for end in ends
    )


def _interfaces() -> set[str]:
    """Returns the names of the interfaces in the caller's namespace."""
    return {name for _, name in socket.if_nameindex()}


def _ip(*arguments: str, lines: Sequence[str] = ()) -> str:
    """Runs ip(8), with `lines` as input for its -batch, and returns its
    output."""
    # The PATH of plain users often lacks the sbin directories.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    command = shutil.which("ip", path=path)
    if command is None:
        raise FileNotFoundError(
            errno.ENOENT,
            "veth pairs need the ip command: install iproute2"
            " (apt-get install iproute2)",
        )
    done = subprocess.run(
        [command, *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        errors="surrogateescape",  # an interface name may contain any bytes
        check=False,
    )
    if done.returncode == 0:
        return done.stdout
    message = " ".join(done.stderr.split())
    if "Unknown device type" in message or "not supported" in message:
        raise OSError(
            errno.EOPNOTSUPP,
            "veth pairs need the kernel's veth driver: modprobe veth"
            f" ({message})",
        )
    if "BusyBox" in message:
        raise OSError(
            errno.EOPNOTSUPP,
            "veth pairs need the ip command of iproute2, not BusyBox's:"
            " apk add iproute2",
        )
    what = " ".join(arguments) if not lines else "; ".join(lines)
    raise RuntimeError(
        f"ip {what}: {message or f'exit code {done.returncode}'}"
    )
