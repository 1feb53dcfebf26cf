"""Links that go down, come back, and interfaces that are deleted under a
socket."""

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
    """Neither a packet nor an error waits."""
    timeout = sock.gettimeout()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(2048)
    sock.settimeout(timeout)


# Down and up


def test_link_going_down_ends_a_receive_that_waits(
    veth: Veth, receive: Callable[[RawSocket], Any]
) -> None:
    """Once, and the socket works again when the link is up."""
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


def test_receive_after_the_error_waits_for_the_link(veth: Veth) -> None:
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        veth.down("b")
        with raises(errno.ENETDOWN):
            sock.recv(2048)
        with Call(sock.recv, 2048) as call:
            call.until_blocked()
            veth.up("b")
            sender.send(PACKET)
        assert call.result() == PACKET


def test_link_of_the_other_end_is_no_error(veth: Veth) -> None:
    """Only the carrier is lost."""
    with RawSocket(veth.b) as sock:
        veth.down("a")
        nothing_pending(sock)


def test_each_time_down_is_an_error_of_its_own(veth: Veth) -> None:
    with RawSocket(veth.b) as sock:
        for _ in range(3):
            veth.down("b")
            with raises(errno.ENETDOWN):
                sock.recv(2048)
            veth.up("b")
            nothing_pending(sock)


def test_packets_queued_before_come_after_the_error(veth: Veth) -> None:
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        sender.sendmmsg_all([numbered(i) for i in range(5)])
        veth.down("b")
        batch = PacketBatch(8)
        with raises(errno.ENETDOWN):
            sock.recvmmsg_into(batch)
        assert len(batch) == 0, "a call that raises has changed the batch"
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


def test_send_while_the_link_is_down_leaves_the_error_to_the_receiver(
    veth: Veth, send: Callable[[RawSocket], Any]
) -> None:
    with RawSocket(veth.b) as sock:
        veth.down("b")
        with raises(errno.ENETDOWN):
            send(sock)
        with raises(errno.ENETDOWN):
            sock.recv(2048)
        nothing_pending(sock)


def test_kernel_gives_the_error_to_whoever_calls_first(veth: Veth) -> None:
    """Once per socket: a send on a link that is up again draws it, and the
    receiver would never learn that packets are missing."""
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


def test_sender_that_draws_the_error_keeps_it_for_the_receiver(
    veth: Veth, send: Callable[[RawSocket], Any]
) -> None:
    """The link is up: the error is not about what is sent now."""
    with RawSocket(veth.b) as sock:
        veth.down("b")
        veth.up("b")
        send(sock)
        with raises(errno.ENETDOWN):
            sock.recv(2048)
        nothing_pending(sock)


def test_send_only_socket_is_told_by_its_sends_alone(veth: Veth) -> None:
    with RawSocket(veth.a, protocol=0) as sender:
        veth.down("a")
        veth.up("a")
        sender.send(PACKET)


def test_kept_error_reaches_a_receive_that_waits_already(veth: Veth) -> None:
    """Whichever of the two the kernel tells."""
    with RawSocket(veth.b) as sock:
        call = Call(sock.recv, 2048)
        call.until_blocked()
        veth.down("b")
        veth.up("b")
        sock.send(PACKET)
        with raises(errno.ENETDOWN):
            call.result()


def test_allow_down_waits_for_the_link(veth: Veth) -> None:
    veth.down("b")
    with RawSocket(veth.b, allow_down=True) as sock:
        nothing_pending(sock)
        with Call(sock.recv, 2048) as call:
            call.until_blocked()
            veth.up("b")
            with RawSocket(veth.a, protocol=0) as sender:
                sender.send(PACKET)
        assert call.result() == PACKET


def test_allow_down_and_the_link_that_goes_down_again(veth: Veth) -> None:
    veth.down("b")
    with RawSocket(veth.b, allow_down=True) as sock:
        veth.up("b")
        veth.down("b")
        with raises(errno.ENETDOWN):
            sock.recv(2048)
        nothing_pending(sock)


def test_allow_down_and_the_interface_that_never_comes(veth: Veth) -> None:
    """No event tells: it is down already when it is deleted."""
    veth.down("b")
    with RawSocket(veth.b, allow_down=True) as sock:
        call = Call(sock.recv, 2048)
        call.until_blocked()
        veth.delete()
        with raises(errno.ENODEV):
            call.result()


# Deleted


def until_gone(sock: RawSocket) -> float:
    """Receives until it is ENODEV, through what may come before; returns
    when that was."""
    batch = PacketBatch(4)
    while True:
        try:
            sock.recvmmsg_into(batch)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return time.monotonic()
            assert error.errno == errno.ENETDOWN


class Lateness:
    """How late this machine wakes a thread that sleeps, at worst."""

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
    """Makes pairs and returns the names of their ends b, up and silent."""
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
    """As ip(8) does, without the time that a program takes to start."""
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


def test_deleted_interface_is_noticed_by_a_receive_that_waits(
    tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """Within 1.5 s of each of 100 deletes. In some the only event comes before
    the kernel itself knows that the interface is gone."""
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
            f"{sum(one >= limit for one in late)} of {len(late)} noticed late,"
            f" one only after {max(late):.2f} s"
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
def test_delete_is_noticed_by_calls_that_hardly_wait(
    veth: Veth, timeout: float
) -> None:
    with RawSocket(veth.b) as sock:
        sock.settimeout(timeout)
        veth.delete()
        # Both of the kernel's notifications have run when ip(8) returns.
        for _ in range(3):
            with raises(errno.ENODEV):
                sock.recv(2048)


@pytest.mark.parametrize("first_down", [False, True])
def test_packets_queued_before_the_delete_do_not_hide_it(
    veth: Veth, first_down: bool
) -> None:
    """They still come; what follows them is ENODEV."""
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


def test_sender_is_told_of_the_delete(
    veth: Veth, send: Callable[[RawSocket], Any]
) -> None:
    """The kernel says ENXIO."""
    plain = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with plain, RawSocket(veth.a, protocol=0) as sender:
        plain.bind((veth.a, 0))
        veth.delete()
        with raises(errno.ENXIO):
            plain.send(PACKET)
        for _ in range(3):
            with raises(errno.ENODEV):
                send(sender)


def test_kernel_forgets_the_index_of_a_deleted_interface(veth: Veth) -> None:
    """The one thing that tells for ever; getsockname() shows it as no name."""
    with RawSocket(veth.b) as sock:
        assert sock.getsockname()[0] == veth.b
        veth.delete()
        assert sock.getsockname()[0] == ""
        until_gone(sock)
        assert sock.getsockname()[0] == ""


def test_interface_of_the_same_name_is_another_one(
    veth_factory: Callable[..., Veth],
) -> None:
    """It is not attached to: packets of it never appear."""
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


def test_two_receivers_are_both_told_of_the_delete(veth: Veth) -> None:
    """The kernel tells one of them."""
    with RawSocket(veth.b) as sock:
        calls = [Call(until_gone, sock) for _ in range(2)]
        for call in calls:
            call.until_blocked()
        veth.delete()
        for call in calls:
            call.result()


def test_deleted_interface_does_not_hinder_close(veth: Veth) -> None:
    before = descriptors()
    with RawSocket(veth.b, promisc=True) as sock:
        veth.delete()
        until_gone(sock)
    assert sock.closed
    assert descriptors() == before


def test_renamed_interface_is_the_same_one(veth: Veth) -> None:
    """The socket is bound to the index."""
    with RawSocket(veth.a, protocol=0) as sender, RawSocket(veth.b) as sock:
        ip("link", "set", veth.b, "name", "renamed-b")
        assert sock.getsockname()[0] == "renamed-b"
        assert sock.interface == "renamed-b"
        sock.settimeout(0)
        with pytest.raises(BlockingIOError) as blocked:
            sock.recv(2048)
        assert blocked.value.filename is None, "that costs a system call"
        with pytest.raises(OSError) as caught:
            sock.send(b"short")
        assert caught.value.filename == "renamed-b"
        sock.settimeout(WAIT)
        sender.send(PACKET)
        assert sock.recv(2048) == PACKET
        assert sock.mtu == 1500
