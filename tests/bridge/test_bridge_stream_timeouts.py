"""Stream ports whose TCP peer does not answer: a machine that is gone, and a
virtual machine that is paused."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from support.calls import eventually
from support.frames import numbered
from support.hosts import host
from support.linux import ip

from rawmmsg import PacketBatch
from rawmmsg.bridge.ports import Port, connections, parse_port
from rawmmsg.testing import Veth

_OURS: Final = "198.51.100.2"
_NUMBER: Final = 7777  # of a TCP port in a namespace of its own


@contextmanager
def listening(host: str) -> Iterator[Port]:
    port = parse_port(f"stream:{host}:{_NUMBER},listen")
    port.open(None)
    try:
        yield port
    finally:
        port.close()


def serve(port: Port) -> None:
    """Does what the bridge's loop does until a peer has connected."""

    def has_peer() -> bool:
        for call in list(port.readers.values()):
            call()
        return port.missing() is None

    eventually(has_peer, "the peer never connects")


def frames(count: int) -> PacketBatch:
    batch = PacketBatch(count)
    batch.extend(numbered(i, 1400) for i in range(count))
    return batch


def test_port_gives_up_a_machine_that_is_gone(
    veth: Veth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the next one can connect. A machine that lost its power sends no
    end of the connection."""
    monkeypatch.setattr(connections, "RETRANSMISSIONS", 2)
    ip("address", "add", f"{_OURS}/24", "dev", veth.b)
    with host(veth, 1) as there, listening(_OURS) as port:
        address = (_OURS, _NUMBER)
        with there.call(socket.create_connection, address):
            serve(port)
            assert not port.tend()
            lost = f"{there.address(socket.AF_INET)}/24"
            there.call(ip, "address", "del", lost, "dev", veth.a)
            assert port.sendmmsg(frames(3), 0) == 3
            eventually(port.tend, "the port waits for a machine that is gone")
            assert port.missing() is not None
            there.call(ip, "address", "add", lost, "dev", veth.a)
            with there.call(socket.create_connection, address):
                serve(port)


def test_port_keeps_a_peer_that_is_paused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It acknowledges what is sent to ask whether it has room again."""
    monkeypatch.setattr(connections, "RETRANSMISSIONS", 1)
    batch = frames(64)
    with listening("127.0.0.1") as port:
        with socket.create_connection(("127.0.0.1", _NUMBER)) as peer:
            serve(port)
            with pytest.raises(BlockingIOError):
                while True:
                    port.sendmmsg(batch, 0)
            until = time.monotonic() + 2
            while time.monotonic() < until:
                assert not port.tend()
                time.sleep(0.05)
            assert port.missing() is None
            assert peer.recv(4) == (1400).to_bytes(4, "big")
