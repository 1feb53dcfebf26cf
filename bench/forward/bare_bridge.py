"""The least that a bridge in Python does: the library's calls in a loop.

    python -m bench.sides.bare_bridge A B

It counts, and does nothing else of what `rawmmsg bridge` does: the difference
between the two is the tool's, that between this and C the library's. Ends when
standard input does, and prints what it has counted as JSON.
"""

import json
import select
import sys
from typing import Final

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket

CAPACITY: Final = 8


def open_port(name: str) -> RawSocket:
    sock = RawSocket(name, promisc=True, ignore_outgoing=True, vnet_hdr=True)
    sock.setblocking(False)
    return sock


def forward(source: RawSocket, sink: RawSocket, batch: PacketBatch) -> None:
    """Moves what waits, a batch of it."""
    count = source.recvmmsg_into(batch)
    sent = sink.sendmmsg(batch)
    while sent < count:
        sent += sink.sendmmsg(batch, sent)


def forward_all(a: RawSocket, b: RawSocket) -> None:
    """Until standard input ends."""
    batch = PacketBatch(CAPACITY, SUPER_FRAME)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    ends = {a.fileno(): (a, b), b.fileno(): (b, a)}
    for descriptor in ends:
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if 0 in ready:
            return
        for descriptor in ready:
            forward(*ends[descriptor], batch)


def main() -> None:
    with open_port(sys.argv[1]) as a, open_port(sys.argv[2]) as b:
        forward_all(a, b)
        counts: dict[str, int] = {}
        for name, source, sink in (("a", a, b), ("b", b, a)):
            counts[f"{name} received"] = source.statistics().packets_received
            counts[f"{name} sent"] = sink.statistics().packets_sent
            counts[f"{name} dropped"] = 0
        print(json.dumps(counts))


if __name__ == "__main__":
    main()
