"""How fast two virtual machines exchange data through one bridge.

One sends TCP to the other. Both have a virtio network card in QEMU, which
emulates their processors, so the figures are low; the guests do most of the
work, and it is the same on both sides except for what the card offers.

With "unix", QEMU and the bridge exchange datagrams, one for each frame of at
most 1,514 bytes, with complete checksums; up to 512 of them may wait
(net.unix.max_dgram_qlen). With "vhost-user" the bridge copies frames from one
guest's memory to the other's, super-frames too. The receiver checks the number
of each block of 64 KiB, and one block of 16 to the byte. At the end the bridge
must account for every frame. All guests run from the beginning to the end, and
wait for their turn. "bridge" is the CPU time of the bridge.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..forward.guest import lengthen_queues
from ..lab.contender import Contender, control
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab, Pace
from .machines import by_datagrams, by_memory, place

UNIX: Final = Contender("unix", by_datagrams)
COMPARED: Final = (
    UNIX,
    Contender("vhost-user", by_memory, UNIX.name, at_least=2.0),
)
CONTENDERS: Final = (*COMPARED, control(UNIX, None))


def measure(lab: Lab) -> Iterator[Table]:
    lengthen_queues()
    pace = lab.pick(Pace(15, 1.0), Pace(15, 0.3), Pace(1, 0.02))
    # Each has two guests to boot.
    contenders = lab.pick(CONTENDERS, CONTENDERS, COMPARED)
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="rawmmsg-bench-")
        where = place(stack, Path(stack.enter_context(folder)))
        yield lab.table(
            "guests/tcp",
            "TCP between two virtual machines, all CPUs",
            *("Gbit/s", contenders, where, pace),
            calibrate=Calibrate.EACH,
        )
