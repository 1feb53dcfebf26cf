"""rawmmsg.testing: private namespaces and veth pairs."""

import errno
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.calls import raises
from support.linux import packet_socket
from support.namespaces import (
    EXHAUSTED,
    REFUSED,
    interfaces,
    namespace,
    python,
)

from rawmmsg import testing
from rawmmsg.testing import Veth, run_in_namespace, veth_pair

FRAME = (
    b"\xff" * 12 + b"\x88\xb5" + bytes(46)
)  # a local experimental EtherType


@pytest.fixture
def second_thread() -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield
    stop.set()
    thread.join()


# The namespace of this test run


def test_run_has_a_namespace_of_its_own() -> None:
    assert testing.in_namespace()
    assert interfaces() == ["lo"]


def test_namespace_is_not_that_of_the_parent() -> None:
    try:
        outer = os.stat(f"/proc/{os.getppid()}/ns/net").st_ino
    except (FileNotFoundError, PermissionError):
        return  # the parent is in another pid or user namespace
    assert namespace() != outer


def test_loopback_is_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"ping", sock.getsockname())
        assert sock.recv(100) == b"ping"


# Entering a namespace


def test_enter_namespace_moves_the_process() -> None:
    done = python(
        """
        import os, socket
        from rawmmsg.testing import enter_namespace, in_namespace
        assert not in_namespace()
        enter_namespace()
        assert in_namespace()
        print(os.stat("/proc/self/ns/net").st_ino, socket.if_nameindex())
        """
    )
    assert done.returncode == 0, done.stderr
    inode, names = done.stdout.split(maxsplit=1)
    assert int(inode) != namespace()
    assert names.strip() == "[(1, 'lo')]"


@pytest.mark.usefixtures("second_thread")
def test_enter_namespace_is_refused_with_two_threads() -> None:
    before = namespace()
    threads = len(os.listdir("/proc/self/task"))
    with pytest.raises(RuntimeError, match=f"{threads} threads"):
        testing.enter_namespace()
    assert namespace() == before


@pytest.mark.parametrize("prefix", [REFUSED, EXHAUSTED])
def test_refused_enter_namespace_names_the_remedy_and_changes_nothing(
    prefix: list[str],
) -> None:
    script = """
        import os
        from rawmmsg.testing import enter_namespace
        def state():
            user, net = (os.stat(f"/proc/self/ns/{n}") for n in ("user","net"))
            return user.st_ino, net.st_ino, os.getuid(), dict(os.environ)
        before = state()
        try:
            enter_namespace()
        except OSError as error:
            assert state() == before
            print(error.errno, error.strerror)
        """
    done = python(script, prefix=prefix)
    assert done.returncode == 0, done.stderr
    number, message = done.stdout.split(maxsplit=1)
    if prefix is EXHAUSTED:
        assert int(number) == errno.ENOSPC
        assert "sysctl -w user.max_net_namespaces" in message
    else:
        assert int(number) == errno.EPERM
        assert "as root" in message


def test_exec_in_namespace_restarts_a_program_with_threads(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    done = python(
        """
        import os, socket, sys, threading
        from rawmmsg.testing import exec_in_namespace
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        with open(sys.argv[1], "a") as log:
            log.write(f"{os.getpid()} {sys.argv[2]}\\n")
        exec_in_namespace()
        print(os.stat("/proc/self/ns/net").st_ino, socket.if_nameindex())
        exec_in_namespace()
        sys.exit(7)
        """,
        str(log),
        "odd 'argument' ü",
    )
    assert done.returncode == 7, done.stderr
    inode, names = done.stdout.split(maxsplit=1)
    assert int(inode) != namespace()
    assert names.strip() == "[(1, 'lo')]"
    first, second = log.read_text().splitlines()
    assert first == second, "the pid and the arguments are kept"


def test_refused_exec_in_namespace_raises_after_the_restart() -> None:
    script = """
        from rawmmsg.testing import exec_in_namespace
        try:
            exec_in_namespace()
        except PermissionError as error:
            print(error.strerror)
        """
    done = python(script, prefix=REFUSED)
    assert done.stdout.startswith("no private network namespace"), done.stderr


# A child in a namespace


@pytest.mark.usefixtures("second_thread")
def test_run_in_namespace_uses_another_namespace() -> None:
    done = run_in_namespace(
        ["stat", "--dereference", "--format=%i", "/proc/self/ns/net"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) != namespace()


@pytest.mark.parametrize("argv", ["true", b"true", [], ()])
def test_run_in_namespace_needs_a_program(argv: Any) -> None:
    with pytest.raises(ValueError, match="argv must be a program and"):
        run_in_namespace(argv)


@pytest.mark.parametrize("option", ["shell", "executable"])
def test_run_in_namespace_runs_nothing_outside(option: str) -> None:
    """`executable` would run in the namespace of the caller."""
    with pytest.raises(ValueError, match=f"no option {option}="):
        run_in_namespace(["true"], **{option: "/bin/sh"})


def test_run_in_namespace_names_the_program_that_takes_too_long() -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run_in_namespace(["sleep", "60"], timeout=0.2)
    assert caught.value.cmd == ["sleep", "60"]


def test_run_in_namespace_returns_the_exit_status() -> None:
    assert run_in_namespace(["sh", "-c", "exit 7"]).returncode == 7
    assert run_in_namespace(["sh", "-c", "kill -9 $$"]).returncode == -9
    command = ["sh", "-c", "exit 3"]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_in_namespace(command, check=True)
    assert caught.value.cmd == command


def test_run_in_namespace_of_a_missing_program_raises() -> None:
    with pytest.raises(FileNotFoundError, match="/no-such-program"):
        run_in_namespace(["/no-such-program"])


def test_refused_run_in_namespace_raises() -> None:
    script = """
        from rawmmsg.testing import run_in_namespace
        try:
            run_in_namespace(["true"])
        except PermissionError as error:
            print(error.strerror)
        """
    done = python(script, prefix=REFUSED)
    assert done.stdout.startswith("no private network namespace"), done.stderr


def test_run_in_namespace_passes_only_the_given_descriptors() -> None:
    with open(os.devnull) as file:
        done = run_in_namespace(
            ["ls", "/proc/self/fd"],
            pass_fds=[file.fileno()],
            capture_output=True,
            text=True,
        )
        opened = {int(number) for number in done.stdout.split()}
        own = max(
            opened - {file.fileno()}
        )  # the descriptor with which ls lists
        assert opened - {own} == {0, 1, 2, file.fileno()}


def test_run_in_namespace_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd")
    run_in_namespace(["true"])
    with pytest.raises(FileNotFoundError):
        run_in_namespace(["/no-such-program"])
    assert os.listdir("/proc/self/fd") == before


# Veth pairs


def test_frames_pass_both_ways(veth: Veth) -> None:
    with packet_socket(veth.a) as a, packet_socket(veth.b) as b:
        a.send(FRAME + b"to b")
        assert b.recv(100) == FRAME + b"to b"
        b.send(FRAME + b"to a")
        assert a.recv(100) == FRAME + b"to a"


def test_first_frame_passes_immediately() -> None:
    for _ in range(20):
        with (
            veth_pair() as veth,
            packet_socket(veth.a) as a,
            packet_socket(veth.b) as b,
        ):
            a.send(FRAME)
            assert b.recv(100) == FRAME


def test_kernel_sends_nothing_of_its_own(veth: Veth) -> None:
    with packet_socket(veth.b) as sock:
        sock.settimeout(1.5)  # duplicate address detection takes a second
        with pytest.raises(TimeoutError):
            sock.recv(2048)


def test_kernel_sends_ipv6_if_asked(
    veth_factory: Callable[..., Veth],
) -> None:
    veth = veth_factory(ipv6=True)
    with packet_socket(veth.b) as sock:
        assert sock.recv(2048)[12:14] == b"\x86\xdd"


def test_link_goes_down_and_comes_back(veth: Veth) -> None:
    with packet_socket(veth.a) as a, packet_socket(veth.b) as b:
        for end in ("b", veth.b, "a", None):
            veth.down(end)
            sender = b if end in ("b", veth.b) else a
            with raises(errno.ENETDOWN):
                sender.send(FRAME)
            veth.up(end)
            for sock in (a, b):  # the ENETDOWN that each of them has pending
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            a.send(FRAME)
            assert b.recv(100) == FRAME


def test_pair_can_be_made_down() -> None:
    with veth_pair(up=False) as veth:
        veth.up("a")  # returns although there is no carrier yet
        veth.up("b")
        with packet_socket(veth.a) as a, packet_socket(veth.b) as b:
            a.send(FRAME)
            assert b.recv(100) == FRAME


def test_names_and_mtu_can_be_given() -> None:
    with veth_pair("left", "right-15-bytes_", mtu=9000) as veth:
        assert (veth.a, veth.b) == ("left", "right-15-bytes_")
        with packet_socket(veth.a) as a, packet_socket(veth.b) as b:
            a.send(bytes(9014))
            assert len(b.recv(10000)) == 9014


@pytest.mark.parametrize(
    "name", ["a" * 16, "a b", "a/b", "a\nb", "ü" * 8, "a%d", "a#b"]
)
def test_bad_name_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        veth_pair(name)
    assert interfaces() == ["lo"]


@pytest.mark.parametrize("name", ["up", "dev", "type", "-x"])
def test_name_that_is_a_word_of_ip_is_a_name(name: str) -> None:
    with veth_pair(name) as veth:
        veth.down("a")
        veth.up("a")
    assert interfaces() == ["lo"]


def test_name_in_use_is_an_error(veth: Veth) -> None:
    before = interfaces()
    with pytest.raises(RuntimeError, match="exists"):
        veth_pair(veth.a)
    assert interfaces() == before


def test_names_are_unique_among_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        pairs = list(pool.map(lambda _: veth_pair(up=False), range(20)))
    try:
        names = {name for pair in pairs for name in (pair.a, pair.b)}
        assert len(names) == 40
        assert names < set(interfaces())
    finally:
        for pair in pairs:
            pair.delete()


def test_unknown_end_is_a_value_error(veth: Veth) -> None:
    with pytest.raises(ValueError, match="'c'"):
        veth.down("c")


def test_nothing_remains_after_the_block() -> None:
    with veth_pair() as veth:
        assert set(interfaces()) == {"lo", veth.a, veth.b}
    assert interfaces() == ["lo"]
    with pytest.raises(ZeroDivisionError), veth_pair():
        _ = 1 / 0
    assert interfaces() == ["lo"]


def test_deleting_twice_does_nothing(veth: Veth) -> None:
    veth.delete()
    assert interfaces() == ["lo"]
    veth.delete()


def test_pair_is_refused_outside_a_private_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAWMMSG_NAMESPACE")
    with pytest.raises(RuntimeError, match="enter_namespace"):
        veth_pair()
    assert interfaces() == ["lo"]


def test_missing_ip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(FileNotFoundError, match="install iproute2"):
        veth_pair()
