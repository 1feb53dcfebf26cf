"""Every call of the C module, valid and invalid, for tests that make all of
them under unusual conditions."""

import operator
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth
from support import WAIT
from support.datagrams import Datagram, add
from support.frames import LOCAL_EXPERIMENTAL, PACKET
from support.programs import accept, keep_ethertype

PROGRAM: Final = accept()
RCVBUF: Final = (socket.SOL_SOCKET, socket.SO_RCVBUF)
GROUP: Final = bytes.fromhex("01005e000001")
COLUMNS: Final = (
    *("lengths", "wire_lengths", "timestamps_ns", "ifindexes"),
    *("packet_types", "flags", "vlan_tcis", "vlan_tpids", "vnet_flags"),
    *("gso_types", "header_lengths", "gso_sizes", "checksum_starts"),
    *("checksum_offsets", "buffer_counts"),
)
PROPERTIES: Final = (
    *("closed", "family", "type", "proto", "interface", "ifindex"),
    *("link_type", "vnet_hdr", "fanout_group", "mtu", "timeout"),
)


@dataclass
class Scene:
    """The objects that the calls use."""

    veth: Veth
    peer: socket.socket
    """The other end of `plain`."""
    plain: RawSocket
    """An adopted AF_UNIX socket."""
    sender: RawSocket
    """A send-only socket whose packets `packet` receives."""
    packet: RawSocket
    """Collects all metadata."""
    everywhere: RawSocket
    """A socket on all interfaces."""
    batch: PacketBatch
    other: PacketBatch
    sock: RawSocket
    """For calls that close their socket; `prepare` makes a new one."""
    lent: int = -1
    """A descriptor to adopt, made by `prepare`."""

    def lend(self, kind: int = socket.SOCK_DGRAM) -> None:
        self.lent = socket.socket(socket.AF_UNIX, kind).detach()

    def lend_packet(self) -> None:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((self.veth.a, 3))
        self.lent = sock.detach()

    def reset(self) -> None:
        """Removes what earlier calls have left."""
        if self.lent == self.sock.fileno():
            self.lent = -1  # the socket still owns it
        self.sock.close()
        if self.lent >= 0:
            os.close(self.lent)
            self.lent = -1
        for sock in (self.plain, self.packet, self.everywhere):
            while receives(partial(sock.recvmmsg_into, self.other)):
                pass
        while receives(partial(self.peer.recv, 1)):
            pass
        self.batch.clear()
        self.other.clear()

    def release(self, result: object) -> object:
        """Closes the descriptors of a result; returns what can be compared."""
        if isinstance(result, RawSocket):
            if result.fileno() == self.lent:
                result.detach()
            result.close()
        elif self.lent >= 0 and result == self.lent:
            return "the descriptor"  # whatever its number
        return result if isinstance(result, int | bytes) else type(result)


def receives(receive: Callable[[], object]) -> bool:
    try:
        receive()
    except BlockingIOError:
        return False
    return True


@contextmanager
def make_scene(veth: Veth) -> Iterator[Scene]:
    peer, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with (
        peer,
        RawSocket(fileno=end.detach(), addresses=True) as plain,
        RawSocket(veth.a, protocol=0) as sender,
        RawSocket(
            veth.b, addresses=True, vnet_hdr=12, timestamps="software"
        ) as packet,
        RawSocket(filter=keep_ethertype(LOCAL_EXPERIMENTAL)) as everywhere,
    ):
        peer.setblocking(False)
        peer.bind("")  # to a name that the kernel chooses
        for sock in (plain, sender, packet, everywhere):
            sock.setblocking(False)
        scene = Scene(
            veth,
            peer,
            plain,
            sender,
            packet,
            everywhere,
            PacketBatch(4, 2048),
            PacketBatch(8, 256),
            RawSocket(veth.a),
        )
        yield scene
        scene.reset()


Prepare: TypeAlias = Callable[[Scene], object]
Bind: TypeAlias = Callable[[Scene], Callable[[], object]]
"""Returns the call with its arguments, made with partial(), because a Python
function in between would have allocations of its own."""


def outcome(bind: Bind, prepare: Prepare, scene: Scene) -> object:
    """What the call returns or raises when it gets all the memory that it asks
    for."""
    scene.reset()
    prepare(scene)
    try:
        return scene.release(bind(scene)())
    except Exception as error:
        return type(error)


def nothing(scene: Scene) -> None:
    pass


# Constructors


def batch(*args: Any, **options: Any) -> Bind:
    return lambda _: partial(PacketBatch, *args, **options)


BATCHES: Final = {
    "default": batch(),
    "sizes": batch(4, 128),
    "no size": batch(0),
    "buffer": batch(4, buffer=bytearray(256)),
    "rows": batch(buffer=memoryview(bytearray(256)).cast("B", (4, 64))),
    "read-only": batch(buffer=bytes(256)),
    "no frame": batch(buffer=bytearray(1)),
    "buffers": batch(buffers=[bytearray(64)] * 3),
    "bad buffers": batch(buffers=[bytearray(64), b"1"]),
    "both": batch(4, buffers=[]),
}


def construct(**options: Any) -> Bind:
    return lambda scene: partial(RawSocket, scene.veth.a, **options)


def construct_on(interface: str | None, **options: Any) -> Bind:
    return lambda _: partial(RawSocket, interface, **options)


def adopt(**options: Any) -> Bind:
    return lambda scene: partial(RawSocket, fileno=scene.lent, **options)


NEW: Final = {
    "interface": construct(),
    "all": construct_on(None),
    "loopback": construct_on("lo"),
    "sender": construct(protocol=0),
    "datagrams": construct(type=socket.SOCK_DGRAM),
    "program": construct(filter=PROGRAM),
    "expression": construct(filter="ip"),
    "membership": construct(promisc=True, allmulti=True, multicast=[GROUP]),
    "options": construct(
        ignore_outgoing=True, qdisc_bypass=True, rcvbuf=65536, sndbuf=65536
    ),
    "stamps": construct(timestamps="software"),
    "no stamps": construct(timestamps="hardware"),
    "headers": construct(vnet_hdr=12),
    "fanout": construct(fanout="hash"),
    "fanout program": construct(
        filter=PROGRAM, fanout=("cbpf", None, 0, PROGRAM)
    ),
    "no fanout": construct(fanout=("nothing", 1)),
    "namespace": construct(netns="/proc/self/ns/net"),
    "no namespace": construct(netns="nothing"),
    "no interface": construct_on("nothing"),
    "no name": construct_on("a" * 16),
    "no filter": construct(filter=b"odd"),
    "no option": construct(nothing=1),
    "no address": construct(multicast=[GROUP, b""]),
    "no descriptor": construct_on(None, fileno=-5),
}

ADOPTED: Final = {
    "plain": adopt(),
    "program": adopt(filter=PROGRAM),
    "long program": adopt(filter=PROGRAM * 5000),
    "sizes": adopt(rcvbuf=4096, sndbuf=4096),
    "option of others": adopt(promisc=True),
}

ADOPTED_PACKET: Final = {
    "plain": adopt(),
    "all": adopt(
        vlan=True,
        addresses=True,
        vnet_hdr=True,
        timestamps="software",
        filter="ip",
        promisc=True,
        multicast=[GROUP],
        fanout="lb",
    ),
    "no address": adopt(vlan=True, multicast=[b""]),
}


# Methods of a batch


def fill(scene: Scene) -> None:
    """Puts three packets into the batch, the last a super-frame."""
    scene.batch.extend([PACKET, PACKET])
    add(scene.batch, Datagram(bytes(1000)), gso_size=300)


def on_batch(name: str, *args: Any) -> Bind:
    return lambda scene: partial(getattr(scene.batch, name), *args)


def with_batch(function: Callable[..., object], *args: Any) -> Bind:
    return lambda scene: partial(function, scene.batch, *args)


OF_BATCHES: Final[dict[str, Bind]] = {
    "repr": with_batch(repr),
    "item": with_batch(operator.getitem, -1),
    "no item": with_batch(operator.getitem, 3),
    "view": with_batch(memoryview),
    "list": with_batch(list),
    "tolist": on_batch("tolist"),
    "append": on_batch("append", PACKET),
    "append a long one": on_batch("append", bytes(4096)),
    "extend": on_batch("extend", [PACKET]),
    "extend too far": on_batch("extend", [PACKET] * 2),
    "clear": on_batch("clear"),
    "set_count": on_batch("set_count", 2),
    "set_count too far": on_batch("set_count", 5),
    "complete_checksums": on_batch("complete_checksums"),
    "compute_checksums": on_batch("compute_checksums"),
    "verify_checksums": on_batch("verify_checksums"),
    "segment_into": lambda scene: partial(
        scene.batch.segment_into, scene.other
    ),
    "segment_into itself": lambda scene: partial(
        scene.batch.segment_into, scene.batch
    ),
    "segment_into nowhere": lambda scene: partial(
        scene.batch.segment_into, scene.other, 9
    ),
    "merge_into": lambda scene: partial(
        scene.batch.merge_into, scene.other, flows=256
    ),
    "merge_into itself": lambda scene: partial(
        scene.batch.merge_into, scene.batch
    ),
    "merge_into nowhere": lambda scene: partial(
        scene.batch.merge_into, scene.other, 9
    ),
    "capacity": with_batch(getattr, "capacity"),
    "frame_size": with_batch(getattr, "frame_size"),
}


# Methods of a socket


def queue(scene: Scene) -> None:
    """Sends one packet to each of the receiving sockets."""
    scene.peer.send(PACKET)
    scene.sender.send(PACKET)
    for sock in (scene.packet, scene.everywhere):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        assert poll.poll(WAIT * 1000), "no packet arrives"


def receive(scene: Scene) -> None:
    """Receives a packet into the batch, with its address and all metadata."""
    queue(scene)
    scene.packet.recvmmsg_into(scene.batch)


def receive_everywhere(scene: Scene) -> None:
    queue(scene)
    scene.everywhere.recvmmsg_into(scene.batch)


def receive_datagram(scene: Scene) -> None:
    queue(scene)
    scene.plain.recvmmsg_into(scene.batch)


def fill_plain(scene: Scene) -> None:
    scene.batch.extend([PACKET, PACKET, PACKET])


def renew(scene: Scene) -> None:
    scene.sock = RawSocket(scene.veth.a)


def renew_to_detach(scene: Scene) -> None:
    renew(scene)
    scene.lent = scene.sock.fileno()


def renew_and_close(scene: Scene) -> None:
    renew(scene)
    scene.sock.close()


def on(which: str, name: str, *args: Any, **options: Any) -> Bind:
    """A method of one of the sockets. The argument "batch" stands for the
    batch."""

    def bind(scene: Scene) -> Callable[[], object]:
        given = (scene.batch if one == "batch" else one for one in args)
        return partial(getattr(getattr(scene, which), name), *given, **options)

    return bind


def with_socket(function: Callable[..., object], *args: Any) -> Bind:
    return lambda scene: partial(function, scene.plain, *args)


OF_SOCKETS: Final[dict[str, tuple[Prepare, Bind]]] = {
    "repr": (nothing, on("packet", "__repr__")),
    "recvmmsg_into": (queue, on("packet", "recvmmsg_into", "batch")),
    "nothing waits": (nothing, on("packet", "recvmmsg_into", "batch")),
    "no batch": (nothing, on("packet", "recvmmsg_into", PACKET)),
    "recv": (queue, on("plain", "recv", 2048)),
    "recv, nothing waits": (nothing, on("plain", "recv", 2048)),
    "recv with headers": (nothing, on("packet", "recv", 2048)),
    "recv_into": (queue, on("plain", "recv_into", bytearray(2048))),
    "send": (nothing, on("plain", "send", PACKET)),
    "send a long one": (nothing, on("sender", "send", bytes(9000))),
    "sendmmsg": (fill_plain, on("plain", "sendmmsg", "batch", 1, 2)),
    "sendmmsg a super-frame": (fill, on("plain", "sendmmsg", "batch", 2)),
    "sendmmsg a sequence": (
        nothing,
        on("plain", "sendmmsg", [PACKET, (PACKET, PACKET)]),
    ),
    "sendmmsg what is no buffer": (
        nothing,
        on("plain", "sendmmsg", [PACKET, 5]),
    ),
    "sendmmsg to addresses": (
        fill_plain,
        on(
            "everywhere",
            "sendmmsg",
            "batch",
            addresses=[("lo", 0), ("lo", 0), (1, 0, 0, 1, b"123456")],
        ),
    ),
    "sendmmsg to where it came from": (
        receive_everywhere,
        on("everywhere", "sendmmsg", "batch", addresses=True),
    ),
    "sendmmsg to nobody": (
        nothing,
        on("everywhere", "sendmmsg", [PACKET], addresses=[("nothing", 0)]),
    ),
    "sendmmsg, no address": (
        nothing,
        on("everywhere", "sendmmsg", [PACKET], addresses=["lo"]),
    ),
    "sendto": (nothing, on("everywhere", "sendto", PACKET, ("lo", 0))),
    "sendto a name": (
        nothing,
        lambda scene: partial(
            scene.plain.sendto, PACKET, scene.peer.getsockname()
        ),
    ),
    "sendto nobody": (nothing, on("plain", "sendto", PACKET, "\0nobody")),
    "recvfrom": (queue, on("everywhere", "recvfrom", 2048)),
    "recvfrom a name": (queue, on("plain", "recvfrom", 2048)),
    "address": (receive, on("batch", "address", 0)),
    "address, a name": (receive_datagram, on("batch", "address", -1)),
    "peer": (
        lambda scene: setattr(scene.plain, "peer", "/nothing"),
        with_socket(getattr, "peer"),
    ),
    "peer set": (nothing, with_socket(setattr, "peer", "/nothing")),
    "strangers": (nothing, with_socket(getattr, "strangers")),
    "sendmmsg_all": (fill_plain, on("plain", "sendmmsg_all", "batch")),
    "sendmmsg_all a sequence": (
        nothing,
        on("plain", "sendmmsg_all", (PACKET, (PACKET, PACKET))),
    ),
    "sendmmsg_all a long one": (
        nothing,
        on("sender", "sendmmsg_all", [PACKET, bytes(9000)]),
    ),
    "attach_filter": (nothing, on("packet", "attach_filter", PROGRAM)),
    "an expression": (nothing, on("packet", "attach_filter", "ip")),
    "no program": (nothing, on("packet", "attach_filter", bytes(8))),
    "detach_filter": (
        lambda scene: scene.packet.attach_filter(PROGRAM),
        on("packet", "detach_filter"),
    ),
    "no filter": (nothing, on("plain", "detach_filter")),
    "lock_filter": (renew, on("sock", "lock_filter")),
    "set_fanout": (renew, on("sock", "set_fanout", "lb", 5)),
    "no fanout": (nothing, on("plain", "set_fanout", "lb", 5)),
    "add_membership": (renew, on("sock", "add_membership", GROUP)),
    "drop_membership": (nothing, on("packet", "drop_membership", GROUP)),
    "statistics": (nothing, on("packet", "statistics")),
    "getsockopt": (nothing, on("plain", "getsockopt", *RCVBUF)),
    "getsockopt bytes": (nothing, on("plain", "getsockopt", *RCVBUF, 4)),
    "no option": (nothing, on("plain", "getsockopt", 1, -1)),
    "setsockopt": (nothing, on("plain", "setsockopt", *RCVBUF, 9999)),
    "setsockopt bytes": (
        nothing,
        on("plain", "setsockopt", *RCVBUF, bytes(4)),
    ),
    "getsockname": (nothing, on("packet", "getsockname")),
    "no name": (nothing, on("plain", "getsockname")),
    "fileno": (nothing, on("plain", "fileno")),
    "settimeout": (nothing, on("sender", "settimeout", 0.5)),
    "no timeout": (nothing, on("sender", "settimeout", -1)),
    "gettimeout": (nothing, on("sender", "gettimeout")),
    "setblocking": (nothing, on("sender", "setblocking", False)),
    "getblocking": (nothing, on("sender", "getblocking")),
    "enter": (renew, on("sock", "__enter__")),
    "exit": (renew, on("sock", "__exit__", None, None, None)),
    "close": (renew, on("sock", "close")),
    "detach": (renew_to_detach, on("sock", "detach")),
    "closed": (renew_and_close, on("sock", "send", PACKET)),
    "sendmmsg_all, closed": (
        renew_and_close,
        on("sock", "sendmmsg_all", [PACKET]),
    ),
}


def attribute(name: str, *, received: bool = False) -> tuple[Prepare, Bind]:
    """An attribute of the socket, or of the batch after a receive."""
    if not received:
        return nothing, lambda scene: partial(getattr, scene.packet, name)

    return receive, lambda scene: partial(getattr, scene.batch, name)


ATTRIBUTES: Final = {
    **{name: attribute(name) for name in PROPERTIES},
    **{name: attribute(name, received=True) for name in COLUMNS},
}
