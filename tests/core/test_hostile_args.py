"""Arguments that run code, or change, while a call uses them."""

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.calls import packets_sent, raises
from support.frames import datagram_pair
from support.linux import same_descriptors

from rawmmsg import PacketBatch, RawSocket

# Objects that misbehave


class Hostile:
    """An object that runs code of the caller wherever it can."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __index__(self) -> int:
        self.action()
        return 1

    def __len__(self) -> int:
        self.action()
        return 2

    def __getitem__(self, index: int) -> bytes:
        self.action()
        return b"packet"

    def __buffer__(self, flags: int) -> memoryview:
        self.action()
        return memoryview(bytearray(8))


# Calls that take a number or a sequence, and those that take a buffer, which
# can run Python code since 3.12 (PEP 688).
NUMBERS: dict[str, Callable[[RawSocket, Any], object]] = {
    "recv": lambda sock, bad: sock.recv(bad),
    "getsockopt": lambda sock, bad: sock.getsockopt(1, bad),
    "setsockopt": lambda sock, bad: sock.setsockopt(bad, 8, 1),
    "sendmmsg": lambda sock, bad: sock.sendmmsg(bad),
    "sendmmsg_all": lambda sock, bad: sock.sendmmsg_all(bad),
    "start": lambda sock, bad: sock.sendmmsg([b"a", b"b"], bad),
}
BUFFERS: dict[str, Callable[[RawSocket, Any], object]] = {
    "send": lambda sock, bad: sock.send(bad),
    "recv_into": lambda sock, bad: sock.recv_into(bad),
    "sendmmsg within": lambda sock, bad: sock.sendmmsg([b"a", bad]),
    "gather": lambda sock, bad: sock.sendmmsg([(b"a", bad)]),
    "sendmmsg_all within": lambda sock, bad: sock.sendmmsg_all([b"a", bad]),
}
USES = NUMBERS | (BUFFERS if sys.version_info >= (3, 12) else {})


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_socket_closed_by_its_argument_is_ebadf(
    sock: RawSocket, use: Callable[[RawSocket, Any], object]
) -> None:
    with raises(errno.EBADF):
        use(sock, Hostile(sock.close))
    assert sock.closed
    assert sock.fileno() == -1


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_exception_of_an_argument_is_passed_on(
    sock: RawSocket, use: Callable[[RawSocket, Any], object]
) -> None:
    def fail() -> None:
        raise KeyError("argument")

    with same_descriptors(), pytest.raises(KeyError, match="argument"):
        use(sock, Hostile(fail))
    assert sock.statistics().packets_sent == 0


def test_argument_cannot_detach_the_socket_of_its_own_call(
    sock: RawSocket,
) -> None:
    """sendmmsg_all() is in flight while it reads the sequence."""
    with raises(errno.EBUSY):
        sock.sendmmsg_all(Hostile(sock.detach))  # type: ignore[arg-type]


def test_argument_may_use_the_socket_of_its_own_call(sock: RawSocket) -> None:
    assert sock.sendmmsg(Hostile(lambda: sock.send(b"more"))) == 2  # type: ignore[arg-type]
    assert sock.statistics().packets_sent > 2


class Shrinking:
    """A sequence with fewer packets than its length."""

    def __init__(self, claimed: int, real: int) -> None:
        self.claimed = claimed
        self.real = real

    def __len__(self) -> int:
        return self.claimed

    def __getitem__(self, index: int) -> bytes:
        if index >= self.real:
            raise IndexError(index)
        return b"packet"


@pytest.mark.parametrize("claimed", [2, 1024, 1025, 2**31, 2**62])
def test_sequence_shorter_than_its_length_raises(
    sock: RawSocket, claimed: int
) -> None:
    packets: Any = Shrinking(claimed, 1)
    with pytest.raises(IndexError):
        sock.sendmmsg(packets)
    with pytest.raises(IndexError) as caught:
        sock.sendmmsg_all(packets)
    assert packets_sent(caught.value) == 0


def test_length_of_a_sequence_must_be_valid(sock: RawSocket) -> None:
    for length, error in [(-1, ValueError), (2**64, OverflowError)]:
        packets: Any = Shrinking(length, 1)
        with pytest.raises(error):
            sock.sendmmsg(packets)
        with pytest.raises(error):
            sock.sendmmsg_all(packets)


class HostileNumber:
    """A number or a truth value that runs code of the caller."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __index__(self) -> int:
        self.action()
        return 1

    def __bool__(self) -> bool:
        self.action()
        return True


@pytest.mark.parametrize(
    "name", ["start", "flows", "segments", "max_length", "keep_ids", "udp"]
)
def test_argument_may_use_the_batches_that_are_merged(name: str) -> None:
    """The call uses what they hold after that."""
    source, target = PacketBatch(4, 64), PacketBatch(4, 64)
    source.append(b"old")

    def act() -> None:
        source.clear()
        source.extend([b"one", b"two"])
        target.append(b"target")
        source.merge_into(target)

    merge: Any = source.merge_into
    assert merge(target, **{name: HostileNumber(act)}) == 2
    wanted = [b"two"] if name == "start" else [b"one", b"two"]
    assert target.tolist() == wanted


if sys.version_info >= (3, 12):

    def test_buffer_may_use_the_batch_that_it_is_appended_to() -> None:
        batch = PacketBatch(2)

        def act() -> None:
            batch.clear()
            batch.extend([b"one"])

        batch.append(Hostile(act))
        assert batch.tolist() == [b"one", bytes(8)]


GARBAGE: list[Any] = [
    *(None, True, -1, 2**31, 2**62, 2**70, 1.5, float("nan"), 1j),
    *("", "x", "\0", "\ud800", "x" * 10_000, b"", b"x", b"x" * 10_000),
    *(bytearray(), bytearray(8), memoryview(b"abcd")[::2]),
    memoryview(bytearray(64)).cast("B", (8, 8)),
    *([], [None], [[]], [b""], [()], [(b"",)], (), {}, set(), range(3)),
    *(object(), object, len, Ellipsis),
    *(PacketBatch(1), PacketBatch, Shrinking(3, 1), Shrinking(-1, 0)),
]
REFUSALS = (
    *(TypeError, ValueError, OverflowError, BufferError, MemoryError),
    *(OSError, IndexError, NotImplementedError),
)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in vars(RawSocket)
        if not name.startswith("_") and callable(getattr(RawSocket, name))
    ],
)
def test_random_arguments_do_no_harm(name: str) -> None:
    """The method returns or raises, and the socket still works."""
    with same_descriptors():
        for arguments in [(), *((bad,) for bad in GARBAGE)] + [
            pair
            for bad in GARBAGE
            for pair in ((bad, bad), (1, bad), (1, 2, bad), (bad, 1, 2, 3))
        ]:
            peer, sock = datagram_pair()
            with peer, sock:
                peer.setblocking(False)
                sock.setblocking(False)
                with contextlib.suppress(*REFUSALS):
                    result = getattr(sock, name)(*arguments)
                    if name == "detach":
                        os.close(result)
                if name in ("close", "detach"):
                    continue
                sock.setblocking(False)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)


@pytest.mark.parametrize(
    "option",
    "interface protocol type filter timestamps rcvbuf sndbuf netns".split(),
)
def test_random_options_do_no_harm(
    option: str,
) -> None:
    with same_descriptors():
        for bad in GARBAGE:
            options: dict[str, Any] = {"interface": "lo", option: bad}
            try:
                sock = RawSocket(**options)
            except (*REFUSALS, ModuleNotFoundError):
                continue
            with sock:
                assert sock.fileno() >= 0


@pytest.mark.parametrize("method", ["append", "extend", "set_count"])
def test_random_objects_are_refused_by_a_batch(method: str) -> None:
    for bad in GARBAGE:
        batch = PacketBatch(4, 64)
        with contextlib.suppress(*REFUSALS):
            getattr(batch, method)(bad)
        batch.clear()
        batch.append(b"packet")
        assert batch.tolist() == [b"packet"]
