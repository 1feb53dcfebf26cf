"""Joins ports as a switch, and drops, delays and damages some of the frames.

    sudo python examples/fault_injector.py --drop 50 --delay 20 --damage 100 \\
        interface:eth0,plain interface:eth1,plain

This drops every 50th frame. By --seed, one frame in 20 is late, and one in 100
has a wrong bit. Without `plain`, a super-frame counts as one frame.
"""

import argparse
import contextlib
import itertools
import random
from collections import defaultdict

from rawmmsg import SUPER_FRAME, PacketBatch
from rawmmsg.bridge import Switch


def main() -> None:
    parser = argparse.ArgumentParser(description="Inject faults.")
    for word in ("drop", "delay", "damage", "seed"):
        parser.add_argument(f"--{word}", type=int, default=0)
    parser.add_argument("ports", nargs="+")
    args = parser.parse_args()
    rng, numbers = random.Random(args.seed), itertools.count(1)
    late: defaultdict[str, PacketBatch] = defaultdict(
        lambda: PacketBatch(64, SUPER_FRAME)
    )

    def one_in(count: int) -> bool:
        return count > 0 and rng.randrange(count) == 0

    def on_frames(port: str, batch: PacketBatch) -> list[int]:
        taken = []
        for i, frame in enumerate(batch):
            if one_in(args.damage):  # not in its addresses
                frame[rng.randrange(12, len(frame))] ^= 1 << rng.randrange(8)
            if args.drop and next(numbers) % args.drop == 0:
                taken.append(i)
            elif one_in(args.delay) and len(late[port]) < 64:
                late[port].append(frame)
                taken.append(i)
        return taken

    def send_late() -> None:
        for port in switch.ports:
            switch.send(port, late[port])
            late[port].clear()

    with Switch(*args.ports, on_frames=on_frames, report=print) as switch:
        switch.every(0.1, send_late)  # those of the last 0.1 s
        with contextlib.suppress(KeyboardInterrupt):
            switch.run()
        for name, counts in switch.statistics().items():
            print(name, counts.received, "frames", counts.dropped)


if __name__ == "__main__":
    main()
