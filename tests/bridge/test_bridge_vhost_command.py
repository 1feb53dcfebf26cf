"""vhost-user: ports on the command line: their names, paths and options, and
which memory they accept."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
from support import WAIT
from support.bridged_guests import frames_of, guest_and
from support.bridging import Running, bridging, take
from support.frames import numbered, same_frames
from support.front_end import SET_MEM_TABLE, FrontEnd, table
from support.guest_driver import Guest
from support.guest_links import VhostUserLink, connect, guest_at
from support.guest_memory import unsealed_memory

from rawmmsg import RawSocket
from rawmmsg.cli import main
from rawmmsg.testing import Veth


@pytest.fixture
def guest(short_path: Path) -> Path:
    """The path of a port."""
    return short_path / "guest"


# Names and options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vhost-user:"], "not of the form vhost-user:PATH"),
        (["vhost-user:,connect"], "not of the form vhost-user:PATH"),
        (["vhost-user:/a,listen"], "vhost-user:PATH has no option 'listen'"),
        (["vhost-user:/a,connect,"], "not of the form vhost-user:PATH"),
        ([f"vhost-user:/{'a' * 107}"], "the path is too long for a socket"),
        (["vhost-user:/a", "--filter-ba", "nonsense"], "nonsense"),
        (
            ["vhost-user:/a,connect", "--mode", "600"],
            "--mode and --owner need a port whose path the bridge creates",
        ),
        (
            ["vhost-user:/a,connect", "--owner", "0"],
            "--mode and --owner need a port whose path the bridge creates",
        ),
        (
            ["unix:/a,/b", "--trust-memory"],
            "--trust-memory needs a vhost-user: port",
        ),
    ],
)
def test_wrong_argument_is_explained(
    pair: Veth,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert main(["bridge", pair.b, *arguments]) == 2
    text = capfd.readouterr().err
    assert words in text
    assert text.startswith("rawmmsg: ")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("vhost-user:guest", "vhost-user:guest"),
        ("vhost-user:guest", "vhost-user:./guest"),
        ("vhost-user:guest", "vhost-user:guest,connect"),
        ("vhost-user:guest,connect", "vhost-user:link,connect"),
    ],
)
def test_two_guests_must_not_have_the_same_path(
    short_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    a: str,
    b: str,
) -> None:
    monkeypatch.chdir(short_path)
    (short_path / "link").symlink_to("guest")
    assert main(["bridge", a, b]) == 2
    text = capfd.readouterr().err
    assert text == f"rawmmsg: {a} and {b} are the same port\n"
    assert not (short_path / "guest").exists()


def test_quiet_bridge_reports_only_errors(pair: Veth, guest: Path) -> None:
    """It does not tell that a front end has connected."""
    with Running(pair.b, f"vhost-user:{guest}", "--quiet") as bridge:
        with guest_at(guest), connect(guest) as second:
            second.settimeout(WAIT)
            assert second.recv(1) == b""
        outcome = bridge.end()
    assert outcome.code == 0
    assert outcome.text == (
        f"rawmmsg: vhost-user:{guest}: a second connection was refused,"
        " because a front end is connected\n"
    )


@pytest.mark.parametrize("size", [1, 3, 1024])
def test_batch_option_limits_each_system_call(
    pair: Veth, far: RawSocket, guest: Path, size: int
) -> None:
    packets = [numbered(i) for i in range(12)]
    options = ("--batch", str(size))
    with guest_and(pair.b, guest, *options) as (bridge, link):
        link.guest.send_all(packets)
        same_frames(take(far, 12), packets)
        link.finish_sent()
        _, ba = bridge.end().directions
    assert ba.per_call == min(size, 12)


# Paths


def test_path_is_removed_at_the_end(pair: Veth, guest: Path) -> None:
    with bridging(pair.b, f"vhost-user:{guest}") as bridge:
        assert guest.is_socket()
        bridge.end()
        assert not guest.exists()


def test_path_that_belongs_to_another_socket_is_not_removed(
    pair: Veth, guest: Path
) -> None:
    with bridging(pair.b, f"vhost-user:{guest}") as bridge:
        guest.unlink()
        guest.write_text("mine")
        bridge.end()
    assert guest.read_text() == "mine"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_path_of_a_closed_socket_is_replaced(
    pair: Veth, sender: RawSocket, guest: Path, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(str(guest))
    with guest_and(pair.b, guest) as (_, link):
        sender.send(numbered(1))
        same_frames(frames_of(link, 1), [numbered(1)])


@pytest.mark.parametrize("what", ["bound", "listening", "datagram", "file"])
def test_path_in_use_is_an_error(pair: Veth, guest: Path, what: str) -> None:
    port = f"vhost-user:{guest}"
    kind = socket.SOCK_DGRAM if what == "datagram" else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, kind) as sock:
        if what == "file":
            guest.write_text("mine")
        else:
            sock.bind(str(guest))
        if what == "listening":
            sock.listen()
        with Running(pair.b, port) as bridge:
            outcome = bridge.outcome()
    assert outcome.code == 1
    reason = os.strerror(errno.EADDRINUSE)
    assert outcome.text == f"rawmmsg: {port}: {reason}\n"
    assert guest.exists()


@pytest.mark.parametrize("options", [(), ("--mode", "620")])
def test_path_has_the_given_mode(
    pair: Veth, guest: Path, options: tuple[str, ...]
) -> None:
    before = os.umask(0o027)
    try:
        running = Running(pair.b, f"vhost-user:{guest}", *options)
    finally:
        os.umask(before)
    with running:
        running.says("bridging")
        mode = stat.S_IMODE(guest.stat().st_mode)
        assert mode == (0o620 if options else 0o750)
        running.end()


def test_path_has_the_given_owner(pair: Veth, guest: Path) -> None:
    """The group that it has anyway: a plain user may give no other."""
    owner = f"{os.geteuid()}:{os.getegid()}"
    with bridging(pair.b, f"vhost-user:{guest}", "--owner", owner) as bridge:
        found = guest.stat()
        assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
        bridge.end()


# Memory


def test_memory_that_can_shrink_is_refused(
    pair: Veth, sender: RawSocket, guest: Path
) -> None:
    """The message names the remedy. A guest with other memory is served."""
    with bridging(pair.b, f"vhost-user:{guest}") as bridge:
        with connect(guest) as sock, unsealed_memory() as memory:
            front = FrontEnd(sock)
            regions = table(*memory.regions)
            files = [memory.descriptor] * len(memory.regions)
            front.send(SET_MEM_TABLE, regions, files)
            sock.settimeout(WAIT)
            assert sock.recv(1) == b""
        bridge.says(
            f"rawmmsg: vhost-user:{guest}: disconnected: SET_MEM_TABLE: region"
            " 0: the file is not sealed against shrinking, and a program that"
            " shrinks it would end this process; use memory-backend-memfd"
            " (which QEMU seals), or --trust-memory if you trust all programs"
            " that can write to the file\n"
        )
        with guest_at(guest) as link:
            sender.send(numbered(1))
            same_frames(frames_of(link, 1), [numbered(1)])


def test_trusted_memory_may_be_able_to_shrink(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    port = f"vhost-user:{guest}"
    with (
        bridging(pair.b, port, "--trust-memory"),
        unsealed_memory() as memory,
    ):
        card = Guest(memory)
        with VhostUserLink(connect(guest), card) as link:
            card.post([1536] * 10)
            sender.send(numbered(1))
            same_frames(frames_of(link, 1), [numbered(1)])
            card.send(numbered(2))
            same_frames(take(far, 1), [numbered(2)])
