"""Sends numbered UDP datagrams, made by NumPy, as fast as the kernel allows.

    sudo python examples/generate.py eth1 192.0.2.1 --count 1000000

NumPy writes 1,024 frames at once into the memory from which they are sent.
"""

import argparse
import time
from ipaddress import IPv4Address

import numpy as np

from rawmmsg import PacketBatch, RawSocket

FRAME = np.dtype(
    [
        *(("dst", "u1", 6), ("src", "u1", 6), ("ethertype", ">u2")),
        *(("version", "u1"), ("tos", "u1"), ("length", ">u2")),
        *(("id", ">u2"), ("fragment", ">u2"), ("ttl", "u1")),
        *(("protocol", "u1"), ("checksum", ">u2"), ("src_ip", ">u4")),
        *(("dst_ip", ">u4"), ("sport", ">u2"), ("dport", ">u2")),
        *(("udp_length", ">u2"), ("udp_checksum", ">u2")),  # 0: none
        *(("number", ">u8"), ("padding", "u1", 10)),
    ]
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send UDP datagrams.")
    parser.add_argument("interface")
    parser.add_argument("address", type=IPv4Address, help="the destination")
    parser.add_argument("--count", type=int, default=1_000_000)
    args = parser.parse_args()
    frames = np.zeros(1024, FRAME)
    rows = frames.view("u1").reshape(1024, -1)  # the same memory, as bytes
    frames["dst"], frames["src"] = 0xFF, (2, 0, 0, 0, 0, 1)
    frames["ethertype"], frames["version"] = 0x0800, 0x45
    frames["length"], frames["udp_length"] = rows.shape[1] - 14, 26
    frames["ttl"], frames["protocol"] = 64, 17
    frames["src_ip"] = int(IPv4Address("192.0.2.254"))
    frames["dst_ip"], frames["dport"] = int(args.address), 9  # discard
    batch = PacketBatch(buffer=rows)
    with RawSocket(args.interface, protocol=0) as sock:
        start = time.perf_counter()
        for first in range(0, args.count, 1024):
            numbers = np.arange(first, first + 1024)
            frames["number"] = frames["id"] = numbers
            frames["sport"], frames["checksum"] = numbers | 0x8000, 0
            sums = rows[:, 14:34].view(">u2").sum(axis=1, dtype="u4")
            frames["checksum"] = ~(sums % 0xFFFF) & 0xFFFF
            batch.set_count(min(1024, args.count - first))
            sock.sendmmsg_all(batch)
        sent = sock.statistics().packets_sent
        seconds = time.perf_counter() - start
    print(f"{sent} frames in {seconds:.2f} s, {sent / seconds:,.0f} a second")


if __name__ == "__main__":
    main()
