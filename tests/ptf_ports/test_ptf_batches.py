"""RawMmsgPort: no packet is lost, its descriptor, links that go down."""

import select
import time

import pytest
from support import WAIT
from support.calls import eventually
from support.frames import numbered, receive
from support.linux import descriptors, ip, tc
from support.ptfkit import data_plane, testutils

from rawmmsg import RawSocket
from rawmmsg.ptf import RawMmsgPort
from rawmmsg.testing import Veth


@pytest.fixture
def port(pair: Veth) -> RawMmsgPort:
    """Port 5 of device 2, on `pair.b`."""
    return RawMmsgPort(pair.b, 2, 5, {"qlen": 10})


def is_readable(port: RawMmsgPort, seconds: float = 0) -> bool:
    source = port.get_packet_source()
    return select.select([source], [], [], seconds)[0] == [source]


def test_none_of_100_000_packets_is_lost(pair: Veth) -> None:
    count = 100_000
    with data_plane(RawMmsgPort, [pair.a, pair.b], qlen=count) as case:
        for number in range(count):
            testutils.send_packet(case, 0, numbered(number))
        queue = case.dataplane.packet_queues[0, 1]
        eventually(lambda: len(queue) >= count, f"{count} packets arrive")
        for number, (packet, _) in enumerate(queue):
            assert packet == numbered(number)


def test_descriptor_is_readable_while_packets_are_left(
    port: RawMmsgPort, sender: RawSocket
) -> None:
    assert not is_readable(port)
    packets = [numbered(number) for number in range(300)]
    sender.sendmmsg_all(packets)
    for packet in packets:
        assert is_readable(port, WAIT)
        received = port.recv()
        assert received is not None
        assert received[:3] == (2, 5, packet)
    assert not is_readable(port)
    assert port.recv() is None


def test_time_is_that_of_the_arrival(
    port: RawMmsgPort, sender: RawSocket
) -> None:
    before = time.time()
    sender.send(numbered(0))
    after = time.time()
    assert is_readable(port, WAIT)
    time.sleep(0.2)
    received = port.recv()
    assert received is not None
    assert before - 0.01 <= received[3] <= after + 0.1


def test_port_works_again_when_the_link_is_up(
    port: RawMmsgPort, pair: Veth, sender: RawSocket
) -> None:
    port.down()
    assert "state DOWN" in ip("link", "show", pair.b)
    assert is_readable(port, WAIT)
    assert port.recv() is None
    assert not is_readable(port)
    port.up()
    pair.up()  # waits until the link carries frames
    sender.send(numbered(1))
    assert is_readable(port, WAIT)
    received = port.recv()
    assert received is not None
    assert received[2] == numbered(1)


def test_port_may_be_opened_while_the_link_is_down(pair: Veth) -> None:
    pair.down("b")
    port = RawMmsgPort(pair.b, 0, 0, {})
    port.up()
    pair.up()
    with RawSocket(pair.a, protocol=0) as sender:
        sender.send(numbered(1))
    received = None
    while received is None:
        assert is_readable(port, WAIT)
        received = port.recv()
    assert received[2] == numbered(1)


def test_removed_port_closes_its_descriptors(pair: Veth) -> None:
    with data_plane(RawMmsgPort, [pair.a]) as case:
        before = descriptors()
        case.dataplane.port_add(pair.b, 0, 1)
        testutils.send_packet(case, 0, numbered(1))
        testutils.verify_packet(case, numbered(1), 1)
        assert case.dataplane.port_remove(0, 1)
        eventually(
            lambda: descriptors() == before, "the descriptors are closed"
        )


def test_send_waits_while_the_buffer_is_full(
    port: RawMmsgPort, pair: Veth
) -> None:
    # So slow that more than the send buffer (net.core.wmem_default) can hold
    # waits in the queue of the interface.
    options = ("rate", "8mbit", "burst", "2000", "limit", "10000000")
    tc("qdisc", "replace", "dev", pair.b, "root", "tbf", *options)
    packets = [numbered(number, 1000) for number in range(600)]
    with RawSocket(pair.a, ignore_outgoing=True) as receiver:
        for packet in packets:
            assert port.send(packet) == 1000
        assert receive(receiver, 600) == packets
    tc("qdisc", "delete", "dev", pair.b, "root")


def test_missing_interface_is_an_error() -> None:
    with pytest.raises(OSError, match="nosuch0"):
        RawMmsgPort("nosuch0", 0, 0, {})
