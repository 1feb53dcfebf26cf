"""May this process open packet sockets, and use what needs more?"""

import errno
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..finding import Finding, note, ok, problem

__all__ = ["administers_network", "check"]

NAME: Final = "privileges"

_CAP_NET_RAW: Final = 13  # linux/capability.h
_SO_TXTIME: Final = 61  # asm-generic/socket.h
_SOCK_TXTIME: Final = struct.Struct("=iI")  # struct sock_txtime
_CLOCK_TAI: Final = 11  # linux/time.h


def check() -> Iterator[Finding]:
    yield _packet_sockets()
    if administers_network():
        yield ok(
            NAME,
            "CAP_NET_ADMIN holds for this network namespace",
            cap_net_admin=True,
        )
    else:
        yield note(
            NAME,
            "CAP_NET_ADMIN is missing: rawmmsg needs it for receive buffers"
            " beyond net.core.rmem_max and for hardware time stamps, and"
            " without it doctor cannot see the filters of sockets",
            "run as root what needs it",
            cap_net_admin=False,
        )


def _packet_sockets() -> Finding:
    """Tries it: capabilities may be those of another user namespace."""
    try:
        # Protocol 0: it receives nothing.
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        return _refused()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return problem(
            NAME,
            "this kernel has no packet sockets",
            "modprobe af_packet",
            cap_net_raw=None,
        )
    return ok(
        NAME,
        "packet sockets can be opened (CAP_NET_RAW)",
        cap_net_raw=True,
        uid=os.geteuid(),
    )


def _refused() -> Finding:
    own_network = "unshare --user --map-root-user --net"
    if _has_net_raw():
        return problem(
            NAME,
            "packet sockets are refused, although this process has"
            " CAP_NET_RAW: its user namespace does not own this network"
            " namespace, or a security policy forbids it",
            "run as root outside of this user namespace, or make both kinds"
            f" of namespace: {own_network}",
            cap_net_raw=True,
            uid=os.geteuid(),
        )
    return problem(
        NAME,
        "packet sockets are refused: CAP_NET_RAW is missing, which every"
        " RawSocket needs to be opened",
        f"run as root; or {_setcap()}; or work in a network of your own:"
        f" {own_network}",
        cap_net_raw=False,
        uid=os.geteuid(),
    )


def _has_net_raw() -> bool:
    """Whether this process has it in its own user namespace."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return match is not None and bool(int(match[1], 16) >> _CAP_NET_RAW & 1)


def _setcap() -> str:
    """For a copy of the interpreter only: everybody could run anything with
    the capability of the system's."""
    interpreter = Path(sys.executable).resolve()
    if interpreter.is_relative_to(Path(sys.prefix).resolve() / "bin") and (
        sys.prefix != sys.base_prefix
    ):
        return f"setcap cap_net_raw+ep {interpreter}"
    return (
        "make an environment for yourself (python3 -m venv --copies VENV;"
        " chmod 700 VENV) and, as root, setcap cap_net_raw+ep"
        " VENV/bin/python3"
    )


def administers_network() -> bool:
    """Returns whether CAP_NET_ADMIN holds for this network namespace.

    Without it a socket may not choose CLOCK_TAI
    (net/core/sock.c:sk_setsockopt()).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        option = _SOCK_TXTIME.pack(_CLOCK_TAI, 0)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_TXTIME, option)
        except PermissionError:
            return False
    return True
