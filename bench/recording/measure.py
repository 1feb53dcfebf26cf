"""The highest rate at which every frame is recorded.

The recorder has one CPU for itself; on the other, a program in C sends
numbered frames at a steady rate, 64 at once. The rates are 0.1, 0.2, 0.3 ...
million frames a second, the same for all contenders, and the figure is the
highest one at which every frame is in the file, or that the sender can keep:
if all contenders have the same figure, it is the sender's. The file is in
memory, so that no disk decides. Each contender runs with its default buffer,
and with one of 64 MiB: that is the default of rawmmsg record.

Recorders with a packet ring let the sender do a part of their work. So the
table also has the CPU times of both, for one frame at 100,000 frames a second.
Both run before other processes (SCHED_FIFO), if the user may choose that.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

from ..lab.contender import Contender, UnavailableError, control
from ..lab.result import Table
from ..lab.runner import Calibrate, Lab, Pace
from .sides import Place, dumpcap, place, prepared, rawmmsg, tcpdump

_RAWMMSG: Final[Contender[Place]] = Contender("rawmmsg", prepared(rawmmsg))

CONTENDERS: Final = (
    _RAWMMSG,
    control(_RAWMMSG, None),
    *(
        Contender(name, prepared(make, *options), _RAWMMSG.name, at_most=1.0)
        for name, make, options in (
            ("tcpdump", tcpdump, ()),
            ("tcpdump, 64 MiB", tcpdump, ("-B", "65536")),
            ("dumpcap", dumpcap, ()),
            ("dumpcap, 64 MiB", dumpcap, ("-B", "64")),
        )
    ),
)


def measure(lab: Lab) -> Iterator[Table]:
    if lab.senders_cpu == lab.receivers_cpu:
        what, remedy = "a second CPU", "run on a machine that has one"
        raise UnavailableError(what, remedy)
    pace = lab.pick(Pace(5, 2.0), Pace(3, 0.5), Pace(1, 0.02))
    for size in lab.sizes(lab.pick((64, 1500), (64, 1500), (64,))):
        with contextlib.ExitStack() as stack:
            where = place(
                stack,
                senders_cpu=lab.senders_cpu,
                recorders_cpu=lab.receivers_cpu,
                size=size,
                seconds=pace.seconds,
                rates=lab.pick(12, 12, 1),
            )
            yield lab.table(
                f"recording/{size}B",
                f"Recording {size:,}-byte frames",
                *("Mpps", CONTENDERS, where, pace),
                calibrate=Calibrate.ONCE,
            )
