"""A forwarder in a process of its own, for the measurement of bulk TCP.

    python -m bench.forward.worker KIND A B

It forwards between the interfaces A and B until standard input ends, and then
prints how many frames it received from each port, sent on and dropped, as
JSON. "bare" is the least that a bridge in Python can do: the library's calls
in a loop.
"""

import contextlib
import ctypes
import json
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket

from ..lab.native import AUXDATA, VNET_HDR, Side

CAPACITY: Final = 8  # that of `rawmmsg bridge` for super-frames
SMALL_CAPACITY: Final = 64  # that of `rawmmsg bridge` for small frames
PLAIN_FRAME: Final = 2048


def calls(
    stack: contextlib.ExitStack,
    sockets: Sequence[RawSocket],
    options: int,
    capacity: int = SMALL_CAPACITY,
) -> Side:
    """calls.c between two sockets, with a batch of so many frames."""
    a, b = sockets
    return Side(
        stack,
        "forward/calls.c",
        tx=a.fileno(),
        rx=b.fileno(),
        options=options,
        batch=capacity,
        room=SUPER_FRAME if options & VNET_HDR else PLAIN_FRAME,
    )


def libpcap(stack: contextlib.ExitStack, ports: tuple[str, str]) -> Side:
    """pcap.c, which opens the interfaces itself."""
    return Side(stack, "forward/pcap.c", ports)


def open_ports(
    stack: contextlib.ExitStack, ports: tuple[str, str], options: int
) -> list[RawSocket]:
    """Sockets that forward what arrives at the ports, with AUXDATA and
    VNET_HDR as asked."""
    sockets = [
        stack.enter_context(
            RawSocket(
                name,
                promisc=True,
                ignore_outgoing=True,
                vlan=bool(options & AUXDATA),
                vnet_hdr=bool(options & VNET_HDR),
            )
        )
        for name in ports
    ]
    for sock in sockets:
        sock.setblocking(False)
    return sockets


def _in_c(side: Side) -> list[int]:
    side.call("run", 0)
    counts = (ctypes.c_uint64 * 6)()
    side.call("get_counts", counts)
    return list(counts)


def _forward(source: RawSocket, sink: RawSocket, batch: PacketBatch) -> None:
    count = source.recvmmsg_into(batch)
    sent = sink.sendmmsg(batch)
    while sent < count:
        sent += sink.sendmmsg(batch, sent)


def _bare(sockets: Sequence[RawSocket]) -> list[int]:
    a, b = sockets
    batch = PacketBatch(CAPACITY, SUPER_FRAME)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    directions = {a.fileno(): (a, b), b.fileno(): (b, a)}
    for descriptor in directions:
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if 0 in ready:
            break
        for descriptor in ready:
            _forward(*directions[descriptor], batch)
    received = [sock.statistics().packets_received for sock in sockets]
    sent = [sock.statistics().packets_sent for sock in (b, a)]
    return [received[0], sent[0], 0, received[1], sent[1], 0]


def _with_calls(options: int) -> Callable[..., list[int]]:
    def run(stack: contextlib.ExitStack, ports: tuple[str, str]) -> list[int]:
        sockets = open_ports(stack, ports, options)
        return _in_c(calls(stack, sockets, options, CAPACITY))

    return run


KINDS: Final[Mapping[str, Callable[..., list[int]]]] = {
    "C": _with_calls(VNET_HDR | AUXDATA),
    "C, bare": _with_calls(VNET_HDR),
    "C, plain frames": _with_calls(AUXDATA),
    "libpcap": lambda stack, ports: _in_c(libpcap(stack, ports)),
    "bare": lambda stack, ports: _bare(
        open_ports(stack, ports, VNET_HDR | AUXDATA)
    ),
}


def main(kind: str, a: str, b: str) -> None:
    with contextlib.ExitStack() as stack:
        print(json.dumps(KINDS[kind](stack, (a, b))))


if __name__ == "__main__":
    main(*sys.argv[1:])
