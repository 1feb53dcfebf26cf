"""Prints the frames of an interface, one on each line, until Ctrl-C.

    sudo python examples/dump.py eth0 'arp or icmp'

Frames that this machine sends are marked with "out".
"""

import argparse
import time
from contextlib import suppress

from rawmmsg import PACKET_OUTGOING, PacketBatch, RawSocket


def describe(batch: PacketBatch, i: int) -> str:
    """Returns the line about one frame of the batch."""
    frame = batch[i]
    # The kernel needs a moment to begin with time stamps; until then: 0.
    when = batch.timestamps_ns[i] or time.time_ns()
    clock = time.strftime("%H:%M:%S", time.localtime(when // 10**9))
    outgoing = batch.packet_types[i] == PACKET_OUTGOING
    tagged = batch.vlan_tpids[i] != 0
    ethertype = int.from_bytes(frame[16:18] if tagged else frame[12:14])
    return (
        f"{clock}.{when // 1000 % 10**6:06} {'out' if outgoing else 'in':3}"
        f" {frame[6:12].hex(':')} > {frame[:6].hex(':')}"
        + (f" vlan {batch.vlan_tcis[i] & 0xFFF}" if tagged else "")
        + f" {ethertype:#06x} length {batch.wire_lengths[i]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Print frames.")
    parser.add_argument("interface")
    parser.add_argument("filter", nargs="?", help="such as 'udp port 53'")
    args = parser.parse_args()
    batch = PacketBatch()
    with RawSocket(
        args.interface,
        filter=args.filter,
        promisc=True,
        addresses=True,  # for packet_types
        timestamps="software",
    ) as sock:
        with suppress(KeyboardInterrupt):
            while True:
                sock.recvmmsg_into(batch)
                lines = (describe(batch, i) for i in range(len(batch)))
                print(*lines, sep="\n", flush=True)
        counts = sock.statistics()
    print(counts.packets_received, "frames received")
    print(counts.packets_dropped, "frames dropped by the kernel")


if __name__ == "__main__":
    main()
