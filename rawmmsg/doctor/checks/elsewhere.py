"""Where is an interface that this namespace does not have?"""

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ..._rawmmsg import RawSocket
from ..finding import Finding, Value, note, problem
from ..kernel.links import link_names
from ..kernel.processes import pids, process_name
from ..quoting import in_python, in_shell

__all__ = ["check"]

NAME: Final = "interface"
_NAMED: Final = Path("/run/netns")  # of ip-netns(8)
_MOST: Final = 3  # places that a message lists


def check(interface: str) -> Iterator[Finding]:
    """Looks into the namespaces of `ip netns` and of other processes."""
    here = sorted(link_names().values())
    inside, closed = _named_namespaces(interface)
    values: dict[str, Value] = {
        "interface": interface,
        "here": [*here],
        "namespaces": [*inside],
    }
    if inside:
        name = inside[0]
        yield problem(
            NAME,
            f"{interface} is not in this network namespace, but in"
            f" {_listed(inside)}",
            f"RawSocket({in_python(interface)}, netns={in_python(name)}), or:"
            f" ip netns exec {in_shell(name)} COMMAND",
            **values,
        )
    else:
        yield _in_process(interface, here, values)
    if closed:
        yield note(
            NAME,
            f"could not look into the network namespaces {_listed(closed)}:"
            " this needs CAP_SYS_ADMIN and CAP_NET_RAW",
            "run as root",
            namespaces=[*closed],
        )


def _in_process(
    interface: str, here: list[str], values: dict[str, Value]
) -> Finding:
    found = list(_processes_with(interface))
    values["pids"] = [*found]
    if found:
        path = f"/proc/{found[0]}/ns/net"
        named = _listed(f"{process_name(pid)} (pid {pid})" for pid in found)
        return problem(
            NAME,
            f"{interface} is not in this network namespace, but in that of"
            f" {named}",
            f'RawSocket({in_python(interface)}, netns="{path}"), or: nsenter'
            f" --net={path} COMMAND",
            **values,
        )
    similar = difflib.get_close_matches(interface, here, 1)
    return problem(
        NAME,
        f"there is no interface {interface} in this network namespace, which"
        f" has {', '.join(here)}",
        f"rawmmsg doctor {in_shell(similar[0])}"
        if similar
        else "ip link show",
        **values,
    )


def _named_namespaces(interface: str) -> tuple[list[str], list[str]]:
    """Returns the names of those that have the interface, and of those that
    this process may not enter."""
    inside, closed = [], []
    try:
        names = sorted(os.listdir(_NAMED))
    except OSError:  # nobody has made one
        names = []
    for name in names:
        try:
            # It receives nothing, and is closed at once.
            RawSocket(
                interface, protocol=0, netns=_NAMED / name, allow_down=True
            ).close()
            inside.append(name)
        except PermissionError:
            closed.append(name)
        except (OSError, ValueError):
            continue  # it is not there, or can be nowhere
    return inside, closed


def _processes_with(interface: str) -> Iterator[int]:
    """The first process of each other namespace that has the interface."""
    seen: set[object] = set()
    for pid in pids():
        try:
            # Everybody may read it.
            table = Path(f"/proc/{pid}/net/dev").read_bytes()
        except OSError:
            continue
        names = [
            line.partition(b":")[0].strip() for line in table.splitlines()[2:]
        ]
        if os.fsencode(interface) not in names:
            continue
        place = _namespace_of(pid) or tuple(names)
        if place not in seen:
            seen.add(place)
            yield pid


def _namespace_of(pid: int) -> int | None:
    """Returns its number, or None without the right to know (ptrace(2))."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
