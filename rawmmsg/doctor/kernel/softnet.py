"""The queues of the CPUs between driver and protocols
(net/core/net-procfs.c:softnet_seq_show())."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Softnet", "read_softnet"]


@dataclass(frozen=True)
class Softnet:
    """Sums over all CPUs, since the machine was started."""

    processed: int
    dropped: int  # the queue was full (net.core.netdev_max_backlog)
    squeezed: int  # time was up, and packets had to wait


def read_softnet() -> Softnet:
    text = Path("/proc/thread-self/net/softnet_stat").read_text()
    rows = [
        [int(number, 16) for number in line.split()[:3]]
        for line in text.splitlines()
    ]
    return Softnet(*map(sum, zip(*rows, strict=True)))
