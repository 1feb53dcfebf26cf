"""iperf3 over TCP between two hosts."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..framework import GroundTruthError
from ..tools import native, peers
from .hosts import Host

PATIENCE: Final = 60.0  # seconds


@dataclass(frozen=True)
class Transfer:
    """What iperf3 has measured, of both directions together."""

    gigabits: float  # a second, received
    retransmits: int


def transfer(
    client: Host, server: Host, *, amount: Sequence[str], two_way: bool
) -> Transfer:
    """Sends TCP from `client` to `server`, and back too where `two_way`.

    `amount` is iperf3's option for how long ("-t", seconds) or how much ("-n",
    bytes). Raises GroundTruthError where iperf3 fails, as it does when the
    hosts do not reach each other.
    """
    iperf3 = peers.program("iperf3")
    command = [iperf3, "--client", server.address, "--json", *amount]
    if two_way:
        command.append("--bidir")
    # It ends after one client.
    listener = native.start(
        server.argv([iperf3, "--server", "--one-off", "--forceflush"])
    )
    try:
        _wait_until_listening(listener)
        done = subprocess.run(
            client.argv(command),
            env=native.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise GroundTruthError(f"iperf3: {error}") from None
    finally:
        listener.kill()
        listener.communicate()
    if not done.stdout:
        raise GroundTruthError(f"iperf3: {done.stderr}")
    return _read(json.loads(done.stdout))


def _wait_until_listening(listener: "subprocess.Popen[str]") -> None:
    assert listener.stdout is not None
    for line in listener.stdout:
        if line.startswith("Server listening"):
            return
    raise GroundTruthError("iperf3 does not listen")


def _read(report: dict[str, Any]) -> Transfer:
    if "error" in report:
        raise GroundTruthError(f"iperf3: {report['error']}")
    end = report["end"]
    received = [key for key in end if key.startswith("sum_received")]
    sent = [key for key in end if key.startswith("sum_sent")]
    return Transfer(
        sum(end[key]["bits_per_second"] for key in received) / 1e9,
        sum(end[key]["retransmits"] for key in sent),
    )
