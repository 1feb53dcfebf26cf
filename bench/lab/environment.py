"""The machine, and what there is on it that costs packets time."""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rawmmsg

from . import peers, stamping


def collect() -> dict[str, Any]:
    """What to know of the machine beside a figure measured on it."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": _is_virtual(),
        "clock source": _read(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        ),
        "mitigations": _mitigations(),
        "python": f"{platform.python_implementation()}"
        f" {platform.python_version()}",
        "rawmmsg": rawmmsg.__version__,
        "peers": peers.versions(),
        "stamped by others": stamping.is_on(),
    }


def lines(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The same in words."""
    for name, value in environment.items():
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, Mapping):
            value = "; ".join(f"{key}: {one}" for key, one in value.items())
        yield name, str(value)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


def _cpu_model() -> str:
    """The name that x86 gives its CPUs, or the numbers of another one."""
    facts: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    if "model name" in facts:
        return facts["model name"]
    numbers = [
        f"{name} {facts[name]}"
        for name in ("CPU implementer", "CPU part")
        if name in facts
    ]
    return ", ".join(numbers) or "unknown"


def _is_virtual() -> bool:
    flags = [
        line
        for line in _read("/proc/cpuinfo").splitlines()
        if line.startswith("flags")
    ]
    return any("hypervisor" in line.split() for line in flags)


def _mitigations() -> dict[str, str]:
    """What the kernel does about the CPU's flaws, some of it at every system
    call."""
    folder = Path("/sys/devices/system/cpu/vulnerabilities")
    found = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            words = _read(str(path))
            if words != "Not affected":
                found[path.name] = words
    return found
