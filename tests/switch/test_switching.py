"""Which frames a switch forwards to which port."""

import struct

from support.frames import frame
from support.switching import DEFAULT, lab, take

from rawmmsg.bridge.switching.members import PortRules
from rawmmsg.bridge.switching.vlans import Vlans

A, B, C = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 4))
BROADCAST = b"\xff" * 6


def packet(dst: bytes, src: bytes, text: bytes = b"") -> bytes:
    return frame(text.ljust(46, b"."), dst, src)


def tagged(tci: int, plain: bytes) -> bytes:
    return plain[:12] + struct.pack("!HH", 0x8100, tci) + plain[12:]


def test_known_stations_get_their_frames_alone() -> None:
    with lab(DEFAULT, DEFAULT, DEFAULT) as net:
        net.send(0, packet(BROADCAST, A))
        net.arrives(1, packet(BROADCAST, A))
        net.arrives(2, packet(BROADCAST, A))
        net.send(1, packet(A, B))
        net.arrives(0, packet(A, B))
        net.send(0, packet(B, A))
        net.arrives(1, packet(B, A))
        net.is_quiet(0, 1, 2)
    assert net.last["p0"].flooded == 1
    assert net.switch.table.learned == 2


def test_frames_for_unknown_stations_are_flooded() -> None:
    with lab(DEFAULT, DEFAULT, DEFAULT) as net:
        net.send(0, packet(C, A))
        net.arrives(1, packet(C, A))
        net.arrives(2, packet(C, A))
        net.send(2, packet(A, C))
        net.arrives(0, packet(A, C))
        net.send(0, packet(C, A))
        net.arrives(2, packet(C, A))
        net.is_quiet(0, 1, 2)


def test_frames_between_stations_of_one_port_are_filtered() -> None:
    with lab(DEFAULT, DEFAULT) as net:
        net.send(0, packet(BROADCAST, A), packet(A, B))
        net.send(0, packet(BROADCAST, C))
        net.arrives(1, packet(BROADCAST, A), packet(BROADCAST, C))
        net.is_quiet(0, 1)
    assert net.last["p0"].filtered == 1


def test_a_station_that_moves_is_found_again() -> None:
    with lab(DEFAULT, DEFAULT, DEFAULT) as net:
        net.send(0, packet(BROADCAST, A))
        for port in (1, 2):
            net.arrives(port, packet(BROADCAST, A))
        net.send(1, packet(A, B))
        net.arrives(0, packet(A, B))
        net.send(2, packet(B, A))
        net.arrives(1, packet(B, A))
        net.send(1, packet(A, B))
        net.arrives(2, packet(A, B))
        net.is_quiet(0, 1, 2)
    assert net.switch.table.moved == 1


def test_interleaved_frames_keep_their_order() -> None:
    with lab(DEFAULT, DEFAULT, DEFAULT) as net:
        net.send(1, packet(BROADCAST, B))
        net.send(2, packet(BROADCAST, C))
        net.arrives(0, packet(BROADCAST, B), packet(BROADCAST, C))
        net.arrives(1, packet(BROADCAST, C))
        net.arrives(2, packet(BROADCAST, B))
        packets = [
            packet((B, C, BROADCAST)[i * i % 3], A, b"%d" % i)
            for i in range(300)
        ]
        net.send(0, *packets)
        for port, own in ((1, B), (2, C)):
            net.arrives(
                port, *(one for one in packets if one[:6] in (own, BROADCAST))
            )
        net.is_quiet(0, 1, 2)


def test_isolated_ports_reach_only_the_others() -> None:
    alone = PortRules(is_isolated=True)
    with lab(DEFAULT, alone, alone) as net:
        net.send(1, packet(BROADCAST, B))
        net.arrives(0, packet(BROADCAST, B))
        net.send(2, packet(B, C))
        net.send(0, packet(B, A))
        net.arrives(1, packet(B, A))
        net.is_quiet(0, 1, 2)
    assert net.last["p2"].dropped == {"isolated": 1}


def test_frames_of_link_protocols_pass_unless_forbidden() -> None:
    lacp = packet(bytes.fromhex("0180c2000002"), A)
    with lab(DEFAULT, DEFAULT) as net:
        net.send(0, lacp)
        net.arrives(1, lacp)
    with lab(DEFAULT, DEFAULT, passes_link_local=False) as net:
        net.send(0, lacp, packet(BROADCAST, A))
        net.arrives(1, packet(BROADCAST, A))
        net.is_quiet(1)
    assert net.last["p0"].dropped == {"link_local": 1}


def test_vlans_of_access_ports_and_trunks() -> None:
    """The trunk's native VLAN is 1."""
    red, blue = PortRules(Vlans.access(5)), PortRules(Vlans.access(6))
    with lab(DEFAULT, red, blue, red) as net:
        plain = packet(BROADCAST, B)
        net.send(1, plain)
        net.arrives(0, tagged(5, plain))
        net.arrives(3, plain)
        net.send(0, tagged(0xE006, packet(BROADCAST, A)))
        net.arrives(2, packet(BROADCAST, A))
        net.send(0, tagged(5, packet(B, A)), tagged(7, packet(B, A)))
        net.arrives(1, packet(B, A))
        net.send(0, packet(B, A))  # in VLAN 1, where only the trunk is
        net.send(1, tagged(0xE000, packet(A, B)))
        net.arrives(0, tagged(0xE005, packet(A, B)))
        net.send(2, tagged(5, packet(A, C)), tagged(4095, packet(A, C)))
        net.send(2, packet(A, C))
        net.arrives(0, tagged(6, packet(A, C)))
        net.is_quiet(0, 1, 2, 3)
    assert net.last["p2"].dropped == {"vlan": 2}
    assert net.last["p0"].dropped == {"no_port": 2}


def test_frames_without_a_valid_source_are_dropped() -> None:
    with lab(DEFAULT, DEFAULT) as net:
        net.send(0, packet(B, BROADCAST), packet(B, bytes(6)), packet(B, A))
        net.arrives(1, packet(B, A))
        net.is_quiet(1)
    assert net.last["p0"].dropped == {"malformed": 2}


def test_a_flood_of_addresses_does_not_grow_the_table() -> None:
    """A station that it displaces is known again when it sends."""
    with lab(DEFAULT, DEFAULT, DEFAULT, stations=100) as net:
        for i in range(0, 3000, 50):
            net.send(
                2,
                *(
                    packet(B, b"\2\1" + n.to_bytes(4, "big"))
                    for n in range(i, i + 50)
                ),
            )
            net.settle()
            net.send(1, packet(A, B))
            net.settle()
            assert len(net.switch.table) <= 100
            assert net.switch.table.find((1, B)) == 1
    assert net.last["p2"].flooded < 1500


def test_a_station_that_sends_does_not_age() -> None:
    """Even if it is to be forgotten after a moment."""
    with lab(DEFAULT, DEFAULT, ageing=0.1) as net:
        for i in range(100):
            net.send(0, packet(BROADCAST, A, b"%d" % i))
            net.counts()
    table = net.switch.table
    assert (table.learned, table.aged) == (1, 0)


def test_floods_are_limited() -> None:
    limited = PortRules(flood=10)
    with lab(limited, DEFAULT) as net:
        for i in range(200):
            net.send(0, packet(BROADCAST, A, b"%d" % i))
        net.send(1, packet(A, B))
        net.arrives(0, packet(A, B))
        net.send(0, packet(B, A, b"last"))
        while take(net.ends[1], 1)[-1] != packet(B, A, b"last"):
            pass
    assert net.last["p0"].dropped["flood_limit"] > 0
    assert net.last["p0"].flooded < 100
