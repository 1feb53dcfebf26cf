"""Scapy's sniff(), with its sockets and with ours.

One thread reads frames of 64 bytes that are waiting, 256 at a time, each
numbered anew. sniff(store=False) has a prn that counts; nearly all of its time
is Scapy's dissection, and "nothing to receive", frames that are in memory, is
what no socket can beat. RawSniffer, which makes no packets, is compared with a
loop over Scapy's recv_raw(). strace(1) counts the system calls.

Loss: another process, on another CPU, sends with sendp_batch(pps=), at the
pace at which Scapy's sniff() empties its queue. Scapy's receive buffer, unless
a user changes it, holds some 90 frames, and ours some 10,000, where
net.core.rmem_max allows; one side has Scapy's as large as that, too.
"""

from collections.abc import Iterator

from ..framework import Context, Table
from ..tools import peers


def measure(context: Context) -> Iterator[Table]:
    peers.module("scapy")
    from ..sides import scapy_sniff_tables as tables

    return tables.measure(context)
