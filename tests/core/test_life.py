"""The life of a RawSocket: closing, detaching, and use after that."""

import errno
import gc
import os
import socket
import weakref
from collections.abc import Callable

import pytest
from support import WAIT
from support.frames import frame, send
from support.linux import descriptors
from support.programs import accept

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

# Closing and detaching


def test_context_manager_closes(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        assert not sock.closed
        descriptor = sock.fileno()
        os.fstat(descriptor)
    assert sock.closed
    assert sock.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_context_manager_does_not_hide_exceptions(pair: Veth) -> None:
    with (
        pytest.raises(KeyError),
        RawSocket(pair.b) as sock,
    ):
        raise KeyError
    assert sock.closed


def test_closing_twice_does_nothing(veth: Veth) -> None:
    sock = RawSocket(veth.b)
    before = descriptors()
    sock.close()
    after = descriptors()
    assert len(after) == len(before) - 2, "a descriptor was left open"
    with open(os.devnull, "rb") as reused:
        sock.close()
        os.fstat(reused.fileno())


CALLS: list[Callable[[RawSocket], object]] = [
    lambda sock: sock.recvmmsg_into(PacketBatch(1)),
    lambda sock: sock.sendmmsg([frame()]),
    lambda sock: sock.sendmmsg_all([frame()]),
    lambda sock: sock.recv(1),
    lambda sock: sock.recv_into(bytearray(1)),
    lambda sock: sock.send(frame()),
    lambda sock: sock.attach_filter(accept()),
    lambda sock: sock.detach_filter(),
    lambda sock: sock.lock_filter(),
    lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
    lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 1),
    lambda sock: sock.getsockname(),
    lambda sock: sock.mtu,
]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_on_a_closed_socket_is_ebadf(
    pair: Veth, call: Callable[[RawSocket], object]
) -> None:
    sock = RawSocket(pair.b)
    sock.close()
    with pytest.raises(OSError, match="the socket was closed") as caught:
        call(sock)
    assert caught.value.errno == errno.EBADF
    assert caught.value.filename == pair.b


def test_detach_gives_the_descriptor_to_the_caller(veth: Veth) -> None:
    sock = RawSocket(veth.b)
    descriptor = sock.fileno()
    before = descriptors()
    assert sock.detach() == descriptor
    assert sock.closed
    assert sock.fileno() == -1
    assert sock.detach() == -1, (
        "a second detach() returned the descriptor again"
    )
    assert len(descriptors()) == len(before) - 1, "the eventfd was left open"
    sock.close()
    with socket.socket(fileno=descriptor) as std:
        std.settimeout(WAIT)
        send(veth.a, frame(b"detached"))
        assert std.recv(2048) == frame(b"detached")


def test_socket_that_is_freed_open_warns_and_closes(veth: Veth) -> None:
    sock = RawSocket(veth.b)
    descriptor = sock.fileno()
    gc.collect()  # frees what earlier tests have left
    before = descriptors()
    with pytest.warns(
        ResourceWarning,
        match=f"unclosed <RawSocket fd={descriptor} interface={veth.b}",
    ):
        del sock
        gc.collect()
    assert len(descriptors()) == len(before) - 2


def test_closed_or_detached_socket_does_not_warn(veth: Veth) -> None:
    """This suite turns warnings into errors, including unraisable ones."""
    closed, detached = RawSocket(veth.b), RawSocket(veth.b)
    closed.close()
    descriptor = detached.detach()
    before = descriptors()
    del closed, detached
    gc.collect()
    assert descriptors() == before
    os.close(descriptor)


def test_repr_names_descriptor_and_interface(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        expected = f"<RawSocket fd={sock.fileno()} interface='{pair.b}'>"
        assert repr(sock) == expected
    assert repr(sock) == f"<RawSocket closed interface='{pair.b}'>"
    with RawSocket() as sock:
        assert repr(sock) == f"<RawSocket fd={sock.fileno()} interface=None>"


def test_socket_can_be_referenced_weakly(pair: Veth) -> None:
    sock = RawSocket(pair.b)
    reference = weakref.ref(sock)
    assert reference() is sock
    sock.close()
    del sock
    gc.collect()
    assert reference() is None
