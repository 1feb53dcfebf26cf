"""The gain of offload headers, in bytes per second.

One thread sends a batch over a veth pair and receives it back, on one CPU. The
frames are TCP segments: "super-frames" of 65,000 bytes, which are left to be
segmented by whoever puts them on a wire; of 1,514 bytes with a checksum still
to be computed; and of 1,514 bytes without offload headers. The headers are
checked, too. A batch of 64 super-frames has 4 MB, and so leaves most
second-level caches between the sending and the receiving call, in C too.
"""

from collections.abc import Iterator
from typing import Final

from ..lab import cpus
from ..lab.contender import Comparison, Contender, control
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab
from .frames import OFFLOAD, PLAIN, SUPER
from .sides import CLoop, Place, PythonLoop, prepared

# C first, then rawmmsg, for each kind of frame.
CONTENDERS: Final = tuple(
    contender
    for kind in (SUPER, OFFLOAD, PLAIN)
    for contender in (
        Contender(f"C, {kind.name}", prepared(CLoop, kind)),
        Contender(
            f"rawmmsg, {kind.name}",
            prepared(PythonLoop, kind),
            f"C, {kind.name}",
        ),
    )
)

# The rate with super-frames, as a multiple of the others.
COMPARISONS: Final = tuple(
    Comparison(
        f"{name}, {SUPER.name}", f"{name}, {kind.name}", at_least=at_least
    )
    for kind, at_least in ((OFFLOAD, 11.0), (PLAIN, 7.0))
    for name in ("C", "rawmmsg")
)


def measure(lab: Lab) -> Iterator[Table]:
    contenders = [*CONTENDERS, control(CONTENDERS[0], None)]
    for batch in lab.pick((1, 8, 64), (8,), (1, 8)):
        with cpus.pinned(lab.receivers_cpu), Place(batch) as place:
            yield lab.table(
                f"superframes/batch{batch}",
                f"Sending and receiving on one CPU, batches of {batch}",
                *("Gbit/s", contenders, place, lab.slices),
                calibrate=Calibrate.EACH,
                comparisons=COMPARISONS,
            )
