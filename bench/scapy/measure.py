"""Scapy with its own sockets and functions, and with those of rawmmsg.

sniff(). One thread reads 64-byte frames that are waiting, 256 at a time, each
with a new number. sniff(store=False) has a prn that counts. Scapy's dissection
takes nearly all of the time: "nothing to receive", where the frames come from
memory, shows the best that any socket could do. RawSniffer, which makes no
packets, is compared with a loop over Scapy's recv_raw(). strace(1) counts the
system calls. For the loss, another process on another CPU sends with
sendp_batch(pps=), at the rate at which Scapy's sniff() empties its queue.
Scapy's receive buffer holds about 90 frames by default; rawmmsg's holds about
10,000 if net.core.rmem_max allows it. One contender is Scapy with a buffer as
large.

sendp(). One CPU sends, and does the kernel's work at both ends, too. The far
side counts every frame, and compares one in each 1,024 to the byte, or all of
them. A list of 1,024 frames of 64 bytes is sent once and 100 times.
sendp_batch() opens its socket, lays out the frames, sends and returns; for
sendp() the socket is open already, and instead of 100 times it sends 5 times,
because its time for a frame does not depend on their number. Packet objects
are compared with the least that can be done: bytes(packet) for each, then
sendmmsg(2) in C, whose memory is filled while no clock runs. tcpreplay sends
the same frames by its own clock, from a file with its defaults, and with its
best options; sendp_batch() by SendResult.seconds.

pps=. A process on one CPU sends numbered frames with sendp_batch(pps=). The
other CPU receives each with the kernel's timestamp, which is made in the
sender's context, and checks that it is the next. The pace is calculated from
the timestamps of the first and the last frame. Frames that are due within
0.2 ms leave in one call, so from 10,000 frames a second on some gaps are
almost zero and others make up for them. Lists of any length are looped at any
pace; there the receiver counts, and the pace is sendp_batch()'s own figure.
"""

from collections.abc import Iterator

from ..lab import peers
from ..lab.result import Table
from ..lab.runner import Lab


def measure(lab: Lab) -> Iterator[Table]:
    peers.require("scapy")
    from . import pace, send, sniff

    yield from sniff.measure(lab)
    yield from send.measure(lab)
    yield from pace.measure(lab)
