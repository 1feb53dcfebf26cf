"""Shares the frames of an interface among threads, until Ctrl-C.

    sudo python examples/fanout.py eth0 --threads 4 --mode hash

Each thread has a socket of one fanout group, and a batch of its own. With a
free-threaded Python the threads work on all CPUs at once; with the GIL they
wait for each other, except in system calls.
"""

import argparse
import errno
import sysconfig
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress

from rawmmsg import PacketBatch, RawSocket, open_fanout_group


def count(sock: RawSocket) -> tuple[int, int]:
    """Returns how many frames and bytes came until the socket was closed."""
    batch = PacketBatch(256)
    frames = size = 0
    try:
        while True:
            received = sock.recvmmsg_into(batch)
            frames += received
            size += sum(batch.wire_lengths[:received])
    except OSError as error:
        if error.errno != errno.EBADF:  # not because of close()
            raise
    return frames, size


def main() -> None:
    parser = argparse.ArgumentParser(description="Share frames.")
    parser.add_argument("interface")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mode", default="hash", help="hash, lb, cpu ...")
    args = parser.parse_args()
    sockets = open_fanout_group(args.threads, args.interface, args.mode)
    with ThreadPoolExecutor(args.threads) as pool:
        counts = [pool.submit(count, sock) for sock in sockets]
        with suppress(KeyboardInterrupt):
            gil = not sysconfig.get_config_var("Py_GIL_DISABLED")
            print("counting", "with" if gil else "without", "GIL", flush=True)
            wait(counts, return_when=FIRST_EXCEPTION)
        dropped = sum(s.statistics().packets_dropped or 0 for s in sockets)
        for sock in sockets:
            sock.close()
    for number, each in enumerate(counts):
        frames, size = each.result()
        print(f"thread {number}: {frames} frames, {size} bytes")
    print(dropped, "frames dropped by the kernel")


if __name__ == "__main__":
    main()
