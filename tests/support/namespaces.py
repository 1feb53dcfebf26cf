"""Processes with and without the right to make namespaces."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rawmmsg import testing
from support.child import WITHOUT_CAPABILITIES

# Uid 0 without privileges over its network, like a plain user. It needs
# CAP_SETFCAP to map itself (user_namespaces(7)).
PLAIN: Final = ["setpriv", "--inh-caps=-all", "--bounding-set=-all,+setfcap"]
# Without CAP_SETFCAP too, so user namespaces fail with EPERM.
REFUSED: Final = [*WITHOUT_CAPABILITIES]
# A user namespace in which no more namespaces may be made.
EXHAUSTED: Final = [
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    """
    echo 0 > /proc/sys/user/max_user_namespaces
    echo 0 > /proc/sys/user/max_net_namespaces
    exec "$@"
    """,
    "sh",
]


def interfaces() -> list[str]:
    """The interfaces of this namespace."""
    return [name for _, name in socket.if_nameindex()]


def namespace() -> int:
    """The number of this thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def user_ids() -> list[tuple[int, int, int]]:
    """The ranges of user ids of this user namespace: the first id in it, the
    first id outside, and how many there are (user_namespaces(7))."""
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    return [(int(a), int(b), int(n)) for a, b, n in map(str.split, lines)]


def has_user(uid: int) -> bool:
    """Whether a process of this user namespace can become this user."""
    return any(first <= uid < first + n for first, _, n in user_ids())


def is_initial_user_namespace() -> bool:
    """Whether privileges in this user namespace are those of root."""
    return user_ids() == [(0, 0, 2**32 - 1)]


def clean_environment(**changes: str) -> dict[str, str]:
    """The variables of this process, without those of pytest and the plugin.
    Children can import the package under test."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "RAWMMSG_"))
        and name not in ("CI", "COLUMNS")
    }
    kept["PYTHONPATH"] = str(Path(testing.__file__).parents[2])
    return kept | changes


def python(
    script: str, *arguments: str, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs a script in a new process, started by the command `prefix` if there
    is one."""
    code = textwrap.dedent(script)
    return subprocess.run(
        [*prefix, sys.executable, "-c", code, *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
