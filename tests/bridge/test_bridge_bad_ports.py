"""Invalid ports, and ports that cannot be opened: each error is explained."""

import errno
import os
import re
import select
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support import WAIT
from support.bridging import (
    Running,
    bridging,
    take,
)
from support.child import WITHOUT_CAPABILITIES
from support.frames import numbered, same_frames
from support.hosts import host
from support.linux import ip
from support.peers import fd_peer

from rawmmsg import RawSocket
from rawmmsg.cli import main
from rawmmsg.testing import Veth

# Errors when starting


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("", "the name of a port must not be empty"),
        ("unix:/a", "unix:LOCAL,REMOTE"),
        ("unix:/a,", "unix:LOCAL,REMOTE"),
        ("unix:/a,/b,/c", "unix:LOCAL,REMOTE"),
        ("udp:1.2.3.4:5", "udp:HOST:PORT,HOST:PORT"),
        ("udp:1.2.3.4,5.6.7.8", "udp:HOST:PORT,HOST:PORT"),
        ("udp:1.2.3.4:70000,5.6.7.8:1", "udp:HOST:PORT,HOST:PORT"),
        ("udp:127.0.0.1:5,127.0.0.1:0", "udp:HOST:PORT,HOST:PORT"),
        ("udp:::1:5,::1:6", "udp:HOST:PORT,HOST:PORT"),
        ("udp:127.0.0.1:5,[::1]:5", "one address is IPv4"),
        ("udp:a..b:5,127.0.0.1:5", "'a..b': not a valid host name"),
        (f"udp:127.0.0.1:5,{'a' * 64}:5", "not a valid host name"),
        ("udp:127.0.0.1:5,127.0.0.1:5", "both addresses are the same"),
        ("fd:", "fd:N"),
        ("fd:-1", "fd:N"),
        ("fd:one", "fd:N"),
        ("fd:99999999999", "fd:N"),
        (f"fd:{'9' * 5000}", "fd:N"),
        ("tcp:1.2.3.4:5", "not an interface, unix:LOCAL,REMOTE"),
        ("lo", "not an Ethernet interface"),
        ("interface-with-a-long-name", "interface must be a name"),
        (f"unix:/{'a' * 200},/b", "too long"),
        (f"unix:/a,/{'b' * 107}", "too long"),
    ],
)
def test_bad_port_is_explained(
    pair: Veth, capfd: pytest.CaptureFixture[str], port: str, words: str
) -> None:
    assert main(["bridge", pair.b, port]) == 2
    text = capfd.readouterr().err
    assert words in text
    assert text.startswith("rawmmsg: ")


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("nosuch0", "nosuch0: .*No such device"),
        ("fd:987", "fd:987: Bad file descriptor"),
        ("fd:0", f"fd:0: {os.strerror(errno.ENOTSOCK)}"),
        ("udp:192.0.2.1:5,192.0.2.2:5", os.strerror(errno.EADDRNOTAVAIL)),
        ("udp:no.such.invalid:5,127.0.0.1:5", "udp:no.such"),
        ("unix:/no/such/directory,/b", "No such file or directory"),
    ],
)
def test_port_that_cannot_be_opened_is_explained(
    pair: Veth, capfd: pytest.CaptureFixture[str], port: str, words: str
) -> None:
    assert main(["bridge", pair.b, port]) == 1
    text = capfd.readouterr().err
    assert text.count("\n") == 1
    assert re.search(words, text)


@pytest.mark.parametrize("remote", ["same", "./same", "link"])
def test_path_is_not_its_own_peer(
    pair: Veth, short_path: Path, remote: str
) -> None:
    (short_path / "link").symlink_to("same")
    local = short_path / "same"
    with Running(pair.b, f"unix:{local},{short_path}/{remote}") as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 2
    assert outcome.text.endswith("both paths are the same\n")
    assert not local.exists()


@pytest.mark.parametrize("kind", ["names", "sockets", "duplicates", "both"])
def test_two_ports_must_not_be_the_same(pair: Veth, kind: str) -> None:
    with ExitStack() as stack:
        plain = stack.enter_context(
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        )
        plain.bind((pair.b, 3))
        peer = stack.enter_context(fd_peer(socket.SOCK_DGRAM))
        duplicate = stack.enter_context(
            socket.socket(fileno=os.dup(peer.pass_fds[0]))
        )
        numbers = (*peer.pass_fds, plain.fileno(), duplicate.fileno())
        ports = {
            "names": (pair.b, pair.b),
            "sockets": (peer.port, peer.port),
            "duplicates": (peer.port, f"fd:{duplicate.fileno()}"),
            "both": (pair.b, f"fd:{plain.fileno()}"),
        }[kind]
        with Running(*ports, pass_fds=numbers) as bridge:
            outcome = bridge.outcome()
    assert outcome.code == 2
    assert outcome.text.endswith("are the same port\n")


def test_interfaces_of_the_same_index_in_two_namespaces_differ(
    pair: Veth, veth: Veth, sender: RawSocket
) -> None:
    """Every namespace numbers its interfaces from 1."""
    number = socket.if_nametoindex(pair.b)
    with host(veth, 1) as elsewhere:
        # Delete the end first, or the kernel gives it the free index.
        add = (
            f"link add other index {number} type veth"
            f" peer name end index {number + 1_000}"
        )
        for line in (add, "link set other up", "link set end up"):
            elsewhere.call(ip, *line.split())
        plain = elsewhere.call(
            socket.socket, socket.AF_PACKET, socket.SOCK_RAW
        )
        with (
            plain,
            RawSocket("end", netns=f"/proc/{elsewhere.pid}/ns/net") as end,
        ):
            plain.bind(("other", 3))
            descriptor = plain.fileno()
            with bridging(pair.b, f"fd:{descriptor}", pass_fds=(descriptor,)):
                sender.send(numbered(1))
                while numbered(1) not in take(end, 1):
                    pass  # IPv6 sends packets of its own


@pytest.mark.parametrize("how", ["close", "unread", "empty"])
def test_bridge_ends_when_a_seqpacket_peer_closes(
    pair: Veth, sender: RawSocket, far: RawSocket, how: str
) -> None:
    """It gives the reason, after everything that the peer had sent has
    passed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        number = theirs.fileno()
        port = f"fd:{number}"
        with bridging(pair.b, port, pass_fds=(number,)) as bridge:
            theirs.close()
            if how == "unread":
                sender.send(numbered(9))
                assert select.select([ours], [], [], WAIT)[0]
            for i in range(5):
                ours.send(numbered(i))
            if how == "empty":
                ours.send(b"")
                with suppress(BrokenPipeError):  # the bridge may have ended
                    ours.send(numbered(5))
            else:
                ours.close()
            outcome = bridge.outcome()
    same_frames(take(far, 5), map(numbered, range(5)))
    assert outcome.code == 1
    assert f"rawmmsg: {port}: the peer has closed\n" in outcome.text
    _, ba = outcome.directions
    assert (ba.received, ba.sent) == (5, 5)


def test_missing_capability_is_explained(pair: Veth) -> None:
    """The error names what is missing and how to get it, as in the library."""
    with Running(pair.b, pair.a, prefix=WITHOUT_CAPABILITIES) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 1
    assert "Operation not permitted" in outcome.text
    assert "setcap cap_net_raw" in outcome.text
