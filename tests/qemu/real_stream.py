"""QEMU's netdevs `stream` and `socket`, and passt, at a stream port. Run by
run.py. No guest is needed: QEMU joins the netdev with one of datagrams."""

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from support import WAIT
from support.bridging import Running, bridging, take
from support.calls import eventually
from support.frames import numbered, same_frames
from support.hosts import Host, host
from support.linux import ip

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

_SIZE: Final = 10_000_000
_NUMBER: Final = 7777  # of a TCP port in a namespace of its own


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextlib.contextmanager
def qemu(netdev: str, directory: Path) -> Iterator[socket.socket]:
    """QEMU without a machine. Frames pass between the netdev and the
    socket."""
    ours, theirs = directory / "ours", directory / "theirs"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(ours))
        sock.settimeout(WAIT)
        datagrams = (
            f"dgram,id=d,local.type=unix,local.path={theirs},"
            f"remote.type=unix,remote.path={ours}"
        )
        with running(
            *("qemu-system-x86_64", "-machine", "none", "-nodefaults"),
            *("-display", "none", "-netdev", f"{netdev},id=s"),
            *("-netdev", datagrams),
            *("-netdev", "hubport,hubid=0,id=h,netdev=s"),
            *("-netdev", "hubport,hubid=0,id=i,netdev=d"),
        ):
            eventually(theirs.exists, "QEMU does not start")
            sock.connect(str(theirs))
            yield sock


def connected(bridge: Running, times: int) -> None:
    eventually(
        lambda: bridge.text.count("a peer has connected") == times,
        "the bridge and QEMU do not connect",
    )


@pytest.mark.parametrize(
    ("port", "netdev"),
    [
        (
            "stream:unix:{path},listen",
            "stream,server=off,addr.type=unix,addr.path={path}",
        ),
        (
            "stream:unix:{path}",
            "stream,server=on,addr.type=unix,addr.path={path}",
        ),
        ("stream:127.0.0.1:5555,listen", "socket,connect=127.0.0.1:5555"),
        ("stream:127.0.0.1:5555", "socket,listen=127.0.0.1:5555"),
    ],
)
def test_frames_pass_through_qemu(
    pair: Veth, far: RawSocket, short_path: Path, port: str, netdev: str
) -> None:
    """And QEMU may be restarted."""
    path = short_path / "stream"
    with bridging(pair.b, port.format(path=path)) as bridge:
        for times in (1, 2):
            with qemu(netdev.format(path=path), short_path) as machine:
                connected(bridge, times)
                for i in range(100):
                    packet = numbered(i, 60 + 14 * i)
                    far.send(packet)
                    same_frames([machine.recv(2048)], [packet])
                    machine.send(packet)
                    same_frames(take(far, 1), [packet])
            bridge.says("the peer has disconnected")
            for name in ("ours", "theirs"):
                (short_path / name).unlink(missing_ok=True)
        ab, ba = bridge.end().directions
    assert (ab.sent, ba.sent) == (200, 200)


@contextlib.contextmanager
def uplink(veth: Veth, path: Path) -> Iterator[None]:
    """Runs passt with a default route over the pair."""
    address = ("address", "add", "192.0.2.2/24", "dev", veth.a)
    ip(*address)
    ip("route", "add", "default", "via", "192.0.2.1", "dev", veth.a)
    # It changes to the user nobody.
    path.parent.chmod(0o777)
    with running("passt", "-f", "-4", "-s", str(path)):
        eventually(path.exists, "passt does not start")
        yield


@contextlib.contextmanager
def lab_host(veth: Veth) -> Iterator[Host]:
    """A host that has the address which passt would assign to it."""
    with host(veth, 0) as made:
        made.call(ip, "address", "add", "192.0.2.2/24", "dev", veth.a)
        yield made


def transfer(sender: socket.socket, receiver: socket.socket) -> int:
    """Sends as much as the receiver has room for; returns how much came."""
    receiver.settimeout(WAIT)
    data = memoryview(bytes(_SIZE))
    sender.setblocking(False)
    sent = received = 0
    while received < _SIZE:
        with contextlib.suppress(BlockingIOError):
            if sent < _SIZE:
                sent += sender.send(data[sent:])
        received += len(receiver.recv(1 << 20))
    return received


@pytest.mark.parametrize("upwards", [True, False])
def test_passt_is_an_uplink(
    veth_factory: Callable[[], Veth], short_path: Path, upwards: bool
) -> None:
    """A host behind the bridge reaches a program in passt's namespace: to the
    router's address, passt gives the namespace's loopback."""
    path = short_path / "passt"
    network, link = veth_factory(), veth_factory()
    with (
        uplink(network, path),
        bridging(link.b, f"stream:unix:{path}") as bridge,
        lab_host(link) as inside,
        socket.create_server(("127.0.0.1", _NUMBER)) as listener,
    ):
        bridge.says("a peer has connected")
        listener.settimeout(WAIT)
        client = inside.call(
            socket.create_connection, ("192.0.2.1", _NUMBER), timeout=WAIT
        )
        with client, listener.accept()[0] as server:
            ends = (client, server) if upwards else (server, client)
            assert transfer(*ends) == _SIZE
        assert bridge.end().code == 0
