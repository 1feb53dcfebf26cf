"""Descriptors that are hard to receive, and to close."""

import os
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Until the block ends, this process can open no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def lingering_socket() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP socket whose close(2) waits until its peer is closed, at most 100
    seconds (SO_LINGER), because the peer has not read all data; and the
    peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    with sock, peer:
        linger = struct.pack("ii", 1, 100)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sock.send(bytes(1 << 16))
        yield sock, peer
