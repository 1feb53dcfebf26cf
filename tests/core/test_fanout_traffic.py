"""Joining a fanout group under traffic: every lost packet is counted, and
packets are duplicated only before the join."""

import struct
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
from support import WAIT
from support.frames import frame, pending

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

FRAMES: Final = 60_000
BATCH: Final = 64
RCVBUF: Final = 1 << 27
"""Room for all of them, if privilege allows it."""
pytestmark = pytest.mark.filterwarnings("ignore:rcvbuf=:RuntimeWarning")

_NUMBER: Final = 42


def datagram(number: int) -> bytes:
    """An IPv4 UDP datagram, in one of 256 flows (for the mode "hash")."""
    udp = struct.pack("!HHHHI", 1000 + number % 256, 9, 12, 0, number)
    ip = struct.pack(
        *("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0),
        *(bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])),
    )
    return frame(ip + udp, ethertype=0x0800)


PACKETS: Final = [datagram(number) for number in range(FRAMES)]


def number_of(packet: bytes) -> int | None:
    """None for a packet that the kernel sent itself."""
    if packet[:14] != PACKETS[0][:14]:
        return None
    return int.from_bytes(packet[_NUMBER : _NUMBER + 4])


class Traffic:
    """Sends all packets in a thread; `sent` is the number so far."""

    def __init__(self, interface: str) -> None:
        self.sent = 0
        self._interface = interface
        self._begun = threading.Event()
        self._joined = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with RawSocket(self._interface, protocol=0) as sender:
            while self.sent < FRAMES:
                batch = PACKETS[self.sent : self.sent + BATCH]
                sender.sendmmsg_all(batch)
                self.sent += len(batch)
                if self.sent >= FRAMES // 4:
                    self._begun.set()
                if self.sent >= FRAMES * 3 // 4:
                    self._joined.wait(WAIT)

    def begin(self) -> None:
        """Returns once a quarter of the packets have been sent."""
        self._thread.start()
        assert self._begun.wait(WAIT), "nothing is sent"

    def end(self) -> None:
        """Sends the last quarter, which waits for the second member."""
        self._joined.set()
        self._thread.join()


def numbers(sock: RawSocket) -> list[int]:
    found = [number_of(packet) for packet in pending(sock)]
    return [number for number in found if number is not None]


def dropped(*sockets: RawSocket) -> int:
    return sum(sock.statistics().packets_dropped or 0 for sock in sockets)


def join_under_traffic(
    pair: Veth, open_second: Callable[[int], RawSocket], mode: Any
) -> tuple[list[int], list[int], int, int]:
    """Returns what each member received, the number of drops, and the number
    of the first packet sent after the second member had joined."""
    with RawSocket(pair.b, fanout=mode, rcvbuf=RCVBUF) as one:
        traffic = Traffic(pair.a)
        assert one.fanout_group is not None
        traffic.begin()
        with open_second(one.fanout_group) as two:
            joined = traffic.sent + BATCH
            traffic.end()
            return numbers(one), numbers(two), dropped(one, two), joined


@pytest.mark.parametrize("mode", ["lb", "hash"])
def test_bound_socket_joins_without_losing_packets(
    pair: Veth, mode: Any, scaled: Callable[[int], int]
) -> None:
    def open_second(group: int) -> RawSocket:
        sock = RawSocket(pair.b, rcvbuf=RCVBUF)
        sock.set_fanout(mode, group)
        return sock

    for _ in range(scaled(2)):
        one, two, drops, joined = join_under_traffic(pair, open_second, mode)
        # A packet that the kernel delivers during the join can reach the
        # second member twice, as a bound socket and as a member.
        times = Counter([*one, *two])
        doubled = [number for number, count in times.items() if count > 1]
        lost = FRAMES - len(times)
        print(f"{mode}: {len(doubled)} doubled, {lost} lost, {drops} dropped")
        assert lost <= drops, "a packet was lost and not counted"
        assert len(one) == len(set(one)), (
            "the first member received a packet twice"
        )
        assert not doubled or max(doubled) < joined, (
            "a packet was duplicated after the join"
        )
        assert two, "the second member received nothing"


@pytest.mark.parametrize("mode", ["lb", "hash"])
def test_constructor_joins_without_duplicating_packets(
    pair: Veth, mode: Any, scaled: Callable[[int], int]
) -> None:
    """Packets between its join and the end of its filter change are lost
    instead."""

    def open_second(group: int) -> RawSocket:
        return RawSocket(pair.b, fanout=(mode, group), rcvbuf=RCVBUF)

    for _ in range(scaled(2)):
        one, two, drops, _ = join_under_traffic(pair, open_second, mode)
        lost = FRAMES - len(one) - len(two) - drops
        print(f"{mode}: {lost} lost by joining")
        assert not set(one) & set(two), "a packet was duplicated"
        assert len(one) == len(set(one))
        assert len(two) == len(set(two))
        assert two, "the second member received nothing"
