"""Sends UDP datagrams from several ports in turn, merged into super-frames.

    sudo python examples/merge.py eth1 192.0.2.1 --count 1000000

NumPy writes the datagrams. C computes their checksums, and merges those of the
same port. The receiver gets each datagram. It needs Linux 6.2 or later.
"""

import argparse
import time
from ipaddress import IPv4Address

import numpy as np

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket

HEADERS = bytes.fromhex(
    "ffffffffffff 020000000001 0800"  # Ethernet: to everybody, IPv4
    "4500 0032 0000 0000 4011 0000 c00002fe 00000000"  # 50 bytes, UDP
    "0000 0009 001e 0000"  # UDP: to port 9 (discard), 30 bytes
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send merged datagrams.")
    parser.add_argument("interface")
    parser.add_argument("address", type=IPv4Address, help="the destination")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--ports", type=int, default=16, help="up to 256")
    args = parser.parse_args()
    rows = np.zeros((1024, 64), "u1")
    rows[:, : len(HEADERS)] = np.frombuffer(HEADERS, "u1")
    rows[:, 30:34] = list(args.address.packed)
    ids, ports = rows[:, 18:20].view(">u2"), rows[:, 34:36].view(">u2")
    numbers = rows[:, 42:50].view(">u8")  # the payload
    batch, merged = PacketBatch(buffer=rows), PacketBatch(256, SUPER_FRAME)
    with RawSocket(args.interface, protocol=0, vnet_hdr=True) as sock:
        start = time.perf_counter()
        for first in range(0, args.count, 1024):
            numbers[:, 0] = np.arange(first, first + 1024)
            # The ids of a port count up: otherwise its datagrams stay apart.
            ids[:], port = np.divmod(numbers, args.ports)
            ports[:] = 32768 + port
            batch.set_count(min(1024, args.count - first))
            batch.compute_checksums()
            done = 0
            while done < len(batch):
                done = batch.merge_into(merged, done, flows=args.ports)
                sock.sendmmsg_all(merged)
        sent = sock.statistics().packets_sent
        seconds = time.perf_counter() - start
    rate = f"{args.count / seconds:,.0f} a second"
    print(args.count, "datagrams in", sent, "frames,", rate)


if __name__ == "__main__":
    main()
