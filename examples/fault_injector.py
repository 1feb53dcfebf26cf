"""Joins ports as a switch, and drops, delays and damages some of the frames.

    sudo python examples/fault_injector.py --drop 2 --delay 5 --damage 1 \\
        interface:eth0,plain interface:eth1,plain

The numbers are percentages. With the same --seed, the same frames of the same
traffic are chosen. Without `plain`, a super-frame counts as one frame.
"""

import argparse
import random
from collections import defaultdict

from rawmmsg import SUPER_FRAME, PacketBatch
from rawmmsg.bridge import Switch


def main() -> None:
    parser = argparse.ArgumentParser(description="Inject faults.")
    for fault in ("drop", "delay", "damage"):
        parser.add_argument(f"--{fault}", type=float, default=0)
    parser.add_argument("--milliseconds", type=float, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("ports", nargs="+")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    late: defaultdict[str, PacketBatch] = defaultdict(
        lambda: PacketBatch(64, SUPER_FRAME)
    )

    def on_frames(port: str, batch: PacketBatch) -> list[int]:
        taken = []
        for i, frame in enumerate(batch):
            if rng.random() * 100 < args.damage:
                frame[rng.randrange(14, len(frame))] ^= 1 << rng.randrange(8)
            if rng.random() * 100 < args.drop:
                taken.append(i)
            elif rng.random() * 100 < args.delay and len(late[port]) < 64:
                late[port].append(frame)
                taken.append(i)
        return taken

    def send_late() -> None:
        for port, batch in late.items():
            switch.send(port, batch)
            batch.clear()

    with Switch(*args.ports, on_frames=on_frames, report=print) as switch:
        switch.every(args.milliseconds / 1000, send_late)
        try:
            switch.run()
        except KeyboardInterrupt:
            for name, counts in switch.statistics().items():
                print(name, counts.received, "frames", counts.dropped)


if __name__ == "__main__":
    main()
