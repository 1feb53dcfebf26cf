"""install() and uninstall(): which sockets Scapy opens."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.arch.linux import L2ListenSocket, L2Socket, L3PacketSocket
from scapy.config import conf
from scapy.interfaces import resolve_iface
from scapy.sendrecv import sniff
from support import WAIT
from support.child import missing
from support.frames import number_of, numbered
from support.scapykit import reload_network, send

from rawmmsg.scapy import (
    L2RawMmsgListenSocket,
    L2RawMmsgSocket,
    L3RawMmsgSocket,
    install,
    uninstall,
)
from rawmmsg.testing import Veth

THEIRS = (L2Socket, L2ListenSocket, L3PacketSocket)
OURS = (L2RawMmsgSocket, L2RawMmsgListenSocket, L3RawMmsgSocket)


def chosen() -> tuple[Any, Any, Any]:
    return conf.L2socket, conf.L2listen, conf.L3socket


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    assert chosen() == THEIRS
    yield
    uninstall()
    conf.use_pcap = False
    assert chosen() == THEIRS


def test_end_of_the_block_uninstalls() -> None:
    with install():
        assert chosen() == OURS
    assert chosen() == THEIRS


def test_sockets_stay_installed_until_uninstall() -> None:
    install()
    assert chosen() == OURS
    uninstall()
    assert chosen() == THEIRS
    uninstall()


def test_layer_3_socket_of_ipv6(veth: Veth) -> None:
    before = conf.L3socket6
    with install(), conf.L3socket6(iface=veth.a) as sock:
        assert type(sock) is L3RawMmsgSocket
    assert conf.L3socket6 is before


def test_only_the_outer_of_two_blocks_uninstalls() -> None:
    with install():
        with install():
            assert chosen() == OURS
        assert chosen() == OURS
    assert chosen() == THEIRS


def test_block_that_raises_uninstalls() -> None:
    with pytest.raises(KeyError), install():
        raise KeyError
    assert chosen() == THEIRS


def test_sockets_stay_when_use_pcap_changes() -> None:
    with install():
        conf.use_pcap = True
        assert chosen() == OURS
        conf.use_pcap = False
        assert chosen() == OURS


def test_after_uninstall_use_pcap_decides() -> None:
    """Its value then, not when install() was called."""
    conf.use_pcap = True
    if not conf.use_pcap:
        raise missing("libpcap", "libpcap-dev")
    theirs = chosen()
    conf.use_pcap = False
    with install():
        conf.use_pcap = True
    assert chosen() == theirs
    conf.use_pcap = False
    assert chosen() == THEIRS


def test_socket_that_other_code_has_set_stays() -> None:
    class Mine(L2Socket):
        """Made by a user."""

    try:
        with install():
            conf.L2socket = Mine
        assert chosen() == (Mine, L2ListenSocket, L3PacketSocket)
    finally:
        conf.L2socket = L2Socket


def test_scapy_opens_the_sockets_of_rawmmsg(veth: Veth) -> None:
    reload_network()
    with install():
        interface = resolve_iface(veth.a)
        assert interface.l2socket() is L2RawMmsgSocket
        assert interface.l2listen() is L2RawMmsgListenSocket
        assert interface.l3socket(False) is L3RawMmsgSocket


def test_options_of_sniff_reach_the_socket(veth: Veth) -> None:
    with install():
        found = sniff(
            iface=veth.a,
            filter="ether proto 0x88b5",
            timestamps=True,
            count=1,
            timeout=WAIT,
            started_callback=lambda: send(veth.b, [numbered(1)]),
        )
    assert number_of(found[0].original) == 1


def test_scapy_keeps_its_own_layer_3_socket_for_loopback() -> None:
    with install():
        make: Callable[..., Any] = resolve_iface("lo").l3socket(False)
        assert make is not L3RawMmsgSocket
