"""Counts bytes by sender in a worker thread, without copying a frame.

    sudo python examples/worker_pool.py eth0

Batches go round between two threads, so that none is filled while it is read.
"""

import errno
import sys
from collections import Counter
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue

from rawmmsg import PacketBatch, RawSocket

Queue = SimpleQueue[PacketBatch | None]  # None: the other thread has ended


def receive(sock: RawSocket, free: Queue, filled: Queue) -> None:
    try:
        while (batch := free.get()) is not None:
            sock.recvmmsg_into(batch)
            filled.put(batch)
    except OSError as error:
        if error.errno != errno.EBADF:  # not because of close()
            raise
    finally:
        filled.put(None)


def work(free: Queue, filled: Queue) -> None:
    senders = Counter[str]()
    try:
        while (batch := filled.get()) is not None:
            for i, frame in enumerate(batch):
                senders[frame[6:12].hex(":")] += batch.wire_lengths[i]
            free.put(batch)
    finally:
        free.put(None)
    for sender, size in senders.most_common():
        print(sender, size, "bytes")


def main(interface: str) -> None:
    free, filled = Queue(), Queue()
    for _ in range(8):
        free.put(PacketBatch())
    with ThreadPoolExecutor() as pool, RawSocket(interface) as sock:
        tasks = [pool.submit(receive, sock, free, filled)]
        tasks += [pool.submit(work, free, filled)]
        with suppress(KeyboardInterrupt):
            print("counting until Ctrl-C, which closes the socket", flush=True)
            wait(tasks, return_when=FIRST_EXCEPTION)
    for task in tasks:
        task.result()  # raises what went wrong there


if __name__ == "__main__":
    main(sys.argv[1])
