"""Ports that are AF_UNIX sockets: their paths, modes and owners."""

import errno
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.bridging import (
    Running,
    bridging,
    take,
)
from support.frames import numbered, same_frames
from support.peers import joined, unix_peer

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

# Paths


def test_path_is_removed_at_the_end(pair: Veth, short_path: Path) -> None:
    with unix_peer(short_path) as peer, joined(pair, peer) as (bridge, _):
        assert (short_path / "local").is_socket()
        # For a peer that runs as another user.
        (short_path / "local").chmod(0o777)
        bridge.end()
        assert not (short_path / "local").exists()
        assert (short_path / "remote").is_socket()


def test_path_may_have_any_name(
    pair: Veth, sender: RawSocket, far: RawSocket, short_path: Path
) -> None:
    folder = short_path / "a folder: \N{SNOWMAN}=\udcff"
    folder.mkdir()
    with unix_peer(folder) as peer, joined(pair, peer) as (bridge, send):
        send(numbered(1))
        same_frames(take(far, 1), [numbered(1)])
        sender.send(numbered(2))
        same_frames(peer.receive(1), [numbered(2)])
        outcome = bridge.end()
    assert outcome.code == 0
    assert "a folder: " in outcome.text
    assert not (folder / "local").exists()


def test_path_that_belongs_to_another_socket_is_not_removed(
    pair: Veth, short_path: Path
) -> None:
    with unix_peer(short_path) as peer, joined(pair, peer) as (bridge, _):
        os.unlink(short_path / "local")
        (short_path / "local").write_text("mine")
        bridge.end()
    assert (short_path / "local").read_text() == "mine"


def test_path_of_a_closed_socket_is_replaced(
    pair: Veth, far: RawSocket, short_path: Path
) -> None:
    """A program that was killed leaves one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(short_path / "local"))
    with unix_peer(short_path) as peer, joined(pair, peer) as (_, send):
        send(numbered(1))
        same_frames(take(far, 1), [numbered(1)])


@pytest.mark.parametrize("what", ["socket", "connected", "file", "directory"])
def test_path_in_use_is_an_error(
    pair: Veth, short_path: Path, what: str
) -> None:
    local = short_path / "local"
    with ExitStack() as stack:
        if what == "file":
            local.write_text("mine")
        elif what == "directory":
            local.mkdir()
        else:
            sock = stack.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            )
            sock.bind(str(local))
            if what == "connected":
                sock.connect(str(local))
        port = f"unix:{local},{short_path}/remote"
        with Running(pair.b, port) as bridge:
            outcome = bridge.outcome()
    assert outcome.code == 1
    reason = os.strerror(errno.EADDRINUSE)
    assert outcome.text == f"rawmmsg: {port}: {reason}\n"
    assert local.exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("options", [(), ("--mode", "620")])
def test_path_has_the_given_mode(
    pair: Veth, short_path: Path, umask: int, options: tuple[str, ...]
) -> None:
    """By default, the mode depends on the umask."""
    local = short_path / "local"
    before = os.umask(umask)
    try:
        running = Running(
            *(pair.b, f"unix:{local},{short_path}/remote", *options)
        )
    finally:
        os.umask(before)
    with running:
        running.says("bridging")
        mode = stat.S_IMODE(local.stat().st_mode)
        assert mode == (0o620 if options else 0o777 & ~umask)
        running.end()
    assert not local.exists()


@pytest.mark.parametrize(
    ("owner", "user", "group"),
    [
        ("65534", 65534, None),
        ("nobody", 65534, None),
        (":65534", None, 65534),
        ("nobody:65534", 65534, 65534),
    ],
)
def test_path_has_the_given_owner(
    pair: Veth,
    short_path: Path,
    owner: str,
    user: int | None,
    group: int | None,
) -> None:
    local = short_path / "local"
    port = f"unix:{local},{short_path}/remote"
    with Running(pair.b, port, "--owner", owner) as bridge:
        if not can_give_away(short_path, user, group):
            outcome = bridge.outcome()
            assert outcome.code == 1
            assert outcome.text.startswith(f"rawmmsg: {port}: ")
            assert not local.exists()
            return
        bridge.says("bridging")
        found = local.stat()
        assert found.st_uid == (os.geteuid() if user is None else user)
        assert found.st_gid == (os.getegid() if group is None else group)
        bridge.end()


def can_give_away(folder: Path, user: int | None, group: int | None) -> bool:
    """Whether this user may change the owner. A plain user may not, nor may
    root in a user namespace without these ids."""
    path = folder / "given away"
    path.touch()
    try:
        os.chown(
            path,
            -1 if user is None else user,
            -1 if group is None else group,
        )
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mode", "abc"), "'abc' is not an octal mode, such as 660"),
        (("--mode", "888"), "'888' is not an octal mode"),
        (("--mode", "7777"), "'7777' is not an octal mode"),
        (("--owner", "no such"), "this machine has no such user or group"),
        (("--owner", ":"), "this machine has no such user or group"),
    ],
)
def test_wrong_mode_or_owner_is_explained(
    pair: Veth, short_path: Path, options: tuple[str, str], words: str
) -> None:
    port = f"unix:{short_path}/local,{short_path}/remote"
    with Running(pair.b, port, *options) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 2
    assert words in outcome.text


@pytest.mark.parametrize("option", ["--mode=660", "--owner=0"])
def test_mode_and_owner_need_a_path(pair: Veth, option: str) -> None:
    with Running(pair.a, pair.b, option) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 2
    assert outcome.text == (
        "rawmmsg: --mode and --owner need a port whose path the bridge"
        " creates: unix:LOCAL,REMOTE or vhost-user:PATH\n"
    )


def test_bridge_says_that_it_waits_for_a_peer(
    pair: Veth, short_path: Path
) -> None:
    remote = short_path / "remote"
    port = f"unix:{short_path}/local,{remote}"
    with bridging(pair.b, port) as bridge:
        bridge.says(f"nobody has opened {remote}; waiting for it\n")
        with unix_peer(short_path):
            bridge.says(f"rawmmsg: {port} is ready\n")
        remote.unlink()
        bridge.end()
    with unix_peer(short_path) as peer, joined(pair, peer) as (bridge, _):
        assert "waiting" not in bridge.end().text
