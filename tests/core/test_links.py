"""Links that go down and come back, and interfaces that are deleted while a
socket is open."""

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import WAIT
from support.calls import RECEIVING, SENDING, Call, raises
from support.frames import PACKET, number_of, numbered
from support.linux import descriptors, ip

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth


@pytest.fixture(params=RECEIVING)
def receive(request: pytest.FixtureRequest) -> Callable[[RawSocket], Any]:
    return RECEIVING[request.param]


@pytest.fixture(params=SENDING)
def send(request: pytest.FixtureRequest) -> Callable[[RawSocket], Any]:
    return SENDING[request.param]


def nothing_pending(sock: RawSocket) -> None:
    """Asserts that neither a packet nor an error is pending."""
    timeout = sock.gettimeout()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(2048)
    sock.settimeout(timeout)


# Links that go down and up


def test_link_going_down_ends_a_receive_that_waits(
    veth: Veth, receive: Callable[[RawSocket], Any]
) -> None:
    """One error, and the socket works again when the link is up."""
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        call = Call(receive, sock)
        call.until_blocked()
        veth.down("b")
        with raises(errno.ENETDOWN):
            call.result()
        nothing_pending(sock)
        veth.up("b")
        sock.settimeout(WAIT)
        sender.send(PACKET)
        receive(sock)
        nothing_pending(sock)


def test_error_names_the_interface(veth: Veth) -> None:
    with RawSocket(veth.b) as sock:
        veth.down("b")
        with pytest.raises(OSError, match="recvmmsg: ") as caught:
            sock.recv(2048)
    assert caught.value.filename == veth.b


def test_receive_after_the_error_waits_until_the_link_is_up(
    veth: Veth,
) -> None:
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        veth.down("b")
        with raises(errno.ENETDOWN):
            sock.recv(2048)
        with Call(sock.recv, 2048) as call:
            call.until_blocked()
            veth.up("b")
            sender.send(PACKET)
        assert call.result() == PACKET


def test_lost_carrier_is_not_an_error(veth: Veth) -> None:
    """The other end of the veth pair goes down."""
    with RawSocket(veth.b) as sock:
        veth.down("a")
        nothing_pending(sock)


def test_every_link_down_is_one_error(veth: Veth) -> None:
    with RawSocket(veth.b) as sock:
        for _ in range(3):
            veth.down("b")
            with raises(errno.ENETDOWN):
                sock.recv(2048)
            veth.up("b")
            nothing_pending(sock)


def test_queued_packets_are_received_after_the_error(veth: Veth) -> None:
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        sender.sendmmsg_all([numbered(i) for i in range(5)])
        veth.down("b")
        batch = PacketBatch(8)
        with raises(errno.ENETDOWN):
            sock.recvmmsg_into(batch)
        assert len(batch) == 0, "a call that raised changed the batch"
        assert sock.recvmmsg_into(batch) == 5
        assert [number_of(packet) for packet in batch.tolist()] == [*range(5)]


def test_every_send_while_the_link_is_down_is_an_error(
    veth: Veth, send: Callable[[RawSocket], Any]
) -> None:
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        veth.down("a")
        for _ in range(3):
            with raises(errno.ENETDOWN):
                send(sender)
        veth.up("a")
        send(sender)
        sock.settimeout(WAIT)
        assert sock.recv(2048) == PACKET


def test_send_on_a_down_link_keeps_the_receivers_error(
    veth: Veth, send: Callable[[RawSocket], Any]
) -> None:
    with RawSocket(veth.b) as sock:
        veth.down("b")
        with raises(errno.ENETDOWN):
            send(sock)
        with raises(errno.ENETDOWN):
            sock.recv(2048)
        nothing_pending(sock)


def test_kernel_gives_the_error_to_the_first_caller(veth: Veth) -> None:
    """The kernel reports ENETDOWN once per socket. A send on a link that is up
    again would get it, and the receiver would not learn that packets are
    missing."""
    plain = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with plain:
        plain.bind((veth.b, 3))
        plain.setblocking(False)
        veth.down("b")
        veth.up("b")
        with raises(errno.ENETDOWN):
            plain.send(PACKET)
        with pytest.raises(BlockingIOError):
            plain.recv(2048)


def test_send_that_gets_the_receivers_error_keeps_it(
    veth: Veth, send: Callable[[RawSocket], Any]
) -> None:
    """The link is up again, so the error is not about this send."""
    with RawSocket(veth.b) as sock:
        veth.down("b")
        veth.up("b")
        send(sock)
        with raises(errno.ENETDOWN):
            sock.recv(2048)
        nothing_pending(sock)


def test_send_only_socket_gets_errors_from_sends(veth: Veth) -> None:
    with RawSocket(veth.a, protocol=0) as sender:
        veth.down("a")
        veth.up("a")
        sender.send(PACKET)


def test_kept_error_reaches_a_waiting_receive(veth: Veth) -> None:
    """Whether the kernel reports it to the send or to the receive."""
    with RawSocket(veth.b) as sock:
        call = Call(sock.recv, 2048)
        call.until_blocked()
        veth.down("b")
        veth.up("b")
        sock.send(PACKET)
        with raises(errno.ENETDOWN):
            call.result()


def test_allow_down_receive_waits_for_the_link(veth: Veth) -> None:
    veth.down("b")
    with RawSocket(veth.b, allow_down=True) as sock:
        nothing_pending(sock)
        with Call(sock.recv, 2048) as call:
            call.until_blocked()
            veth.up("b")
            with RawSocket(veth.a, protocol=0) as sender:
                sender.send(PACKET)
        assert call.result() == PACKET


def test_allow_down_raises_when_the_link_goes_down_again(veth: Veth) -> None:
    veth.down("b")
    with RawSocket(veth.b, allow_down=True) as sock:
        veth.up("b")
        veth.down("b")
        with raises(errno.ENETDOWN):
            sock.recv(2048)
        nothing_pending(sock)


def test_allow_down_raises_when_the_interface_is_deleted(veth: Veth) -> None:
    """There is no event, because it is down when it is deleted."""
    veth.down("b")
    with RawSocket(veth.b, allow_down=True) as sock:
        call = Call(sock.recv, 2048)
        call.until_blocked()
        veth.delete()
        with raises(errno.ENODEV):
            call.result()


# Deleted interfaces


def until_gone(sock: RawSocket) -> float:
    """Receives until a receive raises ENODEV; returns the time of that."""
    batch = PacketBatch(4)
    while True:
        try:
            sock.recvmmsg_into(batch)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return time.monotonic()
            assert error.errno == errno.ENETDOWN


class Lateness:
    """Measures how late this machine wakes a sleeping thread in the worst
    case."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._stop = threading.Event()

    def _run(self) -> None:
        while not self._stop.is_set():
            due = time.monotonic() + 0.02
            time.sleep(0.02)
            self.worst = max(self.worst, time.monotonic() - due)

    def __enter__(self) -> "Lateness":
        self._call = Call(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._call.result()


def many_interfaces(count: int, directory: Path) -> list[str]:
    """Makes veth pairs and sets the ends b up; returns their names."""
    lines = []
    for i in range(count):
        lines += [
            f"link add lg{i}a type veth peer lg{i}b",
            f"link set lg{i}b addrgenmode none up",
        ]
    batch = directory / "links"
    batch.write_text("\n".join(lines))
    ip("-batch", str(batch))
    return [f"lg{i}b" for i in range(count)]


def delete_at_once(name: str) -> None:
    """Deletes an interface like ip(8), without starting a program."""
    index = socket.if_nametoindex(name)
    # <linux/netlink.h>, <linux/rtnetlink.h>: nlmsghdr, ifinfomsg
    delete, flags = 17, 0x01 | 0x04  # RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK
    message = struct.pack(
        "=IHHIIBxHiII", 32, delete, flags, 1, 0, 0, 0, index, 0, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as control:
        control.send(message)
        (error,) = struct.unpack_from("=i", control.recv(4096), 16)
    assert error == 0, os.strerror(-error)


def test_waiting_receive_notices_a_deleted_interface(
    tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """Within 1.5 s of each of 100 deletes. For some of them, the only event
    comes before the kernel itself has removed the interface."""
    before = descriptors()
    late: list[float] = []
    for _ in range(scaled(1)):
        names = many_interfaces(100, tmp_path)
        socks = [RawSocket(name, rcvbuf=4096) for name in names]
        calls = [Call(until_gone, sock) for sock in socks]
        for call in calls:
            call.until_blocked()
        deleted = []
        with Lateness() as lateness:
            for name in names:
                delete_at_once(name)
                deleted.append(time.monotonic())
            late += [
                call.result() - began
                for call, began in zip(calls, deleted, strict=True)
            ]
        for sock in socks:
            sock.close()
        limit = 1.5 + lateness.worst
        assert max(late) < limit, (
            f"{sum(one >= limit for one in late)} of {len(late)} were"
            f" noticed late, the last after {max(late):.2f} s"
        )
    assert descriptors() == before


@pytest.mark.parametrize("timeout", [0, 1e-3, None])
@pytest.mark.parametrize("method", [*RECEIVING, *SENDING])
def test_every_call_after_the_delete_is_enodev(
    veth: Veth, method: str, timeout: float | None
) -> None:
    call = (RECEIVING | SENDING)[method]
    with RawSocket(veth.b) as sock:
        veth.delete()
        until_gone(sock)
        sock.settimeout(timeout)
        for _ in range(3):
            with raises(errno.ENODEV):
                call(sock)


@pytest.mark.parametrize("timeout", [0, 1e-3])
def test_delete_is_noticed_by_calls_with_a_short_timeout(
    veth: Veth, timeout: float
) -> None:
    with RawSocket(veth.b) as sock:
        sock.settimeout(timeout)
        veth.delete()
        # When ip(8) returns, the kernel has sent both notifications.
        for _ in range(3):
            with raises(errno.ENODEV):
                sock.recv(2048)


@pytest.mark.parametrize("first_down", [False, True])
def test_packets_queued_before_the_delete_are_received_first(
    veth: Veth, first_down: bool
) -> None:
    """After them, the receive raises ENODEV."""
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        sock.setblocking(False)
        sender.sendmmsg_all([numbered(i) for i in range(3)])
        if first_down:
            veth.down("b")
            with raises(errno.ENETDOWN):
                sock.recv(2048)
        else:
            veth.delete()
            with raises(errno.ENODEV):
                sock.recv(2048)
        assert [number_of(sock.recv(2048)) for _ in range(3)] == [0, 1, 2]
        veth.delete()
        for _ in range(3):
            with raises(errno.ENODEV):
                sock.recv(2048)


def test_send_on_a_deleted_interface_raises(
    veth: Veth, send: Callable[[RawSocket], Any]
) -> None:
    """The kernel returns ENXIO."""
    plain = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with plain, RawSocket(veth.a, protocol=0) as sender:
        plain.bind((veth.a, 0))
        veth.delete()
        with raises(errno.ENXIO):
            plain.send(PACKET)
        for _ in range(3):
            with raises(errno.ENODEV):
                send(sender)


def test_kernel_resets_the_index_after_a_delete(veth: Veth) -> None:
    """This is the one permanent sign. getsockname() returns an empty name."""
    with RawSocket(veth.b) as sock:
        assert sock.getsockname()[0] == veth.b
        veth.delete()
        assert sock.getsockname()[0] == ""
        until_gone(sock)
        assert sock.getsockname()[0] == ""


def test_new_interface_of_the_same_name_is_not_used(
    veth_factory: Callable[..., Veth],
) -> None:
    """The socket does not attach to it and receives nothing from it."""
    first = veth_factory("again-a", "again-b")
    with RawSocket("again-b") as sock, RawSocket("again-a") as sender:
        first.delete()
        veth_factory("again-a", "again-b")
        until_gone(sock)
        with RawSocket("again-a", protocol=0) as other:
            other.send(PACKET)
        for timeout in (0, 1e-3, None):
            sock.settimeout(timeout)
            with raises(errno.ENODEV):
                sock.recv(2048)
        until_gone(sender)
        with raises(errno.ENODEV):
            sender.send(PACKET)
        with RawSocket("again-b") as new:
            assert new.ifindex != sock.ifindex


def test_both_waiting_receivers_notice_the_delete(veth: Veth) -> None:
    """The kernel wakes one of them."""
    with RawSocket(veth.b) as sock:
        calls = [Call(until_gone, sock) for _ in range(2)]
        for call in calls:
            call.until_blocked()
        veth.delete()
        for call in calls:
            call.result()


def test_close_works_after_the_delete(veth: Veth) -> None:
    before = descriptors()
    with RawSocket(veth.b, promisc=True) as sock:
        veth.delete()
        until_gone(sock)
    assert sock.closed
    assert descriptors() == before


def test_renamed_interface_is_still_used(veth: Veth) -> None:
    """The socket is bound to the index."""
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        ip("link", "set", veth.b, "name", "renamed-b")
        assert sock.getsockname()[0] == "renamed-b"
        assert sock.interface == "renamed-b"
        sock.settimeout(0)
        with pytest.raises(BlockingIOError) as blocked:
            sock.recv(2048)
        assert blocked.value.filename is None, (
            "the new name is not looked up, to save a system call"
        )
        with pytest.raises(OSError) as caught:
            sock.send(b"short")
        assert caught.value.filename == "renamed-b"
        sock.settimeout(WAIT)
        sender.send(PACKET)
        assert sock.recv(2048) == PACKET
        assert sock.mtu == 1500
