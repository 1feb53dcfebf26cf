"""The kernel's GRO (net/core/gro.c), which merges the frames that an interface
receives: how tests make it merge frames, and see what it made of them."""

import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth, veth_pair
from support import WAIT
from support.frames import HEADER_SIZE, PACKET, frame
from support.linux import ETHTOOL_SGRO, ETHTOOL_STSO, ethtool, switch_on, tc

MOST_FRAMES: Final = 62
"""The most frames that GRO sees at once: the frame that releases them is the
63rd. If 64 arrive, GRO gives out what it has, whether or not more follows
(net/core/dev.c:__napi_poll())."""

_MTU: Final = 1600
_BURST: Final = HEADER_SIZE + _MTU
# At 8 bytes a second, a frame of 42 bytes is held for 5 seconds.
_HELD: Final = f"rate 64bit burst {_BURST} limit 1mb".split()
_HOLDS: Final = 5.0
_RELEASED: Final = "rate 10gbit burst 1mb limit 1mb".split()


@dataclass(frozen=True)
class Gro:
    """A veth pair whose end `b` merges what it receives.

    GRO gives out all it has at the end of each poll
    (net/core/dev.c:napi_complete_done()), and a poll begins when a frame
    arrives. So the queue of the end `a` holds the frames until all are there,
    and then one run of it (net/sched/sch_generic.c:__qdisc_run()) sends them.
    As it runs with software interrupts disabled, the kernel receives only
    afterwards, and all frames in one poll.
    """

    veth: Veth
    sender: RawSocket
    receiver: RawSocket

    def send(self, batch: PacketBatch) -> None:
        """Sends the frames, so that GRO sees all of them at once."""
        assert len(batch) <= MOST_FRAMES
        self._shape(_HELD)
        self._send_other(frame(bytes(_BURST - HEADER_SIZE)))  # uses it up
        deadline = time.monotonic() + _HOLDS
        self.sender.sendmmsg_all(batch)
        self._shape(_RELEASED)
        assert time.monotonic() < deadline, "the queue cannot hold so long"
        self._send_other(PACKET)  # runs the queue

    def received(self) -> Iterator[PacketBatch]:
        """Receives what GRO makes of the frames, until the caller has seen
        enough. Frames of send() itself are among them."""
        batch = PacketBatch(64, SUPER_FRAME)
        while True:
            self.receiver.recvmmsg_into(batch)
            yield batch

    def _shape(self, options: list[str]) -> None:
        tc("qdisc", "replace", "dev", self.veth.a, "root", "tbf", *options)

    def _send_other(self, packet: bytes) -> None:
        batch = PacketBatch(1)
        batch.append(packet)
        self.sender.sendmmsg_all(batch)


@contextmanager
def gro() -> Iterator[Gro]:
    """Makes a veth pair with GRO for TCP and UDP."""
    with veth_pair(mtu=_MTU) as veth:
        ethtool(veth.b, ETHTOOL_SGRO, 1)
        switch_on(veth.b, "rx-udp-gro-forwarding")
        # Otherwise the kernel takes it that nothing is left to merge
        # (drivers/net/veth.c:veth_skb_is_eligible_for_gro()).
        ethtool(veth.a, ETHTOOL_STSO, 0)
        with (
            RawSocket(veth.a, protocol=0, vnet_hdr=True) as sender,
            RawSocket(veth.b, ignore_outgoing=True, vnet_hdr=True) as receiver,
        ):
            sender.settimeout(WAIT)
            receiver.settimeout(WAIT)
            yield Gro(veth, sender, receiver)


# A tap, which sees more frames at once, but only for root


_CLOCK_MONOTONIC_COARSE: Final = 6  # <linux/time.h>
_KEEP: Final = """
mount -t sysfs none /sys
echo 20000000 > "/sys/class/net/$1/gro_flush_timeout"
"""


def can_keep(interface: str) -> bool:
    """Makes GRO on a tap keep what it has merged when a poll ends, for 20 ms
    at most. Returns False if that is not allowed: it needs CAP_NET_ADMIN in
    the initial user namespace (net/core/net-sysfs.c:
    gro_flush_timeout_store())."""
    command = ["unshare", "--mount", "sh", "-euc", _KEEP, "sh", interface]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.returncode == 0


def write_at_once(tap: int, packets: Iterable[bytes]) -> bool:
    """Writes the packets to a tap of which can_keep() is true, and makes GRO
    give out all of them. Returns whether no tick of the kernel came between
    them: at the next packet after a tick, GRO gives out what it has kept since
    before (net/core/gro.c: NAPI_GRO_CB(skb)->age)."""
    began = _next_tick()
    for packet in packets:
        os.write(tap, bytes(10) + packet)
    at_once = time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) == began
    _next_tick()
    os.write(tap, bytes(10) + PACKET)
    return at_once


def _next_tick() -> int:
    before = now = time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE)
    while now == before:
        time.sleep(0.0001)
        now = time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE)
    return now
