"""sendp_batch(merge=True): the same packets arrive, in fewer pieces, and the
result, the progress bar and the log count the packets."""

import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.sendrecv import sendp
from support.frames import numbered, pending, same_frames
from support.merging import UDP4, Counted, Listener, flow
from support.old_kernel import without_super_frames
from support.pacing import interrupting
from support.scapykit import logged

from rawmmsg import GSO_UDP_L4, RawSocket
from rawmmsg.scapy import SendResult, sendp_batch
from rawmmsg.testing import Veth

LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def udp(count: int) -> list[Packet]:
    """Datagrams whose ids count up."""
    return [
        LINK
        / IP(src="192.0.2.1", dst="192.0.2.2", id=i)
        / UDP(sport=1, dport=2)
        / Raw(bytes([i]) * 40)
        for i in range(count)
    ]


def mixture() -> list[Packet]:
    tcp = [
        LINK
        / IP(src="192.0.2.1", dst="192.0.2.2", id=i)
        / TCP(sport=1, dport=2, seq=100 * i, flags="A")
        / Raw(bytes(100))
        for i in range(20)
    ]
    tagged = LINK / Dot1Q(vlan=3) / IPv6(src="2001:db8::1", dst="2001:db8::2")
    tagged = tagged / UDP(sport=1, dport=2) / Raw(bytes(40))
    arp = LINK / ARP(hwsrc="02:00:00:00:00:01", psrc="192.0.2.1")
    return [arp, *tcp[:10], *udp(20), arp, *tcp[10:], *[tagged] * 9]


@pytest.mark.parametrize("options", [{}, {"pps": 1e6}, {"loop": 3}], ids=str)
@pytest.mark.parametrize("form", [list, iter])
def test_packets_arrive_as_sendp_sends_them(
    pair: Veth,
    receiver: RawSocket,
    form: Callable[[list[Packet]], Any],
    options: dict[str, Any],
) -> None:
    sendp(mixture(), iface=pair.a, verbose=0)
    expected = pending(receiver) * options.get("loop", 1)
    with Listener(pair.b) as listener:
        result = sendp_batch(form(mixture()), pair.a, merge=True, **options)
        listener.wait_for(len(expected))
    same_frames(listener.frames, expected)
    assert (result.frames, result.errors) == (len(expected), 0)
    assert result.bytes == sum(map(len, expected))


def test_packets_of_a_flow_leave_in_one_piece(
    pair: Veth, listener: Listener
) -> None:
    sendp_batch(udp(100), pair.a, loop=2, merge=True)
    listener.wait_for(200)
    assert listener.pieces == [64, 36] * 2


def test_packets_with_the_default_id_are_not_merged(
    pair: Veth, listener: Listener
) -> None:
    """In Scapy it is 1 in all packets, which a super-frame cannot have."""
    packet = udp(1)[0]
    packet[IP].id = IP().id
    sendp_batch([packet] * 10, pair.a, merge=True)
    listener.wait_for(10)
    assert (listener.frames, listener.pieces) == (
        [bytes(packet)] * 10,
        [1] * 10,
    )


def test_packets_with_the_same_time_leave_in_one_piece(
    pair: Veth, listener: Listener
) -> None:
    """Others, which are due later, do not."""
    packets = udp(30)
    for i, packet in enumerate(packets):
        packet.time = 1e9 + (i >= 10) / 100
    sendp_batch(packets, pair.a, realtime=True, merge=True)
    listener.wait_for(30)
    assert listener.pieces == [10, 20]


def test_progress_counts_packets(
    pair: Veth, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bar:
        total, shown = 0, 0

        def __init__(self, **options: Any) -> None: ...

        def reset(self, total: int) -> None:
            Bar.total = total

        def update(self, count: int) -> None:
            Bar.shown += count

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...

    tqdm: Any = types.ModuleType("tqdm")
    tqdm.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", tqdm)
    sendp_batch(udp(50), pair.a, loop=4, progress=True, merge=True)
    assert Bar.shown == Bar.total == 200


@pytest.mark.parametrize("pace", [{}, {"pps": 1e5}], ids=str)
def test_ctrl_c_gives_an_exact_result(
    pair: Veth, pace: dict[str, Any], scaled: Callable[[int], int]
) -> None:
    """At whatever step it comes."""
    packets = flow(UDP4, 100)
    for i in range(scaled(5)):
        counted = Counted(pair.b)
        with interrupting(pair.b, 20 * i + 1):
            result = sendp_batch(packets, pair.a, loop=0, merge=True, **pace)
        assert result.frames == counted.frames > 0
        assert result.bytes == 64 * result.frames


# Errors


def test_log_counts_the_packets_that_are_refused(
    pair: Veth, listener: Listener
) -> None:
    packets: list[Packet | bytes] = [
        *udp(20),
        numbered(1, 1515),
        *udp(20),
        b"short",
    ]
    with logged() as messages:
        result = sendp_batch(packets, pair.a, loop=2, merge=True)
    listener.wait_for(80)
    assert (result.frames, result.errors) == (80, 4)
    assert len(messages) == 1
    assert messages[0].startswith("sendp_batch: the kernel refused 4 packets")


def test_log_tells_once_that_the_kernel_cannot_merge_udp(
    pair: Veth, listener: Listener
) -> None:
    """The packets are sent one by one."""

    def send() -> SendResult:
        return sendp_batch(udp(100), pair.a, loop=3, merge=True)

    with logged() as messages, warnings.catch_warnings():
        warnings.simplefilter("error")
        result, refused = without_super_frames(GSO_UDP_L4, send)
    assert refused > 0
    listener.wait_for(300)
    assert (result.frames, result.errors) == (300, 0)
    assert listener.pieces == [1] * 300
    assert len(messages) == 1
    assert messages[0].startswith(
        "sendp_batch: the kernel refuses super-frame"
    )


def test_interface_needs_ethernet_frames(tun: tuple[int, str]) -> None:
    with pytest.raises(ValueError, match=r"Ethernet .* link type 65534"):
        sendp_batch(udp(2), tun[1], merge=True)
