"""The ports of a switch on its command line."""

import pytest

from rawmmsg.bridge.ports import (
    GuestOptions,
    Interface,
    PortError,
    StreamPort,
    UnixSocket,
    VhostUser,
)
from rawmmsg.bridge.switching.members import PortRules
from rawmmsg.bridge.switching.specs import PortSpec, parse_port
from rawmmsg.bridge.switching.vlans import Vlans


def parse(*texts: str) -> list[PortSpec]:
    specs: dict[str, PortSpec] = {}
    numbers: dict[str, int] = {}
    for text in texts:
        spec = parse_port(text, GuestOptions(), numbers, specs)
        specs[spec.name] = spec
    return list(specs.values())


def rules(text: str) -> PortRules:
    return parse(text)[0].rules


def test_a_bare_word_is_an_interface_without_options() -> None:
    (port,) = parse("eth0")
    assert (port.name, port.waits) == ("eth0", False)
    assert port.rules == PortRules()
    made = port.make()
    assert isinstance(made, Interface)
    assert made.interface == "eth0"


def test_other_ports_are_named_after_their_kind() -> None:
    ports = parse(
        "fd:3", "unix:a,b", "vhost-user:c", "unix:d,e", "fd:4,name=uplink"
    )
    names = [port.name for port in ports]
    assert names == ["fd1", "unix1", "vhost-user1", "unix2", "uplink"]


def test_a_comma_in_a_field_or_a_value_is_written_twice() -> None:
    made = parse("unix:a,,b,c,,,,d,name=x,,y")[0].make()
    assert isinstance(made, UnixSocket)
    assert (made.name, made.remote) == ("x,y", "c,,d")
    made = parse("interface:eth0,,1,netns=a,,b,wait")[0].make()
    assert isinstance(made, Interface)
    assert (made.interface, made.netns) == ("eth0,1", "a,b")


def test_a_stream_connects_or_listens() -> None:
    ports = parse(
        "stream:unix:/run/a,,b",
        "stream:[::1]:80,listen",
        "stream:host:8080,name=uplink",
    )
    assert [port.name for port in ports] == ["stream1", "stream2", "uplink"]
    made = [port.make() for port in ports]
    assert all(isinstance(one, StreamPort) for one in made)
    found = [
        (one.address, one.listens)
        for one in made
        if isinstance(one, StreamPort)
    ]
    assert found == [
        ("/run/a,b", False),
        (("::1", 80), True),
        (("host", 8080), False),
    ]


def test_a_field_may_look_like_an_option() -> None:
    made = parse("vhost-user:name=x,connect")[0].make()
    assert isinstance(made, VhostUser)
    assert (made.path, made.connects) == ("name=x", True)


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
        ("", "the name of a port must not be empty"),
        ("eth0,access=5", "is written interface:eth0,access=5"),
        ("tun:x", "unknown kind of port 'tun'; the kinds are fd, interface"),
        ("unix:a", r"not of the form unix:LOCAL,REMOTE\[,OPTION\]"),
        ("unix:a,", "not of the form unix:LOCAL,REMOTE"),
        ("fd:x", "must be a descriptor number"),
        ("udp:a:1,b", "not of the form udp:HOST:PORT,HOST:PORT"),
        ("fd:3,wait", "unknown option 'wait'; the options of fd: ports are"),
        ("fd:3,", "unknown option ''"),
        ("fd:3,isolated=1", "the option isolated takes no value"),
        ("fd:3,access", "the option access needs a value: access=VLAN"),
        ("fd:3,access=1,access=2", "the option access is given twice"),
        ("fd:3,access=0", "'0' is not the number of a VLAN"),
        ("fd:3,access=4095", "'4095' is not the number of a VLAN"),
        ("fd:3,trunk=5+", "'' is not the number of a VLAN"),
        ("fd:3,access=5,native=6", "an access port has no trunk= and no"),
        ("fd:3,queue=0", "queue must be a number from 1 to 65,536"),
        ("fd:3,flood=x", "flood must be a number from 1"),
        ("unix:a,b,mode=9", "'9' is not an octal mode"),
        ("vhost-user:a,connect,mode=660", "with connect it creates none"),
        ("stream:a", "not of the form stream:unix:PATH or stream:HOST:PORT"),
        ("stream:unix:", "not of the form stream:unix:PATH"),
        ("stream:unix:a,mode=660", "creates: stream:unix:PATH,listen"),
        ("stream:a:1,listen,owner=root", "creates: stream:unix:PATH,listen"),
    ],
)
def test_wrong_descriptions_are_explained(text: str, message: str) -> None:
    with pytest.raises(PortError, match=message):
        parse(text)


def test_two_ports_of_the_same_name_are_refused() -> None:
    with pytest.raises(PortError, match="two ports have the name eth0"):
        parse("eth0", "fd:3,name=eth0")
