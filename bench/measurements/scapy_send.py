"""Scapy's sendp(), and sendp_batch() in its place.

One CPU sends, and does the kernel's part on either end as well. The far side
counts every frame and compares those of each turn, or one in each 1,024, to
the byte.

- A list of 1,024 frames of 64 bytes, sent once, and 100 times. Each turn of
  sendp_batch() opens its socket, lays the frames out, sends and returns; for
  sendp() the socket is open already. Its time for a frame does not depend on
  how many there are: in place of 100 times it sends them 5 times.
- Packet objects: sendp_batch() of 1,024 of them against the least that can be
  done, bytes(packet) for each and then C's sendmmsg(2), whose memory is filled
  while no clock runs.
- tcpreplay at top speed on the same frames, by its own clock: from a file as
  it reads it, and at its best (--preload-pcap --no-flow-stats); sendp_batch()
  by SendResult.seconds; and C's sendmmsg(2) of as many, which is the limit.
"""

from collections.abc import Iterator

from ..framework import Context, Table
from ..tools import peers


def measure(context: Context) -> Iterator[Table]:
    peers.module("scapy")
    from ..sides import scapy_send_tables as tables

    return tables.measure(context)
