"""The ports of a switch on its command line."""

import pytest

from rawmmsg.bridge.ports import GuestOptions, Port, PortError, VhostUser
from rawmmsg.bridge.switching.members import PortRules
from rawmmsg.bridge.switching.specs import parse_spec
from rawmmsg.bridge.switching.vlans import Vlans


def parse(*texts: str) -> list[Port]:
    ports: list[Port] = []
    numbers: dict[str, int] = {}
    for text in texts:
        names = [port.name for port in ports]
        ports.append(parse_spec(text, GuestOptions(), numbers, names)[0])
    return ports


def rules(text: str) -> PortRules:
    return parse_spec(text, GuestOptions(), {}, ())[1]


def test_a_bare_word_is_an_interface_without_options() -> None:
    (port,) = parse("eth0")
    assert (port.name, port.is_interface) == ("eth0", True)
    assert rules("eth0") == PortRules()


def test_other_ports_are_named_after_their_kind() -> None:
    ports = parse(
        "fd:3",
        "unix:a,b",
        "vhost-user:c",
        "unix:d,e",
        "tap:tap7",
        "stream:host:80",
        "fd:4,name=uplink",
    )
    names = [port.name for port in ports]
    assert names == [
        "fd1",
        "unix1",
        "vhost-user1",
        "unix2",
        "tap7",
        "stream1",
        "uplink",
    ]


def test_options_of_the_kind_and_of_the_switch_may_be_mixed() -> None:
    text = "vhost-user:a,,b,access=5,connect,isolated"
    (port,) = parse(text)
    assert isinstance(port, VhostUser)
    assert (port.path, port.connects) == ("a,b", True)
    assert rules(text) == PortRules(Vlans.access(5), is_isolated=True)


@pytest.mark.parametrize(
    ("options", "vlans"),
    [
        ("", Vlans(1, None)),
        (",access=5", Vlans(5, frozenset())),
        (",native=7", Vlans(7, None)),
        (",trunk=5+6", Vlans(None, frozenset({5, 6}))),
        (",trunk=5+6,native=7", Vlans(7, frozenset({5, 6}))),
    ],
)
def test_options_choose_the_vlans(options: str, vlans: Vlans) -> None:
    assert rules(f"interface:eth0{options}").vlans == vlans


def test_options_limit_a_port() -> None:
    assert rules("fd:3,isolated,flood=100,queue=8,plain") == PortRules(
        is_isolated=True, flood=100, queue=8, is_plain=True
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interface:eth0,acces=5", "has no option 'acces'; its options are"),
        ("fd:3,isolated=1", "the option isolated takes no value"),
        ("fd:3,access", "write access=VLAN"),
        ("fd:3,access=1,access=2", "the option access is given twice"),
        ("fd:3,access=0", "'0' is not the number of a VLAN"),
        ("fd:3,access=4095", "'4095' is not the number of a VLAN"),
        ("fd:3,trunk=5+", "'' is not the number of a VLAN"),
        ("fd:3,access=5,native=6", "an access port has no trunk= and no"),
        ("fd:3,queue=0", "queue must be a number from 1 to 65,536"),
        ("fd:3,flood=x", "flood must be a number from 1"),
    ],
)
def test_wrong_descriptions_are_explained(text: str, message: str) -> None:
    with pytest.raises(PortError, match=message):
        parse(text)


def test_two_ports_of_the_same_name_are_refused() -> None:
    with pytest.raises(PortError, match="two ports have the name eth0"):
        parse("eth0", "fd:3,name=eth0")
