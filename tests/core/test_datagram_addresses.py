"""Addresses of adopted datagram sockets: AF_UNIX, and UDP over IPv4 and
IPv6."""

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import WAIT
from support.frames import (
    LOCAL_EXPERIMENTAL,
    SOURCE,
    numbered,
    receive_batch,
)

from rawmmsg import FOREIGN, PacketBatch, RawSocket
from rawmmsg.testing import Veth

# Addresses of each family


def adopt(sock: socket.socket, **options: Any) -> RawSocket:
    made = RawSocket(fileno=sock.detach(), **options)
    made.settimeout(WAIT)
    return made


def bound(kind: str, folder: Path, name: str) -> tuple[socket.socket, Any]:
    """A bound datagram socket of the given kind, and its address."""
    if kind in ("inet", "inet6"):
        family = socket.AF_INET if kind == "inet" else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1" if kind == "inet" else "::1", 0))
        return sock, sock.getsockname()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address: str | bytes = str(folder / name)
    if kind == "abstract":
        address = f"\0{folder}-{name}\0\xff".encode("latin-1")
    sock.bind(address)
    return sock, address


KINDS = ["path", "abstract", "inet", "inet6"]


@pytest.mark.parametrize("kind", KINDS)
def test_datagrams_are_sent_and_received_with_addresses(
    kind: str, short_path: Path
) -> None:
    one, here = bound(kind, short_path, "one")
    other, there = bound(kind, short_path, "other")
    batch = PacketBatch()
    batch.extend([b"1", b"2"])
    with adopt(one) as ours, adopt(other, addresses=True) as theirs:
        assert ours.sendmmsg(batch, addresses=there) == 2
        assert ours.sendmmsg([b"3", (b"4", b"5")], 1, addresses=there) == 1
        assert ours.sendto(b"6", there) == 1
        receive_batch(theirs, batch, 4)
        assert batch.tolist() == [b"1", b"2", b"45", b"6"]
        assert [batch.address(i) for i in range(4)] == [here] * 4
        assert theirs.sendto(b"back", batch.address(0)) == 4
        assert ours.recvfrom(10) == (b"back", there)
        assert not hasattr(batch, "ifindexes")


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_are_flagged_and_counted(
    kind: str, short_path: Path
) -> None:
    receiver, address = bound(kind, short_path, "receiver")
    friend, peer = bound(kind, short_path, "peer")
    stranger, _ = bound(kind, short_path, "peer2")
    batch = PacketBatch()
    with adopt(receiver, addresses=True) as sock, friend, stranger:
        assert sock.peer is None
        assert sock.strangers == 0
        stranger.sendto(b"before", address)
        receive_batch(sock, batch, 1)
        assert batch.flags[0] == 0
        sock.peer = peer
        assert sock.peer == peer
        for i in range(6):
            (friend, stranger)[i % 2].sendto(bytes([i]), address)
        receive_batch(sock, batch, 6)
        assert list(batch.flags[:6]) == [0, FOREIGN] * 3
        assert sock.strangers == 3
        stranger.sendto(b"recv", address)
        stranger.sendto(b"recv_into", address)
        stranger.sendto(b"recvfrom", address)
        friend.sendto(b"last", address)
        assert sock.recv(10) == b"recv"
        assert sock.recv_into(bytearray(10)) == 9
        assert sock.recvfrom(10)[0] == b"recvfrom"
        assert sock.recv(10) == b"last"
        assert sock.strangers == 6
        sock.peer = None
        assert sock.peer is None
        stranger.sendto(b"after", address)
        receive_batch(sock, batch, 1)
        assert batch.flags[0] == 0
        assert sock.strangers == 6


def test_unbound_sender_has_no_address_and_is_a_stranger(
    short_path: Path,
) -> None:
    receiver, address = bound("path", short_path, "receiver")
    friend, peer = bound("path", short_path, "peer")
    batch = PacketBatch()
    with (
        adopt(receiver, addresses=True) as sock,
        friend,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody,
    ):
        sock.peer = peer
        friend.sendto(b"1", address)
        nobody.sendto(b"2", address)
        friend.sendto(b"3", address)
        nobody.sendto(b"4", address)
        receive_batch(sock, batch, 4)
        assert [batch.address(i) for i in range(4)] == [peer, None] * 2
        assert list(batch.flags[:4]) == [0, FOREIGN] * 2
        nobody.sendto(b"5", address)
        assert sock.recvfrom(10) == (b"5", None)
        assert sock.strangers == 3


@pytest.mark.parametrize("length", [1, 18, 19, 20, 105, 106, 107, 108])
@pytest.mark.parametrize("abstract", [False, True])
def test_unix_paths_of_every_length(
    length: int, abstract: bool, short_path: Path, monkeypatch: Any
) -> None:
    """unix(7) allows a path of 108 bytes without a terminating NUL, for which
    the kernel returns a length of one more."""
    monkeypatch.chdir(short_path)
    if abstract:
        path = (b"\0" + os.urandom(16).hex().encode() * 4)[:length]
        path = path.ljust(length, b"x")
    else:
        path = b"p" * length
    batch = PacketBatch()
    receiver, address = bound("path", short_path, "r")
    friend = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with adopt(receiver, addresses=True) as sock, friend:
        raw = struct.pack(f"H{length}s", socket.AF_UNIX, path)
        bind_raw(friend, raw)
        sock.peer = path
        expected = path if abstract else path.decode()
        assert sock.peer == expected
        friend.sendto(b"hello", address)
        receive_batch(sock, batch, 1)
        assert batch.address(0) == expected
        assert batch.flags[0] == 0
        assert sock.strangers == 0
        sock.sendto(b"back", batch.address(0))
        assert friend.recv(10) == b"back"
        for other in (path + b"x", path[:-1], path[:-1] + b"y"):
            if 1 <= len(other) <= 108:
                sock.peer = other
                friend.sendto(b"again", address)
                receive_batch(sock, batch, 1)
                assert batch.flags[0] == FOREIGN, other


def bind_raw(sock: socket.socket, name: bytes) -> None:
    """bind(2) with exactly these bytes."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.bind(sock.fileno(), name, len(name)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def test_one_batch_works_with_sockets_of_all_families(
    pair: Veth, short_path: Path
) -> None:
    """Each receive allocates the addresses that its socket needs."""
    batch = PacketBatch()
    with contextlib.ExitStack() as stack:
        receivers: list[tuple[RawSocket, partial[int], Any]] = []
        for kind in KINDS:
            receiver, address = bound(kind, short_path, f"r-{kind}")
            friend, name = bound(kind, short_path, f"f-{kind}")
            stack.enter_context(friend)
            sock = stack.enter_context(adopt(receiver, addresses=True))
            send = partial(friend.sendto, b"x", address)
            receivers.append((sock, send, name))
        sender = stack.enter_context(RawSocket(pair.a, protocol=0))
        packet = stack.enter_context(RawSocket(pair.b, addresses=True))
        send = partial(sender.send, numbered(1))
        name = (
            socket.if_nametoindex(pair.b),
            LOCAL_EXPERIMENTAL,
            1,
            1,
            SOURCE,
        )
        receivers.append((packet, send, name))
        receiver, address = bound("inet", short_path, "")
        nameless = stack.enter_context(adopt(receiver))
        for _ in range(2):
            for sock, send, name in receivers:
                send()
                receive_batch(sock, batch, 1)
                assert batch.address(0) == name
                receivers[2][0].sendto(b"x", address)
                receive_batch(nameless, batch, 1)
                with pytest.raises(ValueError, match="holds no addresses"):
                    batch.address(0)


WRONG_FOR: dict[str, dict[str, tuple[Any, type[Exception], str]]] = {
    "path": {
        "None": (None, TypeError, "str or bytes"),
        "True": (True, TypeError, "str or bytes"),
        "tuple": (("/a", 1), TypeError, "str or bytes"),
        "list": (["/a"], TypeError, "str or bytes"),
        "empty": ("", ValueError, "1 to 108 bytes, not 0"),
        "long": ("a" * 109, ValueError, "1 to 108 bytes, not 109"),
        "long abstract": (b"\0" * 109, ValueError, "1 to 108 bytes"),
        "NUL": ("a\0b", ValueError, "null"),
        "surrogate": ("\ud800", UnicodeEncodeError, "surrogate"),
    },
    "inet": {
        "True": (True, TypeError, "must be .host, port."),
        "str": ("127.0.0.1", TypeError, "must be .host, port."),
        "list": (["127.0.0.1", 1], TypeError, "must be .host, port."),
        "sequence": ([("127.0.0.1", 1)], TypeError, "must be .host, port."),
        "three": (("127.0.0.1", 1, 2), TypeError, "must be .host, port."),
        "name": (("localhost", 1), ValueError, "getaddrinfo"),
        "empty": (("", 1), ValueError, "numeric IPv4 address"),
        "NUL": (("127.0.0.1\0", 1), ValueError, "numeric IPv4 address"),
        "digits": (
            ("\u0661.1.1.1", 1),
            ValueError,
            "numeric IPv4 address",
        ),
        "surrogate": (("\ud800", 1), ValueError, "numeric IPv4 address"),
        "IPv6": (("::1", 1), ValueError, "numeric IPv4 address"),
        "short": (("127.1", 1), ValueError, "numeric IPv4 address"),
        "bytes": ((b"127.0.0.1", 1), TypeError, "host must be a str"),
        "port": (("127.0.0.1", 65536), ValueError, "port must be 0 to 65535"),
        "port str": (("127.0.0.1", "1"), TypeError, "port must be an int"),
    },
    "inet6": {
        "five": (("::1", 1, 0, 0, 0), TypeError, "must be .host, port"),
        "IPv4": (("127.0.0.1", 1), ValueError, "not a numeric IPv6 address"),
        "scope": (("fe80::1%lo", 1), ValueError, "not a numeric IPv6 address"),
        "flow": (("::1", 1, 2**20), ValueError, "flowinfo must be 0 to"),
        "scope_id": (("::1", 1, 0, 2**32), ValueError, "scope_id must be"),
    },
}


@pytest.mark.parametrize(
    ("kind", "address", "error", "match"),
    [
        (kind, *case)
        for kind, cases in WRONG_FOR.items()
        for case in cases.values()
    ],
    ids=[
        f"{kind}-{name}" for kind, cases in WRONG_FOR.items() for name in cases
    ],
)
def test_address_of_another_family_is_refused(
    kind: str,
    address: Any,
    error: type[Exception],
    match: str,
    short_path: Path,
) -> None:
    ours, _ = bound(kind, short_path, "ours")
    batch = PacketBatch()
    batch.append(b"x")
    with adopt(ours, addresses=True) as sock:
        with pytest.raises(error, match=match):
            sock.sendto(b"", address)
        if address is not None:
            with pytest.raises(error, match=match):
                sock.sendmmsg([b""], addresses=address)
            with pytest.raises(error, match=match):
                sock.sendmmsg(batch, addresses=address)
            with pytest.raises(error, match=match):
                sock.peer = address
        assert sock.peer is None
        assert sock.statistics().packets_sent == 0


def test_ipv6_address_may_omit_flow_and_scope(short_path: Path) -> None:
    one, here = bound("inet6", short_path, "")
    other, there = bound("inet6", short_path, "")
    with adopt(one) as ours, adopt(other, addresses=True) as theirs:
        theirs.peer = here[:2]
        assert theirs.peer == here
        theirs.peer = (*here[:2], 5)
        ours.sendto(b"1", there[:2])
        ours.sendto(b"2", there[:3])
        ours.sendto(b"3", there)
        for data in (b"1", b"2", b"3"):
            assert theirs.recvfrom(10) == (data, here)
        assert theirs.strangers == 0
        with pytest.raises(ValueError, match="needs its scope_id"):
            theirs.peer = ("fe80::1", 1)
        theirs.peer = ("fe80::1", 1, 0, socket.if_nametoindex("lo"))


def test_peer_needs_an_adopted_socket_with_addresses(
    pair: Veth, short_path: Path
) -> None:
    ours, address = bound("path", short_path, "ours")
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)
    with (
        RawSocket(addresses=True) as packet,
        adopt(ours) as unnamed,
        adopt(netlink) as other,
    ):
        for sock, peer in (
            (packet, (pair.a, 0)),
            (unnamed, address),
            (other, address),
            (unnamed, None),
        ):
            assert sock.peer is None
            with pytest.raises(ValueError, match="adopted with addresses"):
                sock.peer = peer
            assert sock.strangers == 0
        with pytest.raises(TypeError, match="cannot be deleted"):
            del packet.peer
        with pytest.raises(AttributeError):
            packet.strangers = 1  # type: ignore[misc]


def test_other_families_have_no_addresses() -> None:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)
    with pytest.raises(ValueError, match="not on family 16"):
        RawSocket(fileno=netlink.fileno(), addresses=True)
    address: Any = (0, 0)
    with adopt(netlink) as sock:
        attempts: list[Callable[[], object]] = [
            lambda: sock.sendto(b"", address),
            lambda: sock.recvfrom(10),
            lambda: sock.sendmmsg([b""], addresses=address),
        ]
        for attempt in attempts:
            with pytest.raises(ValueError, match="not on family 16"):
                attempt()


def test_peer_may_be_changed_by_another_thread(short_path: Path) -> None:
    """Readers see one of the two names, which differ in every byte, and never
    a mixture."""
    receiver, address = bound("path", short_path, "receiver")
    names = [b"\0" + letter * 100 for letter in (b"a", b"b")]
    rounds = 1000
    failures: list[BaseException] = []

    def work(sock: RawSocket, friend: socket.socket) -> None:
        batch = PacketBatch(1)
        try:
            for _ in range(rounds):
                assert sock.peer in names
                friend.sendto(b"x", address)
                sock.recvmmsg_into(batch)
                assert batch.flags[0] in (0, FOREIGN)
        except BaseException as error:
            failures.append(error)

    with (
        adopt(receiver, addresses=True) as sock,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as friend,
    ):
        friend.bind(names[0])
        sock.peer = names[0]
        thread = threading.Thread(target=work, args=(sock, friend))
        thread.start()
        while thread.is_alive():
            for name in names:
                sock.peer = name
        thread.join()
        assert not failures, failures[0]
        assert 0 <= sock.strangers <= rounds


def test_address_of_a_batch_in_use_is_refused(short_path: Path) -> None:
    """A receive that waits holds the batch, including its addresses."""
    receiver, address = bound("path", short_path, "receiver")
    friend, name = bound("path", short_path, "friend")
    batch = PacketBatch()
    with adopt(receiver, addresses=True) as sock, friend:
        thread = threading.Thread(target=sock.recvmmsg_into, args=(batch,))
        thread.start()
        while True:
            try:
                batch.address(0)
            except IndexError:
                continue  # the call has not started
            except BufferError:
                break
        friend.sendto(b"x", address)
        thread.join()
        assert batch.address(0) == name
