"""The machine: facts that a reader of the figures needs."""

import contextlib
import os
import platform
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import rawmmsg


def collect() -> dict[str, Any]:
    """The facts, by name."""
    with StampProbe() as probe:
        others_stamp = probe.is_on()
    clocks = Path("/sys/devices/system/clocksource/clocksource0")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _printed("git", "describe", "--always", "--dirty=+"),
        "rawmmsg": rawmmsg.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        **_cpu(),
        "CPUs used": len(os.sched_getaffinity(0)),
        "load before": os.getloadavg()[0],
        "clock source": (clocks / "current_clocksource").read_text().strip(),
        "another process asks for timestamps": others_stamp,
    }


def _printed(*command: str) -> str:
    """What a command prints; "unknown" if it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            env=os.environ | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _cpu() -> dict[str, str]:
    """The CPU, and the flaws of it that the kernel works around, which costs
    time at every system call; from lscpu(1)."""
    lines = [line.partition(":") for line in _printed("lscpu").splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in lines}
    names = ("Model name", "Architecture", "Hypervisor vendor")
    mitigations = "; ".join(
        f"{name.removeprefix('Vulnerability ')}: {value}"
        for name, value in facts.items()
        if name.startswith("Vulnerability") and value != "Not affected"
    )
    found = {name: facts.get(name, "unknown") for name in names}
    return found | {"mitigations": mitigations}


# ---- Timestamps ------------------------------------------------------------

# <asm-generic/socket.h>, <linux/net_tstamp.h>
_SO_TIMESTAMPING: Final = 37
_SOF_TIMESTAMPING_SOFTWARE: Final = 1 << 4

_PATIENCE: Final = 1.0  # seconds for a datagram over loopback
_SPACE: Final = socket.CMSG_SPACE(3 * struct.calcsize("ll"))


class StampProbe(contextlib.ExitStack):
    """Tells whether the kernel timestamps packets now. A context manager.

    Any socket on the machine can make the kernel timestamp all packets. A
    socket with SO_TIMESTAMPING and no flag except SOF_TIMESTAMPING_SOFTWARE
    asks for timestamps to be reported but not to be made, so it gets one only
    if another socket asked for it (Documentation/networking/timestamping.rst).
    """

    def __init__(self) -> None:
        super().__init__()
        self._receiver, self._sender = (
            self.enter_context(
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            )
            for _ in range(2)
        )
        self._receiver.bind(("127.0.0.1", 0))
        self._receiver.settimeout(_PATIENCE)
        self._receiver.setsockopt(
            socket.SOL_SOCKET, _SO_TIMESTAMPING, _SOF_TIMESTAMPING_SOFTWARE
        )

    def is_on(self) -> bool:
        """Whether a packet that arrives now gets a timestamp."""
        self._sender.sendto(b"?", self._receiver.getsockname())
        _, control, _, _ = self._receiver.recvmsg(1, _SPACE)
        return bool(control)

    def wait_for(self, on: bool, seconds: float) -> bool:
        """Waits until is_on() is `on`, for at most `seconds`: another process
        may keep timestamps on. Returns whether it is."""
        deadline = time.monotonic() + seconds
        while self.is_on() != on:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True
