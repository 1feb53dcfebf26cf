"""Other processes, as far as /proc shows them."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Process",
    "describe",
    "descriptors_of",
    "owners",
    "pids",
    "process_name",
    "values_of",
]


@dataclass(frozen=True)
class Process:
    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}, pid {self.pid}"


def pids() -> list[int]:
    """Returns the process ids, lowest first."""
    return sorted(
        int(name) for name in os.listdir("/proc") if name.isdecimal()
    )


def process_name(pid: int) -> str:
    """Returns the name of a process, "?" if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def descriptors_of(pid: int) -> Iterator[tuple[int, int]]:
    """The descriptor and the inode of each socket of a process. None, if it
    has ended or this process may not look."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        match = re.fullmatch(r"socket:\[(\d+)\]", target)
        if match:
            yield int(name), int(match[1])


def owners(inodes: set[int]) -> dict[int, Process]:
    """Returns a process of each of these sockets. Sockets of processes that
    this process may not look at are missing."""
    found: dict[int, Process] = {}
    for pid in pids():
        if len(found) == len(inodes):
            break
        for _, inode in descriptors_of(pid):
            if inode in inodes:
                found.setdefault(inode, Process(pid, process_name(pid)))
    return found


def describe(inode: int, processes: Mapping[int, Process]) -> str:
    """Returns "tcpdump, pid 812", or the inode if the process is unknown."""
    return str(processes.get(inode, f"inode {inode}"))


def values_of(process: Process | None) -> dict[str, str | int | None]:
    """What a finding says of a process in JSON."""
    if process is None:
        return {"pid": None, "process": None}
    return {"pid": process.pid, "process": process.name}
