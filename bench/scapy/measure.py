"""Scapy with its own sockets and functions, and with those of rawmmsg.

sniff(). One thread reads 64-byte frames that are waiting, 256 at a time, each
with a new number. sniff(store=False) has a prn that counts. Scapy's dissection
takes nearly all of the time; "nothing to receive", frames that are in memory,
is the limit for any socket. RawSniffer, which makes no packets, is compared
with a loop over Scapy's recv_raw(). strace(1) counts the system calls. For the
loss, a process on another CPU sends with sendp_batch(pps=) at the rate of
Scapy's sniff(). Scapy's receive buffer holds about 90 frames by default, and
rawmmsg's about 10,000 if net.core.rmem_max allows it; one contender is Scapy
with a buffer as large.

sendp(). One CPU sends, and does the kernel's work at both ends. The far side
counts every frame, and compares one in each 1,024, or all, to the byte. A list
of 1,024 frames of 64 bytes is sent once and 100 times (sendp(): 5 times, since
its time for a frame does not depend on their number). sendp_batch() opens its
socket, lays out the frames, sends and returns; the socket of sendp() is open
already. Packet objects are compared with the least that can be done:
bytes(packet) for each, then sendmmsg(2) in C, whose memory is filled while no
clock runs. tcpreplay sends the same frames by its own clock, with its defaults
and with its best options; sendp_batch() by SendResult.seconds.

pps=. A process on one CPU sends numbered frames with sendp_batch(pps=). The
other CPU checks that each is the next, and calculates the pace from the
kernel's timestamps of the first and the last, which are made in the sender's
context. Frames that are due within 0.2 ms leave in one call, so from 10,000
frames a second on some gaps are almost zero and others make up for them. Lists
of any length are looped; there the receiver counts, and the pace is
sendp_batch()'s own figure.
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
