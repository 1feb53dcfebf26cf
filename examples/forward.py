"""Forwards every frame between two interfaces, both ways, until Ctrl-C.

    sudo python examples/forward.py eth0 eth1

It ends at the first error. `rawmmsg bridge` does the same job, and survives
full queues and links that go down.
"""

import argparse
from contextlib import suppress
from select import select

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket


def open_port(interface: str) -> RawSocket:
    """Opens the socket that receives and sends on an interface."""
    return RawSocket(
        interface,
        promisc=True,  # frames for other hosts too
        ignore_outgoing=True,  # or each frame would go round in a loop
        vnet_hdr=True,  # keeps large TCP frames in one piece
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Forward frames both ways.")
    parser.add_argument("a", help="one interface")
    parser.add_argument("b", help="the other interface")
    args = parser.parse_args()
    batch = PacketBatch(64, SUPER_FRAME)
    with open_port(args.a) as a, open_port(args.b) as b:
        with suppress(KeyboardInterrupt):
            while True:
                readable, _, _ = select([a, b], [], [])
                for source in readable:
                    sink = b if source is a else a
                    source.recvmmsg_into(batch)
                    sink.sendmmsg_all(batch)
        for source, sink in ((a, b), (b, a)):
            frames = sink.statistics().packets_sent
            print(source.interface, "to", sink.interface, frames, "frames")


if __name__ == "__main__":
    main()
