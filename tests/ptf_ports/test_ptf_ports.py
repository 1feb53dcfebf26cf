"""PTF's functions give the same results on its own ports and on those of
rawmmsg."""

from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw
from support.calls import eventually
from support.frames import numbered
from support.linux import ip
from support.ptfkit import PORT_CLASSES, Case, Mask, data_plane, testutils

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

# PTF logs with a method that is deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'warn' method is deprecated:DeprecationWarning"
)

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
PACKET = ETHER / IP(dst="192.0.2.1") / UDP() / Raw(bytes(20))
OTHER = ETHER / IP(dst="192.0.2.2") / UDP() / Raw(bytes(20))


@pytest.fixture
def interfaces(veth_factory: Callable[..., Veth]) -> list[str]:
    """Two pairs: ports 0 and 1 are connected, and ports 2 and 3."""
    pairs = veth_factory(mtu=9000), veth_factory(mtu=9000)
    return [name for pair in pairs for name in (pair.a, pair.b)]


@pytest.fixture(params=PORT_CLASSES, ids=lambda made: made.__name__)
def case(
    request: pytest.FixtureRequest, interfaces: list[str]
) -> Iterator[Case]:
    with data_plane(request.param, interfaces) as made:
        yield made


@pytest.mark.parametrize(
    "packet",
    [
        PACKET,
        ETHER / Dot1Q(vlan=7, prio=3) / IP() / UDP(),
        ETHER / Dot1Q(vlan=7) / Dot1Q(vlan=8) / IP() / UDP(),
        ETHER / Dot1Q(vlan=0, prio=1) / IP() / UDP(),
        ETHER / IP() / UDP() / Raw(bytes(1472)),
        ETHER / IP() / UDP() / Raw(bytes(4096 - 42)),
        Raw(bytes(PACKET)[:15]),
    ],
    ids=["UDP", "tag", "two tags", "VLAN 0", "1514", "4096", "15"],
)
def test_packet_arrives_as_it_was_sent(case: Case, packet: Packet) -> None:
    for sender, receiver in ((0, 1), (1, 0), (2, 3)):
        sent = testutils.send_packet(case, sender, packet)
        assert sent == len(bytes(packet))
        testutils.verify_packet(case, packet, receiver)
    testutils.verify_no_other_packets(case)


def test_packet_arrives_at_no_other_port(case: Case) -> None:
    testutils.send_packet(case, 0, PACKET)
    testutils.verify_packets(case, PACKET, [1])
    testutils.send_packet(case, 2, PACKET, count=2)
    testutils.verify_packet(case, PACKET, 3)
    with pytest.raises(AssertionError, match="port 3, but we expected no"):
        testutils.verify_no_other_packets(case)


@pytest.mark.parametrize("port", [0, 2, 3])
def test_packet_of_another_port_is_missed(case: Case, port: int) -> None:
    testutils.send_packet(case, 0, PACKET)
    testutils.verify_no_packet(case, PACKET, port)
    with pytest.raises(AssertionError, match="was not received on device 0"):
        testutils.verify_packet(case, PACKET, port, timeout=0.1)


def test_packet_is_found_among_others(case: Case) -> None:
    for packet in (OTHER, OTHER, PACKET):
        testutils.send_packet(case, 0, packet)
    testutils.verify_packet(case, PACKET, 1)
    testutils.verify_no_packet(case, OTHER, 1)


def test_mask_ignores_fields(case: Case) -> None:
    mask = Mask(PACKET)
    mask.set_do_not_care_packet(IP, "dst")
    mask.set_do_not_care_packet(IP, "chksum")
    mask.set_do_not_care_packet(UDP, "chksum")
    testutils.send_packet(case, 0, OTHER)
    testutils.verify_packets(case, mask, [1])


def test_port_that_received_is_named(case: Case) -> None:
    testutils.send_packet(case, 2, PACKET)
    found = testutils.verify_packet_any_port(case, PACKET, [1, 3])
    assert found == (1, bytes(PACKET))
    testutils.send_packet(case, 0, OTHER)
    packets = [PACKET, OTHER]
    assert testutils.verify_any_packet_any_port(case, packets, [3, 1]) == 1
    testutils.send_packet(case, 0, PACKET)
    testutils.send_packet(case, 2, OTHER)
    testutils.verify_each_packet_on_each_port(case, packets, [1, 3])


def test_ports_are_polled_in_the_order_of_arrival(case: Case) -> None:
    order = [1, 3, 3, 1, 2, 0, 1]
    for number, port in enumerate(order, 1):
        testutils.send_packet(case, port ^ 1, PACKET)
        # On PTF's own ports, a packet arrives when the thread reads it.
        wait_for(case, port, order[:number].count(port))
    polled = [case.dataplane.poll(timeout=10).port for _ in order]
    assert polled == order


def wait_for(case: Case, port: int, count: int) -> None:
    eventually(
        lambda: case.dataplane.get_counters(0, port)[0] >= count,
        f"port {port} should receive {count} packets",
    )


def test_port_sees_what_others_send_on_its_interface(
    case: Case, interfaces: list[str]
) -> None:
    with RawSocket(interfaces[0], protocol=0) as other:
        other.send(bytes(PACKET))
    testutils.verify_packets(case, PACKET, [0, 1])


def test_mac_is_the_address_of_the_interface(
    case: Case, interfaces: list[str]
) -> None:
    ip("link", "set", interfaces[2], "address", "02:00:00:00:0a:0b")
    assert case.dataplane.get_mac(0, 2) == "02:00:00:00:0a:0b"


def test_counters(case: Case) -> None:
    testutils.send_packet(case, 0, PACKET, count=100)
    wait_for(case, 1, 100)
    assert case.dataplane.get_counters(0, 0) == (0, 100)
    assert case.dataplane.get_counters(0, 1) == (100, 0)


@pytest.mark.parametrize("port_class", PORT_CLASSES)
@pytest.mark.parametrize("config", [{}, {"socket_recv_size": 1000}])
def test_long_packet_is_cut(
    port_class: type, config: dict[str, int], interfaces: list[str]
) -> None:
    plain = ETHER / Raw(bytes(range(250)) * 20)
    tagged = ETHER / Dot1Q(vlan=7) / Raw(bytes(range(250)) * 20)
    size = config.get("socket_recv_size", 4096)
    with data_plane(port_class, interfaces, **config) as case:
        testutils.send_packet(case, 0, plain)
        testutils.send_packet(case, 0, tagged)
        first, second = (case.dataplane.poll(0, 1, 10).packet for _ in "12")
    assert first == bytes(plain)[:size]
    assert second == bytes(tagged)[: size + 4]


@pytest.mark.parametrize("port_class", PORT_CLASSES)
def test_full_queue_loses_the_oldest(
    port_class: type, interfaces: list[str]
) -> None:
    with data_plane(port_class, interfaces, qlen=5) as case:
        for number in range(9):
            testutils.send_packet(case, 0, numbered(number))
        wait_for(case, 1, 9)
        queue = case.dataplane.packet_queues[0, 1]
        assert [packet for packet, _ in queue] == [
            numbered(number) for number in range(4, 9)
        ]
