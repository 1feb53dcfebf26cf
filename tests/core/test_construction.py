"""Opening a RawSocket: interface, namespace, protocol."""

import errno
import fcntl
import os
import socket
import struct
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from support import WAIT
from support.calls import raises
from support.child import run_python, tool
from support.frames import (
    LOCAL_EXPERIMENTAL,
    OTHER_EXPERIMENTAL,
    flood,
    frame,
    pending,
    receive,
    send,
)
from support.linux import ETH_P_ALL, descriptors, other_namespace
from support.programs import keep_ethertype

from rawmmsg import PACKET_STATISTICS, SOL_PACKET, PacketBatch, RawSocket
from rawmmsg.testing import Veth

SO_MEMINFO = 55


def queued_bytes(sock: RawSocket) -> int:
    """The memory that the packets in the receive queue use: sk_rmem_alloc."""
    (weight,) = struct.unpack_from(
        "I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
    )
    return int(weight)


# Interface and protocol


def test_kernel_queues_packets_of_other_interfaces_until_bind(
    veth: Veth, veth_factory: Callable[[], Veth]
) -> None:
    """This is why the constructor opens its socket with protocol 0
    (packet(7))."""
    other = veth_factory()
    with socket.socket(
        socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)
    ) as naive:
        naive.settimeout(WAIT)
        send(other.a, frame(b"other"))
        naive.recv(1, socket.MSG_PEEK)
        naive.bind((veth.b, ETH_P_ALL))
        _, address = naive.recvfrom(2048)
        assert address[0] in (other.a, other.b), (
            "a packet queued before bind(2) should stay in the queue"
        )


def test_no_packet_of_another_interface_ever_appears(
    veth: Veth, veth_factory: Callable[[], Veth], scaled: Callable[[int], int]
) -> None:
    other = veth_factory()
    wanted = frame(b"wanted")
    with (
        RawSocket(veth.a, protocol=0) as sender,
        flood(other.a, [frame(b"unwanted", ethertype=OTHER_EXPERIMENTAL)]),
    ):
        for _ in range(scaled(100)):
            with RawSocket(veth.b) as sock:
                sender.send(wanted)
                assert receive(sock, 1) == [wanted], (
                    "the first packet is not the first that its interface"
                    " received since"
                )
                assert pending(sock) == []


def test_no_packet_that_the_filter_rejects_ever_appears(
    veth: Veth, scaled: Callable[[int], int]
) -> None:
    wanted = frame(b"wanted")
    unwanted = frame(b"unwanted", ethertype=OTHER_EXPERIMENTAL)
    only_wanted = keep_ethertype(LOCAL_EXPERIMENTAL)
    with (
        RawSocket(veth.a, protocol=0) as sender,
        flood(veth.a, [unwanted]),
    ):
        with RawSocket(veth.b) as sock:
            assert receive(sock, 1)[0] == unwanted, "the flood is not received"
        for _ in range(scaled(100)):
            with RawSocket(veth.b, filter=only_wanted) as sock:
                sender.send(wanted)
                assert receive(sock, 1) == [wanted], (
                    "a packet that the filter rejects was received"
                )
                assert pending(sock) == []


def test_socket_receives_from_the_moment_the_constructor_returns(
    pair: Veth, scaled: Callable[[int], int]
) -> None:
    with RawSocket(pair.a, protocol=0) as sender:
        for number in range(scaled(20)):
            packet = frame(b"%d" % number)
            with RawSocket(pair.b) as sock:
                sender.send(packet)
                assert receive(sock, 1) == [packet]


def test_protocol_limits_what_is_received(pair: Veth) -> None:
    with RawSocket(pair.b, protocol=LOCAL_EXPERIMENTAL) as sock:
        send(pair.a, frame(b"no", ethertype=OTHER_EXPERIMENTAL), frame(b"yes"))
        assert receive(sock, 1) == [frame(b"yes")]
        assert pending(sock) == []


def test_kernel_binds_to_an_interface_that_is_down(
    veth: Veth, unbound: socket.socket
) -> None:
    """bind(2) itself succeeds. This is why the constructor reads SO_ERROR."""
    veth.down("b")
    unbound.bind((veth.b, ETH_P_ALL))
    pending_error = unbound.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert pending_error == errno.ENETDOWN


@pytest.mark.parametrize("protocol", [ETH_P_ALL, 0])
def test_interface_that_is_down_is_refused(veth: Veth, protocol: int) -> None:
    veth.down("b")
    before = descriptors()
    remedy = f"ip link set {veth.b} up, or allow_down=True"
    with pytest.raises(OSError, match=f"is down .*{remedy}") as caught:
        RawSocket(veth.b, protocol=protocol)
    assert caught.value.errno == errno.ENETDOWN
    assert caught.value.filename == veth.b, (
        "the error does not name the interface"
    )
    assert descriptors() == before, "the constructor left a descriptor open"


def test_allow_down_receives_when_the_link_comes_up(veth: Veth) -> None:
    veth.down("b")
    with RawSocket(veth.b, allow_down=True) as sock:
        veth.up("b")
        send(veth.a, frame(b"up"))
        assert receive(sock, 1) == [frame(b"up")]


def test_allow_down_sends_when_the_link_comes_up(veth: Veth) -> None:
    veth.down("a")
    with (
        RawSocket(veth.a, protocol=0, allow_down=True) as sender,
        RawSocket(veth.b) as sock,
    ):
        remedy = f"is down .*ip link set {veth.a} up"
        with raises(errno.ENETDOWN, remedy):
            sender.send(frame(b"down"))
        veth.up("a")
        sender.send(frame(b"up"))
        assert receive(sock, 1) == [frame(b"up")]


def test_allow_down_changes_nothing_when_the_link_is_up(pair: Veth) -> None:
    with RawSocket(pair.b, allow_down=True) as sock:
        send(pair.a, frame(b"up"))
        assert receive(sock, 1) == [frame(b"up")]


def test_constructor_that_raises_leaves_no_descriptor(veth: Veth) -> None:
    before = descriptors()
    failures: list[dict[str, Any]] = [
        {"interface": "no-such-iface"},
        {"interface": veth.b, "filter": b"\0" * 8},
        {"interface": veth.b, "filter": b"\0" * 7},
        {"interface": veth.b, "netns": "no such namespace"},
        {"interface": veth.b, "netns": "/dev/null"},
    ]
    for options in failures:
        with pytest.raises((OSError, ValueError)):
            RawSocket(**options)
        assert descriptors() == before, options


def test_descriptors_are_not_inherited(veth: Veth) -> None:
    before = descriptors()
    with RawSocket(veth.b) as sock:
        made = descriptors() - before
        assert sock.fileno() in made
        for descriptor in made:
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFD)
            assert flags & fcntl.FD_CLOEXEC, (
                "a child process would inherit the descriptor"
            )


# protocol=0


@pytest.mark.parametrize(
    "call",
    [
        lambda sock: sock.recvmmsg_into(PacketBatch(1)),
        lambda sock: sock.recv(100),
        lambda sock: sock.recv_into(bytearray(100)),
    ],
    ids=["recvmmsg_into", "recv", "recv_into"],
)
def test_send_only_socket_raises_on_receive(
    pair: Veth, call: Callable[[RawSocket], object]
) -> None:
    with RawSocket(pair.a, protocol=0) as sock:
        with pytest.raises(OSError, match="protocol=0 only sends") as caught:
            call(sock)
        assert caught.value.errno == errno.EOPNOTSUPP


def test_send_only_socket_queues_nothing(pair: Veth) -> None:
    with RawSocket(pair.b, protocol=0) as idle, RawSocket(pair.b) as sock:
        send(pair.a, *[frame(b"%d" % number) for number in range(64)])
        receive(sock, 64)
        with socket.socket(fileno=os.dup(idle.fileno())) as plain:
            seen = plain.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        assert seen == bytes(8), "the kernel queued packets for it"
        assert queued_bytes(idle) == 0
        assert idle.statistics().packets_received == 0


def test_send_only_socket_needs_an_interface() -> None:
    with pytest.raises(ValueError, match="needs an interface"):
        RawSocket(protocol=0)


def test_send_only_socket_keeps_the_default_receive_buffer(
    veth: Veth, unbound: socket.socket
) -> None:
    with RawSocket(veth.a, protocol=0) as sock:
        option = (socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert sock.getsockopt(*option) == unbound.getsockopt(*option)


@pytest.mark.parametrize("kind", ["str", "PathLike"])
def test_netns_by_path(tmp_path: Any, kind: str) -> None:
    with other_namespace() as pid:
        path: Any = f"/proc/{pid}/ns/net"
        if kind == "PathLike":
            path = tmp_path / "net"
            path.symlink_to(f"/proc/{pid}/ns/net")
        here = os.stat("/proc/thread-self/ns/net").st_ino
        with (
            RawSocket(
                "lo", netns=path, filter=keep_ethertype(LOCAL_EXPERIMENTAL)
            ) as sock,
            RawSocket("lo", filter=keep_ethertype(LOCAL_EXPERIMENTAL)) as ours,
        ):
            assert os.stat("/proc/thread-self/ns/net").st_ino == here, (
                "the caller's thread was moved"
            )
            with RawSocket("lo", netns=path, protocol=0) as sender:
                sender.send(frame(b"there"))
            assert receive(sock, 1) == [frame(b"there")]
            assert pending(ours) == []


def test_interface_is_looked_up_in_the_sockets_namespace(
    pair: Veth,
) -> None:
    with other_namespace() as pid, raises(errno.ENODEV):
        RawSocket(pair.a, netns=f"/proc/{pid}/ns/net")


def test_netns_that_is_a_fifo_is_refused(tmp_path: Any) -> None:
    """Opening it must not block."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="setns") as caught:
        RawSocket("lo", netns=path)
    assert caught.value.errno == errno.EINVAL


def test_netns_by_name() -> None:
    """The name is one of `ip netns`. The child mounts a private /run, so the
    test needs no privilege."""
    tool("ip")
    script = """
        set -e
        PATH=$PATH:/usr/sbin:/sbin
        mount -t tmpfs none /run
        ip netns add elsewhere
        ip -n elsewhere link set lo up
        exec "$@"
    """
    code = """
        from rawmmsg import RawSocket

        with (
            RawSocket("lo", netns="elsewhere") as sock,
            RawSocket("lo", netns="/run/netns/elsewhere") as sender,
        ):
            sender.send(b"x" * 60)
            sock.settimeout(30)
            print(sock.recv(100) == b"x" * 60)
        try:
            RawSocket("lo", netns="nowhere")
        except FileNotFoundError as error:
            print(error.filename)
    """
    answer = run_python(
        code,
        *("unshare", "--mount", "sh", "-c", textwrap.dedent(script), "sh"),
    )
    assert answer.split() == ["True", "/var/run/netns/nowhere"]


def test_interface_name_may_be_other_than_utf8(
    veth_factory: Callable[..., Veth],
) -> None:
    """Encoded and decoded as by os.fsencode() and os.fsdecode()."""
    name = "v\udcff0"
    veth_factory(name, "peer-of-it")
    with RawSocket(name) as sock:
        assert sock.interface == name
        assert sock.getsockname()[0] == name


def test_interface_name_of_a_str_subclass_runs_none_of_its_code(
    veth: Veth,
) -> None:
    class Name(str):
        def __str__(self) -> str:
            raise AssertionError("user code ran")

        __repr__ = __str__

    with RawSocket(Name(veth.a)) as sock:
        assert type(sock.interface) is str
        assert repr(veth.a) in repr(sock)


SWAPPED = {
    0x0300: "0x0003",
    0x0008: "0x0800",
    0x0608: "0x0806",
    0xDD86: "0x86dd",
    0x0081: "0x8100",
    0xA888: "0x88a8",
    0xCC88: "0x88cc",
    0xB588: "0x88b5",
    0xB688: "0x88b6",
    0xF788: "0x88f7",
}


@pytest.mark.skipif(sys.byteorder == "big", reason="htons() does nothing")
@pytest.mark.parametrize(("protocol", "meant"), SWAPPED.items())
def test_protocol_in_network_byte_order_gives_a_warning(
    protocol: int, meant: str
) -> None:
    """As the socket module needs it. It is not refused, because the swapped
    number can be an EtherType too."""
    with pytest.warns(RuntimeWarning) as caught:
        RawSocket("lo", protocol=protocol).close()
    (warning,) = caught
    assert f"{protocol:#06x} looks like htons({meant})" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("protocol", [0x0003, 0x0800, 0x0806, 0x88B5, 0x1234])
def test_protocol_in_host_byte_order_gives_no_warning(protocol: int) -> None:
    RawSocket("lo", protocol=protocol).close()
