"""Counts bytes by sender in a worker thread, without copying a frame.

    sudo python examples/worker_pool.py eth0

Ctrl-C ends it as soon as all frames that came before are counted.
"""

import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event

from rawmmsg import PacketBatch, RawSocket

Queue = SimpleQueue[PacketBatch | None]  # None: the other thread has ended


def receive(sock: RawSocket, end: Event, free: Queue, filled: Queue) -> None:
    while (batch := PacketBatch() if end.is_set() else free.get()) is not None:
        ending = end.is_set()
        try:
            sock.recvmmsg_into(batch)
        except TimeoutError:
            batch.clear()
        filled.put(batch)
        if ending and len(batch) < batch.capacity:
            break  # nothing waits in the kernel any more


def work(free: Queue, filled: Queue) -> Counter[str]:
    senders = Counter[str]()
    while (batch := filled.get()) is not None:
        for i, frame in enumerate(batch):
            senders[frame[6:12].hex(":")] += batch.wire_lengths[i]
        free.put(batch)
    return senders


def main(interface: str) -> None:
    end, free, filled = Event(), Queue(), Queue()
    for _ in range(8):  # they go round, so none is filled while it is read
        free.put(PacketBatch())
    signal.signal(signal.SIGINT, lambda *_: end.set())
    with ThreadPoolExecutor() as pool, RawSocket(interface) as sock:
        sock.settimeout(0.2)  # so that receive() sees `end`
        counting = pool.submit(work, free, filled)
        counting.add_done_callback(lambda _: free.put(None))
        print("counting until Ctrl-C", flush=True)
        try:
            receive(sock, end, free, filled)
        finally:
            filled.put(None)
        for sender, size in counting.result().most_common():
            print(sender, size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
