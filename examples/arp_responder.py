"""Answers ARP requests for addresses that no host has (asyncio).

    sudo python examples/arp_responder.py eth0 192.0.2.7 192.0.2.8

The answers say that the addresses are at this interface. Ctrl-C ends it.
"""

import argparse
import asyncio
from contextlib import suppress
from ipaddress import IPv4Address

from rawmmsg import PacketBatch, RawSocket, aio, bpf

REPLY = b"\0\2"


def answer(frame: memoryview, hardware: bytes) -> None:
    """Makes the request in this memory the answer to it (RFC 826)."""
    sender, target = bytes(frame[22:32]), bytes(frame[38:42])
    frame[0:6] = sender[:6]
    frame[6:12] = hardware
    frame[20:22] = REPLY
    frame[22:32] = hardware + target
    frame[32:42] = sender


async def respond(interface: str, addresses: list[IPv4Address]) -> None:
    targets = " or ".join(["arp dst host {}"] * len(addresses))
    # Requests, of full length. A tag would move the fields of the frame.
    requests = f"arp[6:2] = 1 and ({targets}) and greater 42 and not vlan"
    with RawSocket(
        interface,
        filter=bpf.compile(requests, *addresses),
        ignore_outgoing=True,
    ) as sock:
        sock.setblocking(False)
        hardware = sock.getsockname()[4]
        async for batch in aio.batches(sock, PacketBatch()):
            for frame in batch:
                print(IPv4Address(bytes(frame[28:32])), "asks", flush=True)
                answer(frame, hardware)
            await aio.send(sock, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer ARP requests.")
    parser.add_argument("interface")
    parser.add_argument("addresses", type=IPv4Address, nargs="+")
    args = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(respond(args.interface, args.addresses))


if __name__ == "__main__":
    main()
