"""Memberships: multicast addresses that an interface receives while a socket
is open."""

import json

import pytest
from support.linux import ip

from rawmmsg import RawSocket
from rawmmsg.testing import Veth


def members(interface: str) -> list[str]:
    with open("/proc/net/dev_mcast", encoding="ascii") as listed:
        rows = [line.split() for line in listed]
    return [row[4] for row in rows if row[1] == interface]


GROUP = bytes.fromhex("01005e7f1234")


def test_multicast_is_joined_for_the_life_of_the_socket(pair: Veth) -> None:
    with RawSocket(pair.b, multicast=[GROUP, bytearray(GROUP)]):
        assert GROUP.hex() in members(pair.b)
    assert GROUP.hex() not in members(pair.b)


def test_membership_is_added_and_dropped(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        sock.add_membership(GROUP)
        assert GROUP.hex() in members(pair.b)
        sock.drop_membership(GROUP)
        assert GROUP.hex() not in members(pair.b)
        sock.drop_membership(GROUP)  # the kernel accepts it twice
        with pytest.raises(ValueError, match="1 to 8 bytes"):
            sock.add_membership(bytes(9))
        with pytest.raises(TypeError):
            sock.add_membership("01:00:5e:7f:12:34")  # type: ignore[arg-type]


def test_membership_needs_an_interface() -> None:
    with RawSocket() as sock, pytest.raises(ValueError, match="interface"):
        sock.add_membership(GROUP)
    for options in ({"allmulti": True}, {"multicast": [GROUP]}):
        with pytest.raises(ValueError, match="interface"):
            RawSocket(**options)


def test_allmulti_is_on_for_the_life_of_the_socket(pair: Veth) -> None:
    def count() -> int:
        shown = json.loads(ip("-d", "-j", "link", "show", pair.b))
        return int(shown[0]["allmulti"])

    before = count()
    with RawSocket(pair.b, allmulti=True):
        assert count() == before + 1
    assert count() == before
