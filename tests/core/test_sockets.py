"""RawSocket: what its constructor, its options and its state promise."""

import errno
import fcntl
import gc
import json
import os
import socket
import struct
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import WAIT
from support.child import environment, run_python, tool
from support.frames import flood, frame, pending, receive
from support.linux import ETH_P_ALL, ip
from support.programs import accept, keep_ethertype

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

# <linux/if_packet.h>, <asm-generic/socket.h>
SOL_PACKET = 263
PACKET_STATISTICS = 6
PACKET_AUXDATA = 8
PACKET_VNET_HDR = 15
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
STAMPING = {
    "SO_TIMESTAMP": 29,
    "SO_TIMESTAMPNS": 35,
    "SO_TIMESTAMPING": 37,
    "SO_TIMESTAMP_NEW": 63,
    "SO_TIMESTAMPNS_NEW": 64,
    "SO_TIMESTAMPING_NEW": 65,
}
HOST, BROADCAST, MULTICAST, OTHERHOST, OUTGOING = range(5)
ARPHRD_ETHER = 1
ARPHRD_LOOPBACK = 772

WANTED = 0x88B5
UNWANTED = 0x88B6


def send(interface: str, *packets: bytes) -> None:
    with RawSocket(interface, protocol=0) as sender:
        sender.sendmmsg_all(packets)


def same_socket(sock: RawSocket) -> socket.socket:
    """The stdlib's socket on the same open socket."""
    return socket.socket(fileno=os.dup(sock.fileno()))


def hardware_address(interface: str) -> bytes:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((interface, 0))
        address: bytes = sock.getsockname()[4]
        return address


def queued_bytes(sock: RawSocket) -> int:
    """What the packets in the receive queue weigh: sk_rmem_alloc."""
    (weight,) = struct.unpack_from(
        "I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
    )
    return int(weight)


def descriptors() -> set[int]:
    """The open ones, without that which listed them."""
    names = os.listdir("/proc/self/fd")
    return {
        int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")
    }


def settle(sock: RawSocket, total: int) -> list[bytes]:
    """Receives until every one of `total` packets sent since the socket was
    made is either received or counted as dropped."""
    deadline = time.monotonic() + WAIT
    packets: list[bytes] = []
    while True:
        packets += pending(sock)
        counts = sock.statistics()
        assert counts.packets_dropped is not None
        if counts.packets_received + counts.packets_dropped >= total:
            return packets
        assert time.monotonic() < deadline, f"packets are missing: {counts}"


@pytest.fixture
def plain() -> Iterator[socket.socket]:
    """An AF_PACKET socket of the stdlib that is bound to nothing."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        yield sock


def may(sock: socket.socket, option: int, value: int) -> bool:
    """Whether the kernel lets this user set the option, which asks for
    CAP_NET_ADMIN in the initial user namespace."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, value)
    except PermissionError:
        return False
    return True


# Construction


def test_kernel_queues_packets_of_other_interfaces_until_bind(
    veth: Veth, veth_factory: Callable[[], Veth]
) -> None:
    """Why the constructor opens its socket with protocol 0 (packet(7))."""
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
        flood(other.a, [frame(b"unwanted", ethertype=UNWANTED)]),
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
    unwanted = frame(b"unwanted", ethertype=UNWANTED)
    only_wanted = keep_ethertype(WANTED)
    with (
        RawSocket(veth.a, protocol=0) as sender,
        flood(veth.a, [unwanted]),
    ):
        with RawSocket(veth.b) as sock:
            assert receive(sock, 1)[0] == unwanted, "the flood is not there"
        for _ in range(scaled(100)):
            with RawSocket(veth.b, filter=only_wanted) as sock:
                sender.send(wanted)
                assert receive(sock, 1) == [wanted], (
                    "a packet that the filter rejects came out"
                )
                assert pending(sock) == []


def test_listens_when_the_constructor_returns(
    pair: Veth, scaled: Callable[[int], int]
) -> None:
    with RawSocket(pair.a, protocol=0) as sender:
        for number in range(scaled(20)):
            packet = frame(b"%d" % number)
            with RawSocket(pair.b) as sock:
                sender.send(packet)
                assert receive(sock, 1) == [packet]


def test_protocol_narrows_what_is_received(pair: Veth) -> None:
    with RawSocket(pair.b, protocol=WANTED) as sock:
        send(pair.a, frame(b"no", ethertype=UNWANTED), frame(b"yes"))
        assert receive(sock, 1) == [frame(b"yes")]
        assert pending(sock) == []


def test_kernel_binds_to_an_interface_that_is_down(
    veth: Veth, plain: socket.socket
) -> None:
    """Why the constructor asks for SO_ERROR: bind(2) itself succeeds."""
    veth.down("b")
    plain.bind((veth.b, ETH_P_ALL))
    pending_error = plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert pending_error == errno.ENETDOWN


@pytest.mark.parametrize("protocol", [ETH_P_ALL, 0])
def test_interface_that_is_down_is_refused(veth: Veth, protocol: int) -> None:
    veth.down("b")
    before = descriptors()
    with pytest.raises(OSError, match="Network is down") as caught:
        RawSocket(veth.b, protocol=protocol)
    assert caught.value.errno == errno.ENETDOWN
    assert caught.value.filename == veth.b, "the error names no interface"
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
        with pytest.raises(OSError, match="Network is down") as caught:
            sender.send(frame(b"down"))
        assert caught.value.errno == errno.ENETDOWN
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
            assert flags & fcntl.FD_CLOEXEC, "a child would inherit it"


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
        assert seen == bytes(8), "the kernel fed it packets"
        assert queued_bytes(idle) == 0
        assert idle.statistics().packets_received == 0


def test_send_only_socket_needs_an_interface() -> None:
    with pytest.raises(ValueError, match="needs an interface"):
        RawSocket(protocol=0)


def test_send_only_socket_keeps_the_default_receive_buffer(
    veth: Veth, plain: socket.socket
) -> None:
    with RawSocket(veth.a, protocol=0) as sock:
        option = (socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert sock.getsockopt(*option) == plain.getsockopt(*option)


# Options


def promiscuity(interface: str) -> int:
    (link,) = json.loads(ip("-d", "-json", "link", "show", interface))
    return int(link["promiscuity"])


def test_promisc_lasts_as_long_as_the_socket(veth: Veth) -> None:
    with RawSocket(veth.b, promisc=True):
        assert promiscuity(veth.b) == 1
    assert promiscuity(veth.b) == 0


def test_promisc_is_off_by_default(veth: Veth) -> None:
    with RawSocket(veth.b):
        assert promiscuity(veth.b) == 0


def test_promisc_needs_an_interface() -> None:
    with pytest.raises(ValueError, match="promisc needs an interface"):
        RawSocket(promisc=True)


def test_each_frame_on_loopback_appears_once_by_default() -> None:
    packets = [frame(b"%d" % number) for number in range(8)]
    with RawSocket("lo", protocol=WANTED) as sock:
        assert sock.getsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING) == 1
    with RawSocket("lo", filter=keep_ethertype(WANTED)) as sock:
        send("lo", *packets)
        assert receive(sock, 8) == packets
        assert pending(sock) == []


def test_ignore_outgoing_off_shows_loopback_twice() -> None:
    packets = [frame(b"%d" % number) for number in range(8)]
    with RawSocket(
        "lo", filter=keep_ethertype(WANTED), ignore_outgoing=False
    ) as sock:
        send("lo", *packets)
        assert sorted(receive(sock, 16)) == sorted(packets * 2)


def test_outgoing_frames_of_others_appear_by_default(pair: Veth) -> None:
    with RawSocket(pair.a) as tap:
        assert tap.getsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING) == 0
        send(pair.a, frame(b"sent"))
        assert receive(tap, 1) == [frame(b"sent")]


def test_ignore_outgoing_hides_the_frames_of_others(pair: Veth) -> None:
    with RawSocket(pair.a, ignore_outgoing=True) as tap:
        send(pair.a, frame(b"sent"))
        send(pair.b, frame(b"received"))
        assert receive(tap, 1) == [frame(b"received")]


def test_own_frames_do_not_come_back(pair: Veth) -> None:
    with RawSocket(pair.a) as sock:
        sock.send(frame(b"own"))
        send(pair.b, frame(b"other's"))
        assert receive(sock, 1) == [frame(b"other's")]


def test_all_interfaces_tell_from_which_each_packet_came(
    veth: Veth, veth_factory: Callable[[], Veth]
) -> None:
    other = veth_factory()
    only_wanted = keep_ethertype(WANTED)
    with RawSocket(filter=only_wanted, ignore_outgoing=True) as sock:
        sock.settimeout(WAIT)
        batch = PacketBatch(1)
        for pair in (veth, other):
            send(pair.a, frame(pair.b.encode()))
            sock.recvmmsg_into(batch)
            assert batch.ifindexes is not None
            assert batch.ifindexes[0] == socket.if_nametoindex(pair.b)
            assert batch.tolist() == [frame(pair.b.encode())]


def test_packet_types_tell_whom_a_packet_is_for(pair: Veth) -> None:
    expected = {
        HOST: hardware_address(pair.b),
        BROADCAST: b"\xff" * 6,
        MULTICAST: bytes.fromhex("01005e000001"),
        OTHERHOST: bytes.fromhex("020000001234"),
    }
    with RawSocket(pair.b, addresses=True) as sock:
        sock.settimeout(WAIT)
        batch = PacketBatch(1)
        for kind, address in expected.items():
            send(pair.a, frame(b"", dst=address))
            sock.recvmmsg_into(batch)
            assert batch.packet_types is not None
            assert batch.packet_types[0] == kind
            assert batch.ifindexes is not None
            assert batch.ifindexes[0] == sock.ifindex
        send(pair.b, frame(b""))
        sock.recvmmsg_into(batch)
        assert batch.packet_types is not None
        assert batch.packet_types[0] == OUTGOING


@pytest.mark.parametrize(
    ("interface", "addresses", "collected"),
    [
        (True, None, False),
        (True, True, True),
        (True, False, False),
        (False, None, True),
        (False, True, True),
        (False, False, False),
    ],
)
def test_addresses_are_collected_for_all_interfaces_or_when_asked(
    pair: Veth, interface: bool, addresses: bool | None, collected: bool
) -> None:
    with RawSocket(pair.b if interface else None, addresses=addresses) as sock:
        sock.settimeout(WAIT)
        batch = PacketBatch(1)
        send(pair.a, frame())
        sock.recvmmsg_into(batch)
        assert (batch.ifindexes is not None) == collected
        assert (batch.packet_types is not None) == collected


BUFFERS = [
    ("rcvbuf", socket.SO_RCVBUF, SO_RCVBUFFORCE),
    ("sndbuf", socket.SO_SNDBUF, SO_SNDBUFFORCE),
]


@pytest.mark.parametrize(("name", "option", "force"), BUFFERS)
def test_buffer_exceeds_the_limit_where_privilege_allows(
    pair: Veth, plain: socket.socket, name: str, option: int, force: int
) -> None:
    plain.setsockopt(socket.SOL_SOCKET, option, 1 << 30)
    limit = plain.getsockopt(socket.SOL_SOCKET, option) // 2
    asked = limit + 4096
    options: dict[str, Any] = {name: asked}
    with RawSocket(pair.b, **options) as sock:
        got = sock.getsockopt(socket.SOL_SOCKET, option)
    # socket(7): the kernel doubles what it is asked for.
    wanted = asked if may(plain, force, asked) else limit
    assert got == 2 * wanted


@pytest.mark.parametrize(("name", "option", "force"), BUFFERS)
def test_buffer_is_capped_without_privilege(
    name: str, option: int, force: int
) -> None:
    """In a user namespace the FORCE options are refused (EPERM)."""
    answer = run_python(
        f"""
        import socket
        from rawmmsg import RawSocket

        plain = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with plain:
            try:
                plain.setsockopt(socket.SOL_SOCKET, {force}, 4096)
            except PermissionError:
                print("refused")
            plain.setsockopt(socket.SOL_SOCKET, {option}, 1 << 30)
            limit = plain.getsockopt(socket.SOL_SOCKET, {option})
        with RawSocket({name}=limit // 2 + 4096) as sock:
            got = sock.getsockopt(socket.SOL_SOCKET, {option})
            print(got == limit)
        """,
        *("unshare", "--user", "--map-root-user", "--net"),
    )
    assert answer.split() == ["refused", "True"]


def test_receive_buffer_is_8_mib_by_default(
    pair: Veth, plain: socket.socket
) -> None:
    size = 8 << 20
    option = (socket.SOL_SOCKET, socket.SO_RCVBUF)
    if not may(plain, SO_RCVBUFFORCE, size):
        plain.setsockopt(*option, size)
    with RawSocket(pair.b) as sock:
        assert sock.getsockopt(*option) == plain.getsockopt(*option)


def test_the_kernels_own_default_holds_few_packets(pair: Veth) -> None:
    """Why the constructor asks for more: the default counts the memory of
    packets, of which a small frame is the smaller part."""
    with RawSocket(pair.b, rcvbuf=212_992 // 2) as sock:
        send(pair.a, *[frame(b"%d" % number) for number in range(512)])
        deadline = time.monotonic() + WAIT
        while not sock.statistics().packets_dropped:
            assert time.monotonic() < deadline, "512 small frames fit"
        assert pending(sock)


def test_qdisc_bypass_hides_frames_from_taps(pair: Veth) -> None:
    with (
        RawSocket(pair.a, ignore_outgoing=False) as tap,
        RawSocket(pair.a, protocol=0, qdisc_bypass=True) as sender,
        RawSocket(pair.b) as sock,
    ):
        assert sender.getsockopt(SOL_PACKET, PACKET_QDISC_BYPASS) == 1
        sender.send(frame(b"hidden"))
        send(pair.a, frame(b"shown"))
        assert receive(sock, 2) == [frame(b"hidden"), frame(b"shown")]
        assert receive(tap, 1) == [frame(b"shown")]


def test_qdisc_bypass_is_off_by_default(pair: Veth) -> None:
    with RawSocket(pair.a) as sock:
        assert sock.getsockopt(SOL_PACKET, PACKET_QDISC_BYPASS) == 0


def test_no_stamping_option_is_on_by_default(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        for name, option in STAMPING.items():
            value = sock.getsockopt(socket.SOL_SOCKET, option)
            assert value == 0, f"{name} is on"


def test_dgram_receives_without_the_link_header(pair: Veth) -> None:
    with RawSocket(pair.b, type=socket.SOCK_DGRAM) as sock:
        assert sock.type == socket.SOCK_DGRAM
        packet = frame(b"payload")
        send(pair.a, packet)
        assert receive(sock, 1) == [packet[14:]]


def test_filter_of_dgram_starts_at_layer_3(pair: Veth) -> None:
    """Why expressions are refused there: they are compiled for Ethernet."""
    with RawSocket(
        pair.b,
        type=socket.SOCK_DGRAM,
        filter=keep_ethertype(0x4142),
    ) as sock:
        packet = frame(b"0123456789..AB")
        send(pair.a, frame(b"rejected"), packet)
        assert receive(sock, 1) == [packet[14:]]


@pytest.mark.parametrize("kind", ["str", "PathLike"])
def test_netns_by_path(tmp_path: Any, kind: str) -> None:
    tool("ip")
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ
        | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"},
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        path: Any = f"/proc/{child.pid}/ns/net"
        if kind == "PathLike":
            path = tmp_path / "net"
            path.symlink_to(f"/proc/{child.pid}/ns/net")
        here = os.stat("/proc/thread-self/ns/net").st_ino
        with (
            RawSocket("lo", netns=path, filter=keep_ethertype(WANTED)) as sock,
            RawSocket("lo", filter=keep_ethertype(WANTED)) as ours,
        ):
            assert os.stat("/proc/thread-self/ns/net").st_ino == here, (
                "the caller's thread was moved"
            )
            with RawSocket("lo", netns=path, protocol=0) as sender:
                sender.send(frame(b"there"))
            assert receive(sock, 1) == [frame(b"there")]
            assert pending(ours) == []
        assert child.stdin is not None
        child.stdin.close()


def test_interface_is_looked_up_in_the_namespace_of_the_socket(
    pair: Veth,
) -> None:
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(OSError, match="No such device") as caught:
            RawSocket(pair.a, netns=f"/proc/{child.pid}/ns/net")
        assert caught.value.errno == errno.ENODEV
        assert child.stdin is not None
        child.stdin.close()


def test_netns_that_is_a_fifo_is_refused(tmp_path: Any) -> None:
    """Opening it must not wait for a writer."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="setns") as caught:
        RawSocket("lo", netns=path)
    assert caught.value.errno == errno.EINVAL


def test_netns_by_name() -> None:
    """A name is one of `ip netns`; /run is private to the child, which needs
    no privilege over the machine then."""
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


def test_socket_without_privilege_says_how_to_get_it() -> None:
    """A process that has dropped its capabilities is told what it lacks."""
    done = subprocess.run(
        [
            *("setpriv", "--inh-caps=-all", "--bounding-set=-all"),
            *(sys.executable, "-c", "import rawmmsg; rawmmsg.RawSocket('lo')"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError: [Errno 1] socket: " in done.stderr
    assert "CAP_NET_RAW" in done.stderr


# What the stdlib has too


def test_getsockopt_equals_the_stdlibs(pair: Veth) -> None:
    with RawSocket(pair.b, rcvbuf=100_000) as sock, same_socket(sock) as std:
        for level, option in [
            (socket.SOL_SOCKET, socket.SO_RCVBUF),
            (socket.SOL_SOCKET, socket.SO_TYPE),
            (socket.SOL_SOCKET, socket.SO_DOMAIN),
            (SOL_PACKET, PACKET_AUXDATA),
        ]:
            number = sock.getsockopt(level, option)
            assert number == std.getsockopt(level, option)
            for size in (1, 2, 4, 100):
                data = sock.getsockopt(level, option, size)
                assert data == std.getsockopt(level, option, size)
                assert type(data) is bytes


@pytest.mark.parametrize("size", [-1, 1025])
def test_getsockopt_refuses_a_size_as_the_stdlib_does(
    pair: Veth, size: int
) -> None:
    """The stdlib raises OSError here, without an errno."""
    with (
        RawSocket(pair.b) as sock,
        pytest.raises((OSError, ValueError)),
    ):
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE, size)


def test_getsockopt_of_an_unknown_option_raises_as_the_stdlib(
    pair: Veth,
) -> None:
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        for get in (sock.getsockopt, std.getsockopt):
            with pytest.raises(OSError, match="not available") as caught:
                get(SOL_PACKET, 999)
            assert caught.value.errno == errno.ENOPROTOOPT


def test_setsockopt_means_what_it_means_in_the_stdlib(pair: Veth) -> None:
    level, option = socket.SOL_SOCKET, socket.SO_PRIORITY
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        sock.setsockopt(level, option, 3)
        assert std.getsockopt(level, option) == 3
        for value in (struct.pack("i", 4), bytearray(struct.pack("i", 5))):
            sock.setsockopt(level, option, value)
            assert std.getsockopt(level, option, 4) == value
        for set_ in (sock.setsockopt, std.setsockopt):
            with pytest.raises(OSError, match="Invalid argument") as caught:
                set_(level, option, b"\0")
            assert caught.value.errno == errno.EINVAL
            with pytest.raises(TypeError):
                set_(level, option, "text")  # type: ignore[call-overload]
            with pytest.raises(TypeError):
                set_(level, option, None)  # type: ignore[call-overload]


def test_setsockopt_refuses_a_number_beyond_an_int(pair: Veth) -> None:
    with RawSocket(pair.b) as sock, pytest.raises(OverflowError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 1 << 40)


def test_setsockopt_of_none_passes_a_length_without_a_value(
    pair: Veth,
) -> None:
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        for set_ in (sock.setsockopt, std.setsockopt):
            with pytest.raises(OSError, match="Bad address") as caught:
                set_(socket.SOL_SOCKET, socket.SO_PRIORITY, None, 4)
            assert caught.value.errno == errno.EFAULT


def test_setsockopt_refuses_the_offload_header(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        with pytest.raises(ValueError, match="PACKET_VNET_HDR"):
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        assert sock.getsockopt(SOL_PACKET, PACKET_VNET_HDR) == 0


@pytest.mark.parametrize("protocol", [ETH_P_ALL, WANTED, 0])
def test_getsockname_equals_the_stdlibs(pair: Veth, protocol: int) -> None:
    with RawSocket(pair.b, protocol=protocol) as sock:
        with same_socket(sock) as std:
            assert sock.getsockname() == std.getsockname()
        name, its_protocol, _, link_type, address = sock.getsockname()
        assert name == pair.b
        assert its_protocol == protocol
        assert link_type == ARPHRD_ETHER
        assert address == hardware_address(pair.b)


def test_getsockname_of_all_interfaces_equals_the_stdlibs() -> None:
    with RawSocket() as sock, same_socket(sock) as std:
        assert sock.getsockname() == std.getsockname()


def test_getsockname_of_a_deleted_interface_equals_the_stdlibs(
    veth: Veth,
) -> None:
    with RawSocket(veth.b) as sock, same_socket(sock) as std:
        veth.delete()
        assert sock.getsockname() == std.getsockname()


def test_interface_ifindex_link_type_and_mtu_of_an_interface(
    pair: Veth,
) -> None:
    with RawSocket(pair.b) as sock:
        assert sock.interface == pair.b
        assert sock.ifindex == socket.if_nametoindex(pair.b)
        assert sock.link_type == ARPHRD_ETHER
        assert sock.mtu == 1500
        assert sock.family == socket.AF_PACKET
        assert sock.type == socket.SOCK_RAW


def test_link_type_of_loopback() -> None:
    with RawSocket("lo") as sock:
        assert sock.link_type == ARPHRD_LOOPBACK


def test_mtu_is_that_of_now(veth: Veth) -> None:
    with RawSocket(veth.b) as sock:
        ip("link", "set", veth.b, "mtu", "1400")
        assert sock.mtu == 1400


def test_all_interfaces_have_no_interface_ifindex_link_type_or_mtu() -> None:
    with RawSocket() as sock:
        assert sock.interface is None
        assert sock.ifindex is None
        assert sock.link_type is None
        assert sock.mtu is None


def test_state_cannot_be_assigned(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        for name in ("interface", "ifindex", "link_type", "mtu", "closed"):
            with pytest.raises(AttributeError):
                setattr(sock, name, 1)


# One packet


def test_recv_cuts_as_the_stdlib_does(pair: Veth) -> None:
    packet = frame(bytes(range(100)))
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        sock.settimeout(WAIT)
        std.settimeout(WAIT)
        for size in (0, 1, 13, 14, 60, len(packet), 5000):
            send(pair.a, packet, packet)
            assert sock.recv(size) == std.recv(size) == packet[:size]


def test_recv_returns_bytes_of_its_own(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        send(pair.a, frame(b"one"), frame(b"two"))
        first, second = sock.recv(2048), sock.recv(2048)
        assert type(first) is bytes
        assert (first, second) == (frame(b"one"), frame(b"two"))


def test_recv_refuses_a_negative_size_as_the_stdlib(pair: Veth) -> None:
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        for receiver in (sock, std):
            with pytest.raises(ValueError, match="negative"):
                receiver.recv(-1)


@pytest.mark.parametrize(
    ("size", "nbytes", "written"),
    [(100, 0, 100), (100, 20, 20), (2000, 0, 114), (20, 20, 20)],
)
def test_recv_into_writes_as_the_stdlib_does(
    pair: Veth, size: int, nbytes: int, written: int
) -> None:
    packet = (frame(bytes(range(100))) + bytes(100))[:114]
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        sock.settimeout(WAIT)
        std.settimeout(WAIT)
        send(pair.a, packet, packet)
        ours, theirs = bytearray(size), bytearray(size)
        assert sock.recv_into(ours, nbytes) == written
        assert std.recv_into(theirs, nbytes) == written
        assert ours == theirs == packet[:written].ljust(size, b"\0")


def test_recv_into_refuses_as_the_stdlib_does(pair: Veth) -> None:
    with RawSocket(pair.b) as sock, same_socket(sock) as std:
        for receiver in (sock, std):
            with pytest.raises(ValueError, match="negative"):
                receiver.recv_into(bytearray(9), -1)
            with pytest.raises(ValueError, match="buffer"):
                receiver.recv_into(bytearray(9), 10)
            with pytest.raises((TypeError, BufferError)):
                receiver.recv_into(bytes(9))


def test_send_returns_the_length(pair: Veth) -> None:
    with RawSocket(pair.a) as sender, RawSocket(pair.b) as sock:
        for packet in (frame(b"x" * 50), bytearray(frame(b"y" * 1000))):
            assert sender.send(packet) == len(packet)
            assert receive(sock, 1) == [packet]


def test_send_raises_as_the_stdlib_does(pair: Veth) -> None:
    with RawSocket(pair.a) as sender, same_socket(sender) as std:
        for sock in (sender, std):
            for size, number in ((13, errno.EINVAL), (1515, errno.EMSGSIZE)):
                with pytest.raises(OSError) as caught:
                    sock.send(bytes(size))
                assert caught.value.errno == number


# The life of the object


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


def test_close_is_harmless_when_closed(veth: Veth) -> None:
    sock = RawSocket(veth.b)
    before = descriptors()
    sock.close()
    after = descriptors()
    assert len(after) == len(before) - 2, "a descriptor stays open"
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
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        call(sock)
    assert caught.value.errno == errno.EBADF
    assert caught.value.filename == pair.b


def test_detach_leaves_the_descriptor_to_the_caller(veth: Veth) -> None:
    sock = RawSocket(veth.b)
    descriptor = sock.fileno()
    before = descriptors()
    assert sock.detach() == descriptor
    assert sock.closed
    assert sock.fileno() == -1
    assert sock.detach() == -1, "a second detach() gives the descriptor again"
    assert len(descriptors()) == len(before) - 1, "the eventfd stays open"
    sock.close()
    with socket.socket(fileno=descriptor) as std:
        std.settimeout(WAIT)
        send(veth.a, frame(b"detached"))
        assert std.recv(2048) == frame(b"detached")


def test_socket_that_is_not_closed_warns_and_closes(veth: Veth) -> None:
    sock = RawSocket(veth.b)
    descriptor = sock.fileno()
    before = descriptors()
    with pytest.warns(
        ResourceWarning,
        match=f"unclosed <RawSocket fd={descriptor} interface={veth.b}",
    ):
        del sock
        gc.collect()
    assert len(descriptors()) == len(before) - 2


def test_closed_or_detached_socket_does_not_warn(veth: Veth) -> None:
    """Warnings are errors in this suite, unraisable ones too."""
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


# Counters


def test_statistics_accumulate(pair: Veth) -> None:
    """The kernel's own counters start again each time they are read."""
    with RawSocket(pair.a) as sender, RawSocket(pair.b) as sock:
        packets = [frame(b"%d" % number) for number in range(10)]
        for turn in (1, 2, 3):
            assert sender.sendmmsg(packets) == 10
            receive(sock, 10)
            got, sent = sock.statistics(), sender.statistics()
            assert got.packets_received == 10 * turn
            assert got.packets_dropped == 0
            assert turn <= got.batches_received <= 10 * turn
            assert got.packets_sent == got.batches_sent == 0
            assert sent.packets_sent == 10 * turn
            assert sent.batches_sent == turn
            assert sent.send_retries == 0


def test_single_packet_calls_count_too(pair: Veth) -> None:
    with RawSocket(pair.a) as sender, RawSocket(pair.b) as sock:
        sock.settimeout(WAIT)
        sender.send(frame())
        sender.sendmmsg_all([frame(), frame()])
        sock.recv(100)
        sock.recv_into(bytearray(100))
        assert sender.statistics().packets_sent == 3
        assert sender.statistics().batches_sent == 2
        assert sock.statistics().packets_received == 2
        assert sock.statistics().batches_received == 2


def test_kernels_statistics_reset_on_read_and_include_drops(
    pair: Veth,
) -> None:
    """Why statistics() accumulates, and counts deliveries by itself."""
    with RawSocket(pair.b, rcvbuf=8192) as sock, same_socket(sock) as std:
        send(pair.a, *[frame(b"%d" % number) for number in range(500)])
        option = (SOL_PACKET, PACKET_STATISTICS, 8)
        deadline = time.monotonic() + WAIT
        packets = drops = 0
        while packets < 500:
            assert time.monotonic() < deadline
            more = struct.unpack("II", std.getsockopt(*option))
            packets, drops = packets + more[0], drops + more[1]
        assert packets == 500
        assert drops == 500 - len(pending(sock)) > 0
        assert struct.unpack("II", std.getsockopt(*option)) == (0, 0)


def test_received_and_dropped_make_sent(pair: Veth) -> None:
    # Fewer at a time than the kernel's backlog of received packets holds
    # (net.core.netdev_max_backlog): nothing is lost in front of the socket.
    packets = [frame(b"%d" % number) for number in range(500)]
    with (
        RawSocket(pair.a, protocol=0) as sender,
        RawSocket(pair.b, rcvbuf=8192) as sock,
    ):
        received: list[bytes] = []
        for turn in range(1, 21):
            sender.sendmmsg_all(packets)
            received += settle(sock, 500 * turn)
        counts = sock.statistics()
        assert counts.packets_dropped, "nothing was dropped: no test of it"
        assert counts.packets_received == len(received)
        assert len(received) + counts.packets_dropped == 10_000
        assert sender.statistics().packets_sent == 10_000


def test_statistics_are_a_named_tuple(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        counts = sock.statistics()
    assert tuple(counts) == (0, 0, 0, 0, 0, 0)
    assert counts[1] == counts.packets_dropped
    assert "packets_dropped=0" in repr(counts)


def test_name_that_is_not_utf8(veth_factory: Callable[..., Veth]) -> None:
    """As os.fsdecode() has it, in every place."""
    name = "v\udcff0"
    veth_factory(name, "peer-of-it")
    with RawSocket(name) as sock:
        assert sock.interface == name
        assert sock.getsockname()[0] == name


def test_name_of_a_str_subclass_runs_no_code_of_it(veth: Veth) -> None:
    class Name(str):
        def __str__(self) -> str:
            raise AssertionError("user code ran")

        __repr__ = __str__

    with RawSocket(Name(veth.a)) as sock:
        assert type(sock.interface) is str
        assert repr(veth.a) in repr(sock)


def test_statistics_of_the_kernel_are_read_in_one_place(veth: Veth) -> None:
    """The kernel starts again at 0 when asked: statistics() would lose
    drops."""
    with (
        RawSocket(veth.a) as sock,
        pytest.raises(ValueError, match=r"statistics\(\)"),
    ):
        sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)


@pytest.mark.parametrize("vnet_hdr", [False, None, 0])
@pytest.mark.parametrize("adopted", [False, True])
def test_datagram_socket_without_offload_headers(
    pair: Veth, vnet_hdr: Any, adopted: bool
) -> None:
    """vnet_hdr=False is accepted where headers are not possible."""
    kind = socket.SOCK_DGRAM
    options: dict[str, Any] = {"interface": pair.b, "type": kind}
    if adopted:
        std = socket.socket(socket.AF_PACKET, kind)
        options = {"fileno": std.detach()}
    with RawSocket(vnet_hdr=vnet_hdr, **options) as sock:
        assert sock.vnet_hdr == 0


def test_adopted_datagram_socket_cannot_have_offload_headers() -> None:
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as std,
        pytest.raises(ValueError, match="SOCK_RAW"),
    ):
        RawSocket(fileno=std.fileno(), vnet_hdr=True)


def test_option_that_tells_more_than_it_has_room_for() -> None:
    """NETLINK_LIST_MEMBERSHIPS tells how many bytes there would be."""
    sol_netlink, list_memberships = 270, 9
    std = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
    std.bind((0, 1))
    with RawSocket(fileno=std.detach()) as sock:
        assert len(sock.getsockopt(sol_netlink, list_memberships, 1)) <= 1


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
def test_protocol_in_network_order_is_warned_of(
    protocol: int, meant: str
) -> None:
    """As every AF_PACKET script has it, for the socket module. Not refused:
    it may be an EtherType of its own."""
    with pytest.warns(RuntimeWarning) as caught:
        RawSocket("lo", protocol=protocol).close()
    (warning,) = caught
    assert f"{protocol:#06x} is htons({meant})" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("protocol", [0x0003, 0x0800, 0x0806, 0x88B5, 0x1234])
def test_protocol_in_host_order_is_not_warned_of(protocol: int) -> None:
    RawSocket("lo", protocol=protocol).close()


def test_statistics_stay_after_close(pair: Veth, sender: RawSocket) -> None:
    """They are wanted exactly then, drops included."""
    sock = RawSocket(pair.b, rcvbuf=4096)
    sender.sendmmsg_all([frame(bytes(46))] * 200)
    received = len(pending(sock))
    while True:
        more = len(pending(sock))
        received += more
        if not more and sock.statistics().packets_dropped:
            break
    sender.sendmmsg_all([frame(bytes(46))] * 200)
    sock.close()
    last = sock.statistics()
    assert last.packets_received == received
    assert last.packets_dropped is not None
    assert 0 < last.packets_dropped <= 400 - received
    assert sock.statistics() == last


@pytest.mark.parametrize("name", ["protocol", "type", "rcvbuf", "fileno"])
def test_wrong_type_of_argument_is_named(name: str) -> None:
    options: dict[str, Any] = {name: "arp"}
    with pytest.raises(TypeError, match=f"{name} must be an int, not 'arp'"):
        RawSocket(**options)


def test_full_queue_and_refused_packet_are_both_named(pair: Veth) -> None:
    """The kernel says ENOBUFS of both, and only the caller can try another
    packet: the error says how often this one was tried."""
    ip("link", "set", pair.a, "mtu", "9000")
    try:
        with RawSocket(pair.a, protocol=0) as sock:
            packets = [frame(bytes(46)), frame(bytes(3000)), frame(bytes(46))]
            sock.settimeout(0.05)
            with pytest.raises(
                TimeoutError, match=r"packets\[1\], tried \d+ times.* MTU"
            ) as caught:
                sock.sendmmsg_all(packets)
            assert caught.value.packets_sent == 1  # type: ignore[attr-defined]
            sock.settimeout(None)
            with pytest.raises(
                OSError, match=r"packets\[1\], tried \d+ times.* MTU"
            ) as refused:
                sock.sendmmsg_all(packets)
            assert refused.value.errno == errno.ENOBUFS
    finally:
        ip("link", "set", pair.a, "mtu", "1500")
