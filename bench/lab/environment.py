"""The machine: facts that a reader of the figures needs."""

import contextlib
import os
import platform
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any, Final, Self

import rawmmsg


def collect() -> dict[str, Any]:
    """The facts, by name."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _commit(),
        "rawmmsg": rawmmsg.__version__,
        "python": f"{platform.python_implementation()}"
        f" {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": f"{_cpu_model()}, {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)),
        "load before": os.getloadavg()[0],
        "virtual machine": _is_virtual(),
        "clock source": _read(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        ),
        "mitigations": _mitigations(),
        "timestamps requested by another process": _others_stamp(),
    }


def _commit() -> str:
    """The commit that is checked out, with a plus if files have changed
    since; "unknown" outside of a repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


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


def _mitigations() -> str:
    """How the kernel works around flaws of the CPU, which costs time at every
    system call."""
    folder = Path("/sys/devices/system/cpu/vulnerabilities")
    found = []
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            words = _read(str(path))
            if words != "Not affected":
                found.append(f"{path.name}: {words}")
    return "; ".join(found)


# ---- Timestamps ------------------------------------------------------------

# <asm-generic/socket.h>, <linux/net_tstamp.h>
_SO_TIMESTAMPING: Final = 37
_SOF_TIMESTAMPING_SOFTWARE: Final = 1 << 4

_PATIENCE: Final = 1.0  # seconds for a datagram over loopback
_SPACE: Final = socket.CMSG_SPACE(3 * struct.calcsize("ll"))


class StampProbe:
    """Tells whether the kernel timestamps packets now. A context manager.

    Any socket on the machine can make the kernel timestamp all packets. A
    socket with SO_TIMESTAMPING and no flag except SOF_TIMESTAMPING_SOFTWARE
    asks for timestamps to be reported but not to be made, so it gets one only
    if another socket asked for it (Documentation/networking/timestamping.rst).
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self._receiver, self._sender = (
                stack.enter_context(
                    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                )
                for _ in range(2)
            )
            self._receiver.bind(("127.0.0.1", 0))
            self._receiver.settimeout(_PATIENCE)
            self._receiver.setsockopt(
                socket.SOL_SOCKET, _SO_TIMESTAMPING, _SOF_TIMESTAMPING_SOFTWARE
            )
            self._stack = stack.pop_all()

    def is_on(self) -> bool:
        """Whether a packet that arrives now gets a timestamp."""
        self._sender.sendto(b"?", self._receiver.getsockname())
        _, control, _, _ = self._receiver.recvmsg(1, _SPACE)
        return bool(control)

    def wait_for(self, on: bool, seconds: float) -> bool:
        """Waits until is_on() is `on`, for at most so many seconds: another
        process may keep timestamps on. Returns whether it is."""
        deadline = time.monotonic() + seconds
        while self.is_on() != on:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _others_stamp() -> bool:
    with StampProbe() as probe:
        return probe.is_on()
