"""Ways to forward the frames of an Arena in this process.

Each is called with a stack, which closes what it opens, and an arena, and
returns a function that moves a burst: it has all frames of one when it
returns.
"""

import contextlib
import ctypes
import os
import select
from collections.abc import Callable
from typing import Final, TypeAlias

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.bridge.loop import Bridge
from rawmmsg.bridge.ports import Port, parse_port

from ..framework import GroundTruthError
from ..network.arena import Arena
from ..network.link import PATIENCE
from ..tools import native
from . import forwarders

BATCH: Final = 64

_PCAP_ERRBUF_SIZE: Final = 256

Forward: TypeAlias = Callable[[], object]
Start: TypeAlias = Callable[[contextlib.ExitStack, Arena], Forward]


def in_c(stack: contextlib.ExitStack, arena: Arena) -> Forward:
    """c/forward.c."""
    a, b = _open_sockets(stack, arena)
    return _forward_c(
        stack, arena, a, b, (BATCH, forwarders.PLAIN_FRAME, False)
    )


def in_c_as_the_bridge(stack: contextlib.ExitStack, arena: Arena) -> Forward:
    """The same with the sockets and batches of `rawmmsg bridge`."""
    a, b = (port.sock for port in _open_ports(stack, arena))
    return _forward_c(stack, arena, a, b, (BATCH, SUPER_FRAME, True))


def with_libpcap(stack: contextlib.ExitStack, arena: Arena) -> Forward:
    """c/pcap_forward.c, which opens the ports itself."""
    library = native.library("pcap_forward.c", "pcap")
    library.bridge_open.restype = ctypes.c_void_p
    error = ctypes.create_string_buffer(_PCAP_ERRBUF_SIZE)
    a, b = (name.encode() for name in arena.ports)
    bridge = library.bridge_open(a, b, error)
    if bridge is None:
        raise OSError(error.value.decode())
    return _call_c(stack, arena, library, bridge)


def with_rawmmsg(stack: contextlib.ExitStack, arena: Arena) -> Forward:
    """A loop on the library."""
    a, b = _open_sockets(stack, arena)
    batch = PacketBatch(BATCH)
    ready = select.poll()
    ways = {
        a.fileno(): (a.recvmmsg_into, b.sendmmsg_all),
        b.fileno(): (b.recvmmsg_into, a.sendmmsg_all),
    }
    for descriptor in ways:
        ready.register(descriptor, select.POLLIN)

    def forward() -> None:
        left = arena.frames
        while left > 0:
            for descriptor in _wait(ready):
                receive, send = ways[descriptor]
                left -= receive(batch)
                send(batch)

    return forward


def with_the_bridge(stack: contextlib.ExitStack, arena: Arena) -> Forward:
    """The two directions of `rawmmsg bridge`, called as its loop does."""
    there, back = Bridge(*_open_ports(stack, arena)).directions
    ready = select.poll()
    readers = {}
    for direction in (there, back):
        descriptor = direction.source.sock.fileno()
        readers[descriptor] = direction.forward
        ready.register(descriptor, select.POLLIN)

    def forward() -> None:
        end = there.bytes_received + back.bytes_received + arena.bytes
        while there.bytes_received + back.bytes_received < end:
            for descriptor in _wait(ready):
                if readers[descriptor]():
                    raise GroundTruthError("rawmmsg bridge would wait")

    return forward


def with_the_kernel(stack: contextlib.ExitStack, arena: Arena) -> Forward:
    """The kernel's bridge, which forwards while the frames are sent."""
    stack.enter_context(forwarders.kernel_bridge()(*arena.ports))
    arena.teach()
    return lambda: None


def _wait(ready: select.poll) -> list[int]:
    """Descriptors that have a frame."""
    events = ready.poll(PATIENCE * 1000)
    if not events:
        raise GroundTruthError("no frame has come to the forwarder")
    return [descriptor for descriptor, _ in events]


def _open_sockets(
    stack: contextlib.ExitStack, arena: Arena
) -> list[RawSocket]:
    """Sockets without offload headers."""
    sockets = [
        stack.enter_context(
            RawSocket(name, promisc=True, ignore_outgoing=True)
        )
        for name in arena.ports
    ]
    for sock in sockets:
        sock.setblocking(False)
    return sockets


def _open_ports(
    stack: contextlib.ExitStack, arena: Arena
) -> tuple[Port, Port]:
    """As `rawmmsg bridge` opens them."""
    a, b = (parse_port(name) for name in arena.ports)
    for port in (a, b):
        port.open(None)
        stack.callback(port.close)
    return a, b


def _forward_c(
    stack: contextlib.ExitStack,
    arena: Arena,
    a: RawSocket,
    b: RawSocket,
    batch: tuple[int, int, bool],
) -> Forward:
    """With these sockets, and a batch of so many frames of so many bytes,
    with offload headers or without."""
    library = native.library("forward.c")
    library.bridge_open.restype = ctypes.c_void_p
    library.bridge_open.argtypes = (
        *(ctypes.c_int, ctypes.c_int),
        *(ctypes.c_uint, ctypes.c_size_t, ctypes.c_int),
    )
    bridge = library.bridge_open(a.fileno(), b.fileno(), *batch)
    if bridge is None:
        raise MemoryError
    return _call_c(stack, arena, library, bridge)


def _call_c(
    stack: contextlib.ExitStack,
    arena: Arena,
    library: ctypes.CDLL,
    bridge: int,
) -> Forward:
    library.bridge_close.argtypes = (ctypes.c_void_p,)
    library.bridge_forward.argtypes = (ctypes.c_void_p, ctypes.c_uint)
    stack.callback(library.bridge_close, bridge)
    move, frames = library.bridge_forward, arena.frames

    def forward() -> None:
        moved = move(bridge, frames)
        if moved != frames:
            words = os.strerror(-moved) if moved < 0 else f"{moved} frames"
            raise GroundTruthError(f"a forwarder in C: {words}")

    return forward
