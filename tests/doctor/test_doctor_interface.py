"""Doctor's findings about an interface, with the fault and without it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from socket import SOCK_DGRAM
from typing import Any

import pytest
from support.child import WITHOUT_CAPABILITIES, tool
from support.doctoring import Report, doctor
from support.frames import SOURCE, frame, pending
from support.linux import (
    ETHTOOL_SGRO,
    ETHTOOL_SGSO,
    ETHTOOL_STSO,
    ETHTOOL_STXCSUM,
    ethtool,
    hardware_address,
    ip,
    other_namespace,
    tun_device,
)

from rawmmsg import RawSocket, bpf
from rawmmsg.testing import Veth

OFFLOADS = (ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO)


# The link


def test_link_down_is_a_problem_and_the_remedy_works(
    veth_factory: Callable[..., Veth],
) -> None:
    pair = veth_factory(up=False)
    pair.up("b")
    problem = doctor("link", pair.a).problem()
    assert f"{pair.a} is down" in problem["message"]
    command, *arguments = problem["remedy"].split()
    assert command == "ip"
    ip(*arguments)
    pair.up()
    doctor("link", pair.a).assert_ok()


def test_missing_carrier_is_a_problem_and_names_the_far_end(
    veth_factory: Callable[..., Veth],
) -> None:
    pair = veth_factory(up=False)
    pair.up("a")
    problem = doctor("link", pair.a).problem()
    assert "has no carrier" in problem["message"]
    assert problem["remedy"] == f"ip link set {pair.b} up"


def test_link_tells_its_mtu(veth: Veth) -> None:
    (finding,) = doctor("link", veth.a).of("ok")
    assert finding["values"]["mtu"] == 1500
    assert "MTU 1,500" in finding["message"]


# Promiscuous mode


@pytest.fixture
def make_macvlan(veth: Veth) -> Iterator[Callable[..., str]]:
    """Makes a macvlan on `veth.a`; returns its name."""
    name = "macvlan0"

    def make(*mode: str) -> str:
        kind = ("type", "macvlan", "mode", *mode)
        ip("link", "add", "link", veth.a, "name", name, *kind)
        ip("link", "set", name, "addrgenmode", "none", "up")
        return name

    yield make
    ip("link", "delete", name)


def receives_what_is_for_others(veth: Veth, interface: str) -> bool:
    """Whether a promiscuous socket there gets a frame for another machine."""
    with (
        RawSocket(veth.b, protocol=0) as sender,
        RawSocket(interface, promisc=True, ignore_outgoing=True) as sock,
    ):
        sender.send(frame(bytes(46), dst=SOURCE))
        sender.send(frame(bytes(46), dst=hardware_address(interface)))
        received = [packet[:6] for packet in pending(sock)]
    assert hardware_address(interface) in received
    return SOURCE in received


@pytest.mark.parametrize("mode", ["bridge", "vepa", "private"])
def test_promiscuity_without_effect_is_a_problem(
    veth: Veth, make_macvlan: Callable[..., str], mode: str
) -> None:
    interface = make_macvlan(mode)
    assert not receives_what_is_for_others(veth, interface)
    with RawSocket(interface, promisc=True):
        problem = doctor("promiscuity", interface).problem()
    assert f"a macvlan in mode {mode}" in problem["message"]
    assert "passthru" in problem["remedy"]
    (note,) = doctor("promiscuity", interface).of("note")
    assert "has no effect" in note["message"], "nobody asks for it now"


def test_promiscuity_with_effect_is_no_problem(
    veth: Veth, make_macvlan: Callable[..., str]
) -> None:
    interface = make_macvlan("passthru")
    assert receives_what_is_for_others(veth, interface)
    for one in (interface, veth.b):
        with RawSocket(one, promisc=True):
            doctor("promiscuity", one).assert_ok()
        doctor("promiscuity", one).assert_ok()


def test_promiscuity_that_the_interface_below_does_not_get_is_a_problem(
    veth: Veth, make_macvlan: Callable[..., str]
) -> None:
    interface = make_macvlan("passthru", "nopromisc")
    with RawSocket(interface, promisc=True):
        below = doctor("link", veth.a).only()
        assert below["values"]["promiscuity"] == 0
        problem = doctor("promiscuity", interface).problem()
        assert "nopromisc" in problem["message"]
        command, *arguments = problem["remedy"].split()
        assert command == "ip"
        ip(*arguments)
        doctor("promiscuity", interface).assert_ok()


# Offloads


def offloads(interface: str) -> Report:
    return doctor("offloads", interface)


def without_offloads(pair: Veth) -> None:
    for interface in (pair.a, pair.b):
        for command in OFFLOADS:
            ethtool(interface, command, 0)


def test_super_frames_for_a_socket_without_vnet_hdr_are_a_problem(
    veth: Veth,
) -> None:
    with RawSocket(veth.a):
        problem = offloads(veth.a).problem()
        assert (
            f"{veth.b}, the far end, has TSO or GSO on" in problem["message"]
        )
        assert "vnet_hdr=True" in problem["remedy"]
        assert len(problem["values"]["sockets"]) == 1
        assert problem["values"]["pids"] == [os.getpid()]
        assert "checksum is missing" in problem["message"]
        without_offloads(veth)
        offloads(veth.a).assert_ok()


def test_super_frames_are_no_problem_for_a_socket_with_vnet_hdr(
    veth: Veth,
) -> None:
    with RawSocket(veth.a, vnet_hdr=True), RawSocket(veth.a, protocol=0):
        assert offloads(veth.a).only()["severity"] == "note"


IPV4 = {"protocol": 0x0800}
# Accepts 1 at offset 9, which with a link header is in the MAC addresses.
ICMP_WITHOUT_HEADER = bpf.Program.from_tcpdump(
    "4,48 0 0 9,21 0 1 1,6 0 0 65535,6 0 0 0"
)


@pytest.mark.parametrize(
    ("options", "suffers"),
    [
        ({"filter": "tcp port 80 and net 192.0.2.0/24"}, True),
        ({"filter": "ip6 and not port 22"}, True),
        ({**IPV4, "filter": ICMP_WITHOUT_HEADER}, True),
        ({"protocol": 0x86DD}, True),
        ({"filter": "arp or icmp"}, False),
        ({"filter": "ether proto 0x88b5"}, False),
        ({"filter": "udp port 53"}, False),
        ({**IPV4, "filter": ICMP_WITHOUT_HEADER, "type": SOCK_DGRAM}, False),
        ({"protocol": 0x88B5}, False),
    ],
)
def test_super_frames_are_a_problem_only_for_a_socket_that_takes_tcp(
    veth: Veth, options: dict[str, Any], suffers: bool
) -> None:
    with RawSocket(veth.a, **options):
        found = offloads(veth.a).only()
    assert found["severity"] == ("problem" if suffers else "note")
    assert len(found["values"]["sockets"]) == suffers


def test_super_frames_are_noted_where_filters_cannot_be_seen(
    veth: Veth,
) -> None:
    with RawSocket(veth.a, filter="arp"):
        found = doctor("offloads", veth.a, prefix=WITHOUT_CAPABILITIES).only()
    assert found["severity"] == "note"
    assert "only root sees" in found["message"]


def test_gro_is_a_problem_for_a_socket_without_vnet_hdr(veth: Veth) -> None:
    without_offloads(veth)
    ethtool(veth.a, ETHTOOL_SGRO, 1)
    with RawSocket(veth.a):
        problem = offloads(veth.a).problem()
        assert f"(GRO is on for {veth.a})" in problem["message"]
        assert problem["remedy"].endswith(f"ethtool -K {veth.a} gro off")
        assert problem["values"]["gro"] is True


def test_super_frames_of_the_interface_below_are_a_problem(
    veth: Veth, make_macvlan: Callable[..., str]
) -> None:
    interface = make_macvlan("bridge")
    with RawSocket(interface):
        problem = offloads(interface).problem()
        assert (
            f"{veth.b}, the far end, has TSO or GSO on" in problem["message"]
        )
        without_offloads(veth)
        assert not offloads(interface).of("problem")


def test_super_frames_of_the_ports_of_a_bridge_are_a_problem(
    veth: Veth,
) -> None:
    ip("link", "add", "name", "br0", "type", "bridge")
    ip("link", "set", "br0", "addrgenmode", "none", "up")
    with RawSocket("br0"):
        assert not offloads("br0").of("problem"), "it has no port yet"
        ip("link", "set", veth.a, "master", "br0")
        problem = offloads("br0").problem()
        assert (
            f"{veth.b}, the far end, has TSO or GSO on" in problem["message"]
        )
    ip("link", "delete", "br0")


def test_super_frames_on_loopback_are_a_problem() -> None:
    with RawSocket("lo"):
        problem = offloads("lo").problem()
    assert "lo, which receives what it sends" in problem["message"]


@pytest.mark.parametrize("vnet_hdr", [True, False])
def test_super_frames_from_a_tap_depend_on_its_header(vnet_hdr: bool) -> None:
    with (
        tun_device("tap", vnet_hdr=vnet_hdr) as (_, interface),
        RawSocket(interface),
    ):
        report = offloads(interface)
        if vnet_hdr:
            assert f"behind {interface}" in report.problem()["message"]
        else:
            assert not report.of("problem")


def test_super_frames_that_this_machine_sends_are_noted(veth: Veth) -> None:
    for command in OFFLOADS:
        ethtool(veth.b, command, 0)
    with RawSocket(veth.a):
        note = offloads(veth.a).only()
    assert note["severity"] == "note"
    assert "ignore_outgoing=True" in note["remedy"]


# Another namespace

NAMED = """
mount -t tmpfs tmpfs /run
$0 netns add other
$0 netns add lab
$0 -n lab link add name lab0 type veth peer name lab1
exec "$@"
"""


def test_interface_of_another_process_is_a_problem_and_the_remedy_works(
    veth: Veth,
) -> None:
    with other_namespace() as pid:
        ip("link", "set", veth.a, "netns", str(pid))
        problem = doctor("interface", veth.a).problem()
        assert f"(pid {pid})" in problem["message"]
        path = f"/proc/{pid}/ns/net"
        call = f'RawSocket("{veth.a}", netns="{path}")'
        assert problem["remedy"].startswith(call)
        RawSocket(veth.a, netns=path, allow_down=True).close()
    doctor("interface", "lo").assert_ok()


def test_interface_of_a_named_namespace_is_a_problem() -> None:
    shell = ["unshare", "--mount", "sh", "-euc", NAMED, tool("ip")]
    problem = doctor("interface", "lab0", prefix=shell).problem()
    assert problem["message"].endswith("but in lab")
    call = 'RawSocket("lab0", netns="lab"'
    assert problem["remedy"].startswith(call)
    code = f"from rawmmsg import RawSocket; {call}, allow_down=True).close()"
    subprocess.run([*shell, sys.executable, "-c", code], check=True)


def test_interface_that_is_nowhere_is_a_problem(veth: Veth) -> None:
    problem = doctor("interface", f"{veth.a}x").problem()
    assert f"there is no interface {veth.a}x" in problem["message"]
    assert problem["remedy"] == f"rawmmsg doctor {veth.a}"
    assert veth.b in problem["values"]["here"]


@pytest.mark.parametrize("name", ["x" * 16, "a:b", "\x1b[2J"])
def test_impossible_name_is_a_problem(name: str) -> None:
    assert doctor("interface", name).problem()["values"]["interface"] == name
