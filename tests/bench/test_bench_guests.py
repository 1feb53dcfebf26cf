"""The program that the guests of bench/guests run finds what TCP between them
lost or changed."""

import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest
from support import WAIT
from support.child import tool

from bench.guests.machines import BLOCK
from bench.lab import native

COUNT: Final = 17  # the first and the last block are compared as a whole


def unchanged(data: bytearray) -> None:
    """All is as it was sent."""


def change(at: int) -> Callable[[bytearray], None]:
    def change_byte(data: bytearray) -> None:
        data[at] ^= 1

    return change_byte


def swap_blocks(data: bytearray) -> None:
    first, second = data[BLOCK : 2 * BLOCK], data[2 * BLOCK : 3 * BLOCK]
    data[BLOCK : 3 * BLOCK] = second + first


def shorten(data: bytearray) -> None:
    del data[-1:]


def lengthen(data: bytearray) -> None:
    data.append(0)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (unchanged, ""),
        (change(BLOCK - 1), "block 0 is not what was sent"),
        (change(COUNT * BLOCK - 1), "block 16 is not what was sent"),
        (swap_blocks, "block 1 is not what was sent"),
        (shorten, f"block 16 has {BLOCK - 1} bytes"),
        (lengthen, "more was received than was sent"),
    ],
    ids=["unchanged", "first", "last", "order", "short", "long"],
)
def test_receiver_finds_what_is_wrong(
    damage: Callable[[bytearray], None], complaint: str
) -> None:
    tool("gcc")
    data = sent()
    assert len(data) == COUNT * BLOCK
    damage(data)
    port = free_port()
    with receiving(port) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        with (
            socket.create_connection(("127.0.0.1", port), WAIT) as sock,
            suppress(ConnectionError),  # it ends at the first wrong block
        ):
            sock.sendall(data)
        _, words = receiver.communicate(timeout=WAIT)
    assert receiver.returncode == bool(complaint), words
    assert complaint in words


def sent() -> bytearray:
    """What the sender sends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT)
        port = str(server.getsockname()[1])
        command = [program(), "send", "127.0.0.1", port, str(COUNT)]
        with native.start(command) as sender:
            sock, _ = server.accept()
            with sock:
                sock.settimeout(WAIT)
                parts = iter(lambda: sock.recv(BLOCK), b"")
                data = bytearray().join(parts)
            assert sender.wait(WAIT) == 0
    return data


def receiving(port: int) -> "subprocess.Popen[str]":
    return native.start([program(), "receive", str(port), str(COUNT)])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def program() -> str:
    return str(native.program("guests/tcp.c"))
