"""Loop cost: one thread sends a batch over a veth pair and receives it back.

One CPU does all the work, that of the kernel on either end included, so the
time is the whole cost of a packet: with a ring the copy is made while sending.

Each side sends with sendmmsg(), but for the socket module, which sends with
send(), and libpcap where it says inject. C has the same system calls on the
same sockets and memory as rawmmsg: "C" asks for auxdata, which rawmmsg needs
to put VLAN tags back; "C, bare" asks for nothing, as rawmmsg with vlan=False;
"stamps": the kernel stamps each packet (SO_TIMESTAMPNS) and it is read.

The rings have 8 MiB, as the sockets' queues have; "in cache" are rings of two
batches, which have no room for a burst, but stay in the CPU's cache. "copied":
to the caller's memory, where recvmmsg() puts them. TPACKET_V3 hands over
blocks of 16 KiB when they are full: a slice does not wait for its last one,
which is read outside of it. libpcap is in immediate mode, and what it sends
with does not listen.

Every slice has new numbers in its frames. All of them are counted, by the
kernel too, and those of the last batch compared to the byte. tx and rx are
timed in slices of their own, with the clock read between the halves of each
round, which costs 50 to 100 ns a round.
"""

from collections.abc import Iterator
from typing import Final

from ..framework import Context, Table
from ..network.link import Frames
from ..sides.slicer import Contender, table
from ..sides.ways import (
    AUXDATA,
    COPY,
    INJECT,
    LARGE,
    STAMPS,
    V3,
    in_c,
    limit,
    rawmmsg,
    stdlib,
)

# Bytes of a frame, and frames of a batch.
FULL: Final = [(size, 4**n) for size in (64, 1500) for n in range(6)]
QUICK: Final = [(64, 1), (64, 64), (64, 1024), (1500, 64)]
BRIEF: Final = [(64, 1), (1500, 64)]

# At least 0.97 of the limit's rate, in batches that are worth the name.
AT_MOST: Final = 1.031
PROMISED_FROM: Final = 64

EVERY_SIDE_AT: Final = 64


def measure(context: Context) -> Iterator[Table]:
    for size, batch in context.pick(FULL, QUICK, BRIEF):
        yield table(
            context,
            contenders(batch),
            Frames(batch, size),
            key=f"loop/{size}B/batch{batch}",
            title=f"{size:,}-byte frames, batches of {batch:,}",
            tell_stamps=True,
        )


def contenders(batch: int) -> list[Contender]:
    """The sides that are of interest for batches of this size."""
    sides = _always(AT_MOST if batch >= PROMISED_FROM else None)
    if batch >= PROMISED_FROM:
        sides += _promised()
    if batch == EVERY_SIDE_AT:
        sides += _others()
    return sides


def _always(at_most: float | None) -> list[Contender]:
    return [
        Contender("C", limit(AUXDATA)),
        Contender(
            "rawmmsg",
            rawmmsg(lambda link: link.rx, AUXDATA),
            "C",
            at_most=at_most,
        ),
        Contender("stdlib", stdlib(), "C"),
        _ring("TPACKET_V2", LARGE, "C"),
        _ring("TPACKET_V3", V3 | LARGE, "C"),
        Contender(
            "libpcap, inject",
            in_c("pcap_loop.c", "pcap", options=INJECT),
            "C",
        ),
    ]


def _promised() -> list[Contender]:
    return [
        _control("C", AUXDATA),
        Contender("C, bare", limit(), "C"),
        Contender(
            "rawmmsg, vlan=False",
            rawmmsg(lambda link: link.rx_bare),
            "C, bare",
            at_most=AT_MOST,
        ),
        Contender("C, stamps", limit(AUXDATA | STAMPS), "C"),
        Contender(
            "rawmmsg, stamps",
            rawmmsg(lambda link: link.rx_stamped, AUXDATA | STAMPS),
            "C, stamps",
            at_most=AT_MOST,
        ),
    ]


def _others() -> list[Contender]:
    return [
        _control("C, bare", 0),
        Contender("C, bare, stamps", limit(STAMPS), "C, bare"),
        Contender(
            "rawmmsg, from a list",
            rawmmsg(
                lambda link: link.rx,
                AUXDATA,
                packets=lambda frames: frames.packets,
            ),
            "C",
        ),
        Contender("stdlib, stamps", stdlib(STAMPS), "stdlib"),
        _ring("TPACKET_V2, copied", LARGE | COPY, "C, bare"),
        _ring("TPACKET_V3, copied", LARGE | COPY | V3, "C, bare"),
        _ring("TPACKET_V2, in cache", 0, "C"),
        _ring("TPACKET_V3, in cache", V3, "C"),
        _ring("TPACKET_V2, in cache, copied", COPY, "C, bare"),
        _ring("TPACKET_V3, in cache, copied", COPY | V3, "C, bare"),
        Contender("libpcap", in_c("pcap_loop.c", "pcap"), "C"),
    ]


def _ring(name: str, options: int, limit: str) -> Contender:
    return Contender(name, in_c("ring_loop.c", options=options), limit)


def _control(name: str, options: int) -> Contender:
    """The limit once more."""
    return Contender(
        f"{name}, control", limit(options), name, at_least=0.99, at_most=1.01
    )
