"""Programs on the other side of a bridge's datagram port."""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rawmmsg.testing import Veth
from support import WAIT
from support.bridging import Running, bridging


@dataclass(frozen=True)
class Peer:
    """The program on the other side of a datagram port."""

    port: str
    sock: socket.socket
    pass_fds: tuple[int, ...] = ()

    def receive(self, count: int) -> list[bytes]:
        self.sock.settimeout(WAIT)
        return [self.sock.recv(70_000) for _ in range(count)]


def free_address(family: socket.AddressFamily, host: str) -> int:
    """A UDP port number that is not in use."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


@contextmanager
def unix_peer(directory: Path) -> Iterator[Peer]:
    """A peer that sends to the port without being connected, as QEMU does."""
    local, remote = directory / "local", directory / "remote"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(remote))
        yield Peer(f"unix:{local},{remote}", sock)


@contextmanager
def udp_peer(family: socket.AddressFamily, host: str) -> Iterator[Peer]:
    number = free_address(family, host)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.connect((host, number))
        own = sock.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        yield Peer(f"udp:{shown}:{number},{shown}:{own}", sock)


@contextmanager
def fd_peer(kind: socket.SocketKind) -> Iterator[Peer]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        number = theirs.fileno()
        yield Peer(f"fd:{number}", ours, pass_fds=(number,))


_KINDS: Final[Mapping[str, Callable[[Path], AbstractContextManager[Peer]]]] = {
    "unix": unix_peer,
    "udp4": lambda _: udp_peer(socket.AF_INET, "127.0.0.1"),
    "udp6": lambda _: udp_peer(socket.AF_INET6, "::1"),
    "fd": lambda _: fd_peer(socket.SOCK_DGRAM),
    "seqpacket": lambda _: fd_peer(socket.SOCK_SEQPACKET),
}
PEERS: Final = tuple(_KINDS)


def open_peer(kind: str, directory: Path) -> AbstractContextManager[Peer]:
    """A peer of one of the PEERS. Its paths, if it has any, are in the
    directory."""
    return _KINDS[kind](directory)


@contextmanager
def joined(
    pair: Veth, peer: Peer, *options: str
) -> Iterator[tuple[Running, Callable[[bytes], object]]]:
    """A bridge between the pair and the peer, and a function that sends as the
    peer."""
    with bridging(
        pair.b, peer.port, *options, pass_fds=peer.pass_fds
    ) as bridge:
        yield bridge, sending_as(peer)


def sending_as(peer: Peer) -> Callable[[bytes], object]:
    """A function that sends as the peer while a bridge has its port."""
    if not peer.port.startswith("unix:"):
        return peer.sock.send
    local = peer.port.removeprefix("unix:").split(",")[0]
    return lambda packet: peer.sock.sendto(packet, local)
