"""Names of ports: fields, options, and what is said about wrong ones."""

import errno
import os
import re
import socket
import stat
from pathlib import Path

import pytest
from support.bridging import Running, bridging, take
from support.frames import numbered, same_frames
from support.hosts import host
from support.linux import ip
from support.peers import free_address

from rawmmsg import RawSocket
from rawmmsg.bridge.ports import PortError, VhostUser, parse_port
from rawmmsg.testing import Veth

# Wrong options

_ACCESS = "mode=OCTAL, name=NAME, owner=USER[:GROUP]"
_SPIN = "spin=MICROSECONDS"


@pytest.mark.no_network
@pytest.mark.parametrize(
    ("port", "words"),
    [
        (
            "unix:/a,/b,colour=red",
            "unix:LOCAL,REMOTE has no option 'colour'; its options are"
            f" {_ACCESS}, {_SPIN}",
        ),
        (
            "vhost-user:/a,listen",
            "vhost-user:PATH has no option 'listen'; its options are connect,"
            f" {_ACCESS}, {_SPIN}, trust-memory",
        ),
        (
            "interface:eth0,mode=600",
            "interface:NAME has no option 'mode'; its options are name=NAME,"
            f" netns=NAME, {_SPIN}, wait",
        ),
        (
            "udp::5,:6,netns=a",
            "udp:HOST:PORT,HOST:PORT has no option 'netns'; its options are"
            f" name=NAME, {_SPIN}",
        ),
        ("fd:3,spin=x", "'x' is not a number of microseconds from 0 to"),
        ("fd:3,spin=1000001", "is not a number of microseconds from 0 to"),
        ("fd:3,mode=600", "fd:N has no option 'mode'"),
        ("fd:3,", "not of the form fd:N[,OPTION]..."),
        ("fd:3,,name=a", "the N of fd:N must be a descriptor number"),
        ("unix:/a,/b,,name=c,", "not of the form unix:LOCAL,REMOTE[,OPTION]"),
        ("unix:/a,/b,name", "write name=NAME"),
        ("unix:/a,/b,name=", "write name=NAME"),
        ("unix:/a,/b,mode=888", "'888' is not an octal mode, such as 660"),
        ("unix:/a,/b,owner=no-such", "'no-such': this machine has no such"),
        ("unix:/a,/b,name=c,name=c", "the option name is given twice"),
        ("vhost-user:/a,connect=1", "the option connect takes no value"),
        ("vhost-user:/a,mode=600,connect", "no use of mode=: the virtual"),
        ("vhost-user:/a,connect,owner=0", "no use of owner=: the virtual"),
        ("interface:", "not of the form interface:NAME"),
        ("tap:a,mode=600", "its options are name=NAME, owner=USER[:GROUP]"),
        ("tap:a,owner=no-such", "'no-such': this machine has no such"),
        ("stream:unix:", "not of the form stream:unix:PATH or stream:HOST"),
        ("stream:host", "not of the form stream:unix:PATH or stream:HOST"),
        ("stream:::1:5", "not of the form stream:unix:PATH or stream:HOST"),
        (
            "stream:unix:/a,reconnect=5",
            "stream:unix:PATH|HOST:PORT has no option 'reconnect'; its options"
            f" are listen, {_ACCESS}",
        ),
        ("stream:unix:/a,mode=600", "no use of mode=: the peer creates"),
        ("stream::5,listen,mode=600", "no use of mode=: a TCP port has no"),
        (
            "eth0,netns=laboratory",
            "an interface with options is written"
            " interface:eth0,netns=laboratory",
        ),
        (
            "nosuch:a",
            "not an interface, unix:LOCAL,REMOTE, vhost-user:PATH,"
            " stream:unix:PATH|HOST:PORT, udp:HOST:PORT,HOST:PORT,"
            " interface:NAME, tap:NAME or fd:N",
        ),
    ],
)
def test_wrong_name_is_explained(port: str, words: str) -> None:
    with pytest.raises(PortError, match=re.escape(words)) as raised:
        parse_port(port)
    assert str(raised.value).startswith(f"{port!r}: ")


# Names


@pytest.mark.no_network
@pytest.mark.parametrize(
    ("port", "name"),
    [
        ("eth0", "eth0"),
        ("a,b=c", "a,b=c"),  # the kernel allows it
        ("interface:eth0,netns=lab", "eth0"),
        ("interface:a,,b", "a,b"),
        ("interface:eth0,name=up", "up"),
        ("tap:vm0", "vm0"),
        ("fd:3", "fd:3"),
        ("fd:3,name=a,,b=c", "a,b=c"),
        ("unix:/a,/b", "unix:/a,/b"),
        ("unix:/a,/b,name=vm", "vm"),
        ("vhost-user:/a,connect", "vhost-user:/a,connect"),
        ("udp::5,[::1]:6,name=far", "far"),
    ],
)
def test_port_has_the_name_that_it_is_given(port: str, name: str) -> None:
    assert parse_port(port).name == name


def test_name_of_a_port_is_used_in_messages(
    pair: Veth, short_path: Path
) -> None:
    port = f"unix:{short_path}/local,{short_path}/remote,name=vm"
    with bridging(f"interface:{pair.b},name=uplink", port) as bridge:
        outcome = bridge.end()
    assert "rawmmsg: bridging uplink and vm\n" in outcome.text
    assert [one.name for one in outcome.directions] == [
        "uplink > vm",
        "vm > uplink",
    ]


def test_two_ports_must_not_have_the_same_name(
    pair: Veth, short_path: Path
) -> None:
    port = f"unix:{short_path}/local,{short_path}/remote,name={pair.b}"
    with Running(pair.b, port) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 2
    assert outcome.text == (
        f"rawmmsg: both ports have the name {pair.b}; name one of them with"
        " the option name=NAME\n"
    )
    assert not (short_path / "local").exists()


# What the fields and options do


def test_comma_in_a_path_is_written_twice(
    pair: Veth, sender: RawSocket, far: RawSocket, short_path: Path
) -> None:
    local, remote = str(short_path / "a,b"), str(short_path / ",c,,")
    port = f"unix:{local.replace(',', ',,')},{remote.replace(',', ',,')}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(remote)
        with bridging(pair.b, port):
            peer.sendto(numbered(1), local)
            same_frames(take(far, 1), [numbered(1)])
            sender.send(numbered(2))
            same_frames([peer.recv(2048)], [numbered(2)])


def test_options_of_a_port_take_precedence(
    pair: Veth, short_path: Path
) -> None:
    """Over those of the command, which hold for all ports."""
    one, other = short_path / "one", short_path / "other"
    ports = (f"unix:{one},{short_path}/peer,mode=640", f"vhost-user:{other}")
    with bridging(*ports, "--mode", "600") as bridge:
        assert stat.S_IMODE(one.stat().st_mode) == 0o640
        assert stat.S_IMODE(other.stat().st_mode) == 0o600
        bridge.end()


def test_port_has_an_owner(pair: Veth, short_path: Path) -> None:
    path = short_path / "guest"
    port = f"vhost-user:{path},owner={os.getuid()}:{os.getgid()},mode=606"
    with bridging(pair.b, port):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
        assert stat.S_IMODE(found.st_mode) == 0o606


@pytest.mark.no_network
@pytest.mark.parametrize("word", ["", ",trust-memory"])
def test_memory_is_trusted_port_by_port(word: str) -> None:
    port = parse_port(f"vhost-user:/a{word}")
    assert isinstance(port, VhostUser)
    assert port.trusts_memory is bool(word)


@pytest.mark.no_network
def test_a_port_spins_for_microseconds() -> None:
    assert parse_port("fd:3,spin=50").spin == 50e-6
    assert parse_port("fd:3").spin == 0


def test_udp_port_has_options(pair: Veth) -> None:
    numbers = [free_address(socket.AF_INET6, "::1") for _ in range(2)]
    local, remote = (f"[::1]:{number}" for number in numbers)
    with bridging(pair.b, f"udp:{local},{remote},name=far") as bridge:
        assert "bridging" in bridge.end().text


# Interfaces of other network namespaces


def test_interface_of_another_namespace_is_a_port(
    pair: Veth, veth: Veth, sender: RawSocket, far: RawSocket
) -> None:
    with host(veth, 1) as elsewhere:
        elsewhere.call(ip, *"link add end type veth peer name other".split())
        for name in ("end", "other"):
            elsewhere.call(ip, "link", "set", name, "up")
        netns = f"/proc/{elsewhere.pid}/ns/net"
        port = f"interface:other,netns={netns}"
        with (
            RawSocket("end", netns=netns, ignore_outgoing=True) as end,
            bridging(pair.b, port) as bridge,
        ):
            sender.send(numbered(1))
            while numbered(1) not in take(end, 1):
                pass  # IPv6 sends packets of its own
            end.send(numbered(2))
            while numbered(2) not in take(far, 1):
                pass
            assert bridge.end().directions[0].name == f"{pair.b} > other"


def test_namespace_that_is_missing_is_explained(pair: Veth) -> None:
    port = "interface:eth0,netns=no-such-namespace"
    with Running(pair.b, port) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 1
    assert "no-such-namespace" in outcome.text
    assert os.strerror(errno.ENOENT) in outcome.text
