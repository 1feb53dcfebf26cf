"""A virtual machine whose network card is DPDK's virtio-user driver, and the
switch that it is connected to.

    testpmd --- virtio-user --- socket --- switch --- interface
    (the machine)
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..lab import cpus
from . import recordings, testpmd
from .switches import Ends, Switch


@dataclass(frozen=True)
class Place:
    """Frames of `size` bytes move for some seconds. A host that sends them
    sends `burst` at once."""

    stack: ExitStack
    machines_cpu: int
    switchs_cpu: int
    size: int
    seconds: float
    burst: int = 1


class Machine:
    """The machine forwards between its network card, its port 0, and a file
    of frames, its port 1."""

    def __init__(
        self,
        place: Place,
        switch: Switch,
        interface: str,
        frames: Sequence[bytes] = (),
    ) -> None:
        """It sends `frames` again and again, or stores those that it receives
        in `self.file`."""
        keep = place.stack.enter_context
        folder = keep(tempfile.TemporaryDirectory(prefix="rawmmsg-bench-"))
        path, self.file = f"{folder}/socket", Path(folder) / "frames.pcap"
        recordings.write(self.file, frames)
        options = "rx_pcap={},infinite_rx=1" if frames else "tx_pcap={}"
        ports = (
            f"net_virtio_user0,path={path}",
            f"net_pcap0,{options.format(self.file)}",
        )
        ends = Ends(interface, path, folder, place.switchs_cpu)
        self._switch = keep(switch(ends))
        where = (place.machines_cpu, folder, "machine")
        self.testpmd = keep(testpmd.running(*where, ports))

    @contextlib.contextmanager
    def switching(self) -> Iterator[None]:
        """Lets the switch forward. Otherwise it sleeps."""
        self._switch.start()
        try:
            yield
        finally:
            self._switch.stop()

    def switchs_cpu_ns(self) -> int:
        return cpus.used_ns(self._switch.pid)
