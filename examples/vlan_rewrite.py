"""Joins a VLAN of one interface to a VLAN of another, until Ctrl-C.

    sudo python examples/vlan_rewrite.py eth0 5 eth1 6

A frame of VLAN 5 that arrives on eth0 leaves eth1 in VLAN 6, and a frame of
VLAN 6 that arrives on eth1 leaves eth0 in VLAN 5. The priority stays.
"""

import argparse
from contextlib import suppress
from select import select

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket, bpf


def open_port(interface: str, vlan: int) -> RawSocket:
    """Opens a socket for the frames of one VLAN of an interface."""
    return RawSocket(
        interface,
        filter=bpf.compile("vlan {}", vlan),
        promisc=True,
        ignore_outgoing=True,
        vnet_hdr=True,
    )


def set_vlan(frame: memoryview, vlan: int) -> None:
    """Changes the number in the outer tag, which follows the addresses."""
    frame[14] = frame[14] & 0xF0 | vlan >> 8  # keeps the priority
    frame[15] = vlan & 0xFF


def main() -> None:
    parser = argparse.ArgumentParser(description="Join two VLANs.")
    for name in ("a", "b"):
        parser.add_argument(f"interface_{name}")
        parser.add_argument(f"vlan_{name}", type=int)
    args = parser.parse_args()
    batch = PacketBatch(64, SUPER_FRAME)
    with (
        open_port(args.interface_a, args.vlan_a) as a,
        open_port(args.interface_b, args.vlan_b) as b,
        suppress(KeyboardInterrupt),
    ):
        other = {a: (b, args.vlan_b), b: (a, args.vlan_a)}
        while True:
            readable, _, _ = select([a, b], [], [])
            for source in readable:
                sink, vlan = other[source]
                source.recvmmsg_into(batch)
                for frame in batch:  # in place: the batch is sent as it is
                    set_vlan(frame, vlan)
                sink.sendmmsg_all(batch)


if __name__ == "__main__":
    main()
