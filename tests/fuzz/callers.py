"""Makes random calls."""

import errno
import fcntl
import gc
import mmap
import os
import socket
import struct
import sys
import traceback
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, Final

from arguments import HEADERS, SIZES, Arguments, Disturbance, World
from support.datagrams import ACK, TCP, UDP, Datagram, add
from support.flows import numbered_flow
from support.frames import LOCAL_EXPERIMENTAL

from rawmmsg import (
    PACKET_AUXDATA,
    PACKET_VNET_HDR,
    SOL_PACKET,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import veth_pair

SIOCSIFFLAGS: Final = 0x8914

SOCKETS, BATCHES, VIEWS, BUFFERS, PEERS = 10, 10, 24, 8, 6
"""How many of each are kept."""

ALLOWED: Final = (
    *(OSError, ValueError, TypeError, BufferError, OverflowError),
    *(IndexError, MemoryError, NotImplementedError),
)
"""All that calls may raise, besides the AttributeError of a column that was
not collected. NotImplementedError: a memoryview of rows as a sequence."""

COLUMNS: Final = (
    *("lengths", "wire_lengths", "timestamps_ns", "ifindexes", "flags"),
    *("packet_types", "vlan_tcis", "vlan_tpids", *HEADERS),
)

# The calls. Each argument is the name of the method of Caller that makes it.
# "?" may be left out; "name=" may be given by name, "name==" must be.
SOCKET_CALLS: Final = {
    "recvmmsg_into": ("batch",),
    "sendmmsg": (
        *("packets", "start=number?", "stop=number?"),
        "addresses=addresses?",
    ),
    "sendto": ("buffer", "address"),
    "sendmmsg_all": ("packets",),
    "recv": ("size",),
    "recvfrom": ("size",),
    "recv_into": ("buffer", "size?"),
    "send": ("buffer",),
    "attach_filter": ("filter",),
    "detach_filter": (),
    "set_fanout": ("mode", "number?", "flags=number?", "program=filter?"),
    "add_membership": ("hardware",),
    "drop_membership": ("hardware",),
    "statistics": (),
    "getsockopt": ("option", "size?"),
    "setsockopt": ("option", "value"),
    "getsockname": (),
    "fileno": (),
    "settimeout": ("timeout",),
    "gettimeout": (),
    "getblocking": (),
    "__enter__": (),
    "__repr__": (),
}
SOCKET_ATTRIBUTES: Final = (
    *("closed", "family", "type", "interface", "ifindex", "link_type", "mtu"),
    *("vnet_hdr", "fanout_group", "peer", "strangers", "proto", "timeout"),
)
BATCH_CALLS: Final = {
    "append": ("buffer",),
    "extend": ("packets",),
    "address": ("number",),
    "clear": (),
    "set_count": ("number",),
    "tolist": (),
    "complete_checksums": (),
    "compute_checksums": (),
    "verify_checksums": (),
    "segment_into": ("batch", "start=number?", "segment=number?"),
    "merge_into": (
        *("batch", "start=number?", "flows==number?", "keep_ids==flag?"),
        *("segments==number?", "max_length==size?", "udp==flag?"),
    ),
    "__getitem__": ("number",),
    "__len__": (),
    "__repr__": (),
}
BATCH_ATTRIBUTES: Final = ("capacity", "frame_size")


STEPS: Final = {
    "call_socket": 30,
    "call_batch": 20,
    "receive": 20,
    "look": 10,
    "write_column": 8,
    "write_frames": 4,
    "fill": 6,
    "fill_to_merge": 6,
    "resize": 4,
    "new_batch": 4,
    "new_socket": 6,
    "adopt": 4,
    "reach": 8,
    "close": 3,
    "drop": 1,
}
"""What a caller does, and how often."""


class Ring:
    """The last calls, in memory that outlives the process that made them."""

    RECORDS, SIZE = 200, 160

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self.RECORDS * self.SIZE)
        self._next = 0

    def note(self, text: str) -> None:
        at = self._next % self.RECORDS * self.SIZE
        record = f"{self._next:9} {text}".encode("ascii", "replace")
        self._memory[at : at + self.SIZE] = record[: self.SIZE].ljust(
            self.SIZE
        )
        self._next += 1

    def read(self) -> str:
        text = bytes(self._memory).replace(b"\0", b" ").decode()
        records = (
            text[i : i + self.SIZE].rstrip()
            for i in range(0, len(text), self.SIZE)
        )
        return "\n".join(sorted(filter(None, records)))


class Owner(bytearray):
    """Memory that refers to the batch over it, which makes a cycle."""

    batch: PacketBatch


class Caller(Arguments):
    """Makes random calls. Each thread has one, and the signal handler."""

    def __init__(self, world: World, ring: Ring, seed: str) -> None:
        super().__init__(world, seed)
        self.ring = ring
        self.main = False
        """May fork, and take links away."""
        self.interruptible = False
        """Inside of a call that loses nothing when the handler raises."""

    def arguments(
        self, names: tuple[str, ...]
    ) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name in names:
            keyword, _, maker = name.rpartition("=")
            by_name = keyword.endswith("=")
            if maker.endswith("?") and self.chance(2):
                break
            make = getattr(self, maker.rstrip("?"))
            # None would be a call that waits for ever.
            value = make() if name == "timeout" else self.maybe_wrong(make)
            if keyword and (by_name or self.chance(2)):
                kwargs[keyword.rstrip("=")] = value
            elif maker == "option" and isinstance(value, tuple):
                args.extend(value)
            elif not kwargs:
                args.append(value)
        return args, kwargs

    # Calls

    def call(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Makes a call and checks what it raises."""
        given = [short(one) for one in args]
        given += [f"{name}={short(one)}" for name, one in kwargs.items()]
        name = getattr(function, "__qualname__", str(function))
        target = short(getattr(function, "__self__", None))
        text = f"{'  ' * self.depth}{target} {name}({', '.join(given)})"
        self.ring.note(text)
        self.world.calls += 1
        try:
            self.interruptible = (
                name.startswith(("RawSocket", "PacketBatch"))
                and name != "RawSocket.detach"
            )
            return function(*args, **kwargs)
        except Disturbance:
            pass
        except ALLOWED as error:
            self.world.refused += 1
            # Random bytes are not valid pointers.
            if (
                isinstance(error, OSError)
                and error.errno == errno.EFAULT
                and not name.endswith("sockopt")
            ):
                self.world.fail(f"{text}: {error!r}")
        except AttributeError as error:
            self.world.refused += 1
            # "no time stamps: ...": a column that was not collected.
            if not str(error).startswith("no "):
                self.world.fail(f"{text}: {traceback.format_exc()}")
        except BaseException:
            self.world.fail(f"{text}: {traceback.format_exc()}")
        finally:
            self.interruptible = False
        return None

    def step(self) -> None:
        self.depth += 1
        # A Sneak makes steps inside of an interruptible call; a step itself
        # would lose the descriptors that it opens.
        interruptible, self.interruptible = self.interruptible, False
        try:
            (name,) = self.random.choices(tuple(STEPS), tuple(STEPS.values()))
            getattr(self, name)()
        except Disturbance:
            pass  # raised by the signal handler outside a call
        finally:
            self.depth -= 1
            self.interruptible = interruptible

    def call_method(
        self, target: Any, calls: dict[str, tuple[str, ...]], attributes: Any
    ) -> Any:
        if self.chance(5):
            name = self.random.choice(attributes)
            return self.call(getattr, target, name)
        name, makers = self.random.choice(tuple(calls.items()))
        args, kwargs = self.arguments(makers)
        return self.call(getattr(target, name), *args, **kwargs)

    def call_socket(self) -> None:
        sock = self.random.choice(tuple(self.world.sockets))
        self.call_method(sock, SOCKET_CALLS, SOCKET_ATTRIBUTES)

    def call_batch(self) -> None:
        made = self.call_method(self.batch(), BATCH_CALLS, BATCH_ATTRIBUTES)
        if isinstance(made, memoryview):
            self.keep(self.world.views, made, VIEWS)

    def reach(self) -> None:
        """Calls with addresses, usually of the socket's own family."""
        sockets = tuple(self.world.sockets)
        able = [sock for sock in sockets if sock.ifindex is None]
        sock = self.random.choice(able or sockets)
        address = self.address()
        peers = [p for p in self.world.peers if p.family == sock.family]
        if sock.family == socket.AF_PACKET and self.chance(2):
            address = (
                self.random.choice(self.world.interfaces),
                LOCAL_EXPERIMENTAL,
            )
            address += (0, 1, self.random.randbytes(6))
        elif peers and not self.chance(4):
            with suppress(OSError):  # it may be closed by now
                address = self.random.choice(peers).getsockname()
        kind = self.random.randrange(4)
        if kind == 0:
            self.call(setattr, sock, "peer", self.maybe_wrong(lambda: address))
        elif kind == 1:
            self.call(sock.sendto, self.buffer(), address)
        elif kind == 2:
            self.call(sock.sendto, self.payload()[:1400], address)
        else:
            packets = [self.payload()[:1400]] * self.random.randrange(4)
            one = sock.family != socket.AF_PACKET
            addresses = address if one else [address] * len(packets)
            self.call(sock.sendmmsg, packets, addresses=addresses)

    def traffic(self) -> None:
        """Sends packets to all sockets that may receive."""
        packet = self.payload()[:1400].ljust(20, b"\0")
        for sender, name in zip(
            self.world.senders, self.world.interfaces, strict=True
        ):
            with suppress(OSError):
                sender.sendto(packet, (name, 0))
        for peer in tuple(self.world.peers):
            with suppress(OSError):
                peer.send(packet)

    def receive(self) -> None:
        """Receives, and reads the metadata of what was received."""
        self.traffic()
        sock = self.random.choice(tuple(self.world.sockets))
        batch = self.batch()
        kind = self.random.randrange(6)
        if kind == 0:
            self.call(sock.recvfrom, 2048)
        elif kind == 1:
            self.call(sock.recv_into, bytearray(self.random.choice(SIZES)))
        elif kind == 2:
            self.call(sock.recv, self.random.choice(SIZES))
        elif self.call(sock.recvmmsg_into, batch) is not None:
            self.call(batch.address, self.random.randrange(3))
            self.call(getattr, batch, self.random.choice(COLUMNS))
            if self.chance(2):
                other = self.random.choice(tuple(self.world.sockets))
                self.call(other.sendmmsg, batch, addresses=True)

    def keep(self, kept: list[Any], one: Any, limit: int) -> None:
        """Adds an object; replaces another if there are enough."""
        if len(kept) < limit:
            kept.append(one)
        else:
            # The old one may be in use, or be freed here.
            kept[self.random.randrange(limit)] = one

    def look(self) -> None:
        """Takes a view of a batch, or reads an older one."""
        if self.chance(2):
            view = self.random.choice(tuple(self.world.views))
            self.call(bytes, view)
            return
        batch = self.batch()
        if self.chance(4):
            view = self.call(memoryview, batch)
        else:
            view = self.call(getattr, batch, self.random.choice(COLUMNS))
        if view is not None:
            self.keep(self.world.views, view, VIEWS)

    def write_column(self) -> None:
        batch = self.batch()
        if self.chance(3):
            column, value = batch.lengths, self.random.choice(SIZES)
            value = 2**32 - 1 if self.chance(20) else value
        else:
            name, values = self.random.choice(tuple(HEADERS.items()))
            column = self.call(getattr, batch, name)
            value = self.random.choice(values)
        if column is not None:
            i = self.random.randrange(min(len(column), 8))
            self.call(column.__setitem__, i, value)

    def write_frames(self) -> None:
        view = self.random.choice(tuple(self.world.views))
        if view.format == "B" and view.ndim == 1 and len(view) > 0:
            at = self.random.randrange(len(view))
            data = self.random.randbytes(self.random.randrange(40))
            end = min(len(view), at + len(data))
            self.call(view.__setitem__, slice(at, end), data[: end - at])

    def fill(self) -> None:
        """Makes frames for segment_into() and complete_checksums()."""
        batch = self.batch()
        self.call(batch.clear)
        for _ in range(self.random.randrange(4)):
            datagram = Datagram(
                bytes(self.random.choice((0, 1, 100, 1400, 20000))),
                self.random.choice((TCP, UDP)),
                self.random.choice((4, 6)),
                self.random.choice(((), (0x8100,), (0x88A8, 0x8100))),
                flags=self.random.choice((ACK, 0xFF)),
            )
            self.call(add, batch, datagram, self.random.choice((0, 8, 1000)))

    def fill_to_merge(self) -> None:
        """Makes frames for merge_into(), and merges them."""
        batch, target = self.batch(), self.batch()
        first = Datagram(
            protocol=self.random.choice((TCP, UDP)),
            version=self.random.choice((4, 6)),
        )
        sizes = [self.random.choice((1, 40, 1000))] * self.random.randrange(9)
        self.call(batch.clear)
        for one in numbered_flow(first, sizes):
            if self.chance(2):
                self.call(add, batch, one)
            else:
                self.call(batch.append, one.build())
        self.call(batch.merge_into, target)

    def resize(self) -> None:
        """Resizes memory that may be in use."""
        buffer = self.random.choice(tuple(self.world.buffers))
        if self.chance(2):
            self.call(buffer.extend, bytes(self.random.randrange(3000)))
        else:
            self.call(buffer.__delitem__, slice(self.random.choice(SIZES)))
        if len(buffer) > 70000:
            self.keep(self.world.buffers, bytearray(2048), BUFFERS)

    def new_batch(self) -> None:
        kind = self.random.randrange(6)
        args: list[Any] = [
            self.maybe_wrong(lambda: self.random.choice((1, 2, 3, 64, -1))),
            self.maybe_wrong(self.size),
        ][: self.random.randrange(3)]
        if kind < 2:
            batch = self.call(PacketBatch, *args)
        elif kind == 2:
            batch = self.call(PacketBatch, *args, buffer=self.buffer())
        elif kind == 3:
            batch = self.call(PacketBatch, buffers=self.packets())
        elif kind == 4:
            batch = self.call(PacketBatch, **self.slices())
        else:
            owner = Owner(self.random.choice(SIZES))
            batch = self.call(PacketBatch, buffer=owner)
            if batch is not None:
                owner.batch = batch
        if batch is not None:
            self.keep(self.world.batches, batch, BATCHES)

    def slices(self) -> dict[str, Any]:
        """Arguments for a batch of slices, some of them wrong."""
        count = self.random.choice((0, 1, 3, 64))
        return {
            "buffer": self.buffer(),
            "offsets": self.maybe_wrong(lambda: self.column(count)),
            "lengths": self.maybe_wrong(lambda: self.column(count)),
        }

    def column(self, count: int) -> Any:
        """Integers, as a list or an array."""
        most = self.random.choice((0, 30, 30, 5000))
        items = [self.random.randint(0, most) for _ in range(count)]
        return self.random.choice((items, array("q", items), len(items)))

    def socket_options(self) -> dict[str, Any]:
        makers: dict[str, Callable[[], Any]] = {
            "filter": self.filter,
            "promisc": self.flag,
            "ignore_outgoing": self.flag,
            "vlan": self.flag,
            "addresses": self.flag,
            "timestamps": lambda: self.random.choice(("software", "hardware")),
            "vnet_hdr": lambda: self.random.choice((0, 10, 12, True, 11)),
            "fanout": self.fanout,
            "allmulti": self.flag,
            "multicast": lambda: [self.random.randbytes(6)],
            "qdisc_bypass": self.flag,
            "rcvbuf": lambda: self.random.choice((0, 4096, 100000, -1)),
            "sndbuf": lambda: self.random.choice((0, 4096, 100000, -1)),
        }
        count = self.random.choice((0, 0, 1, 1, 2, 4))
        names = self.random.sample(tuple(makers), count)
        return {name: self.maybe_wrong(makers[name]) for name in names}

    def new_socket(self) -> None:
        options = self.socket_options()
        if self.chance(2):
            options["type"] = self.random.choice((2, 3, 3, 1))
        if self.chance(2):
            options["protocol"] = self.random.choice(
                (0, 3, LOCAL_EXPERIMENTAL, 0x800)
            )
        # A thread opens it, and AddressSanitizer forks well without others.
        if self.chance(6) and not self.world.forks:
            options["netns"] = self.random.choice(("/proc/self/ns/net", "no"))
        if self.chance(3):
            options["allow_down"] = True
        interface = self.maybe_wrong(self.interface)
        self.keep_socket(self.call(RawSocket, interface, **options))

    def keep_socket(self, sock: RawSocket | None) -> None:
        if sock is not None:
            sock.settimeout(self.random.choice((0, 0.001, 0.004)))
            self.keep(self.world.sockets, sock, SOCKETS)

    def adopt(self) -> None:
        with ExitStack() as stack:
            for end in self.descriptors(stack):
                number = os.dup(end.fileno())
                identity = os.fstat(number).st_ino
                try:
                    options = self.socket_options()
                    if self.chance(2):
                        options = self.random.choice(({}, {"addresses": True}))
                    sock = self.call(RawSocket, fileno=number, **options)
                    if sock is not None:
                        self.keep_socket(sock)
                        sock = number = -1
                finally:
                    # A handler that raises may have done so before or after
                    # the object took it over.
                    if number >= 0 and is_open(number, identity):
                        os.close(number)

    def descriptors(self, stack: ExitStack) -> Iterator[Any]:
        """Yields one or two descriptors of some kind that may be adopted."""
        kind = self.random.randrange(8)
        if kind == 0:
            yield stack.enter_context(open("/dev/null", "rb"))
        elif kind < 4:
            kinds = (socket.SOCK_DGRAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
            one, other = socket.socketpair(
                socket.AF_UNIX, self.random.choice(kinds)
            )
            other.bind("")  # to a name that the kernel chooses
            self.keep_peer(other)
            yield stack.enter_context(one)
        elif kind < 6:
            local, family = self.random.choice(
                (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))
            )
            one, other = (
                socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)
            )
            self.keep_peer(other)
            stack.enter_context(one)
            with suppress(OSError):  # where loopback is down
                one.bind((local, 0))
                other.connect(one.getsockname())
                if self.chance(2):
                    one.connect(other.getsockname())
            yield one
        else:
            family, style, protocol = self.random.choice(
                (
                    (socket.AF_NETLINK, socket.SOCK_RAW, 0),
                    (socket.AF_PACKET, socket.SOCK_RAW, 0x300),
                    (socket.AF_PACKET, socket.SOCK_DGRAM, 0),
                )
            )
            one = socket.socket(family, style, protocol)
            stack.enter_context(one)
            with suppress(OSError):
                if family == socket.AF_PACKET:
                    if self.chance(3):
                        one.setsockopt(
                            SOL_PACKET,
                            self.random.choice(
                                (PACKET_AUXDATA, PACKET_VNET_HDR)
                            ),
                            1,
                        )
                    one.bind((self.random.choice(self.world.interfaces), 3))
            yield one

    def keep_peer(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self.keep(self.world.peers, peer, PEERS)

    def close(self) -> None:
        sock = self.random.choice(tuple(self.world.sockets))
        kind = self.random.randrange(4)
        if kind == 0:
            number = self.call(sock.detach)
            if number is not None and number >= 0:
                os.close(number)
        elif kind == 1:
            self.call(sock.__exit__, None, None, None)
        elif kind == 2:
            self.call(sock.lock_filter)
        else:
            self.call(sock.close)
        if len(self.world.sockets) > SOCKETS // 2 and self.chance(2):
            with suppress(ValueError):  # another caller was faster
                self.world.sockets.remove(sock)

    def drop(self) -> None:
        """Rare steps: garbage collection, another process, a link that
        disappears."""
        kind = self.random.randrange(10)
        if kind < 5:
            self.call(gc.collect)
        elif not self.main or self.depth > 1:
            pass
        elif kind < 8 and self.world.forks:
            self.call(self.fork)
        elif kind < 9 or not self.chance(4):
            self.call(flip, self.random.choice(self.world.interfaces))
        else:
            self.call(self.world.unstable.delete)
            self.call(veth_pair, self.world.unstable.a, self.world.unstable.b)

    def fork(self) -> None:
        """Forks; the child uses, closes and drops its copies of the
        objects."""
        pid = os.fork()
        if pid == 0:
            self.main = False
            for _ in range(30):
                self.step()
            self.world.end()
            if self.world.failure is not None:
                print(self.world.failure, file=sys.stderr, flush=True)
            os._exit(self.world.failure is not None)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            self.world.fail(f"the forked child ended with status {status}")


def short(one: Any) -> str:
    """A short text for an object or argument of a call."""
    if isinstance(one, bytes | bytearray):
        return f"{type(one).__name__}[{len(one)}]"
    if isinstance(one, list | tuple):
        return f"{type(one).__name__}[{', '.join(map(short, one[:3]))}..]"
    return repr(one)[:50]


def is_open(number: int, inode: int) -> bool:
    try:
        return os.fstat(number).st_ino == inode
    except OSError:
        return False


def flip(interface: str) -> None:
    """Sets a link down and up again."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for flags in (0, 1):
            request = struct.pack("16sH14x", interface.encode(), flags)
            fcntl.ioctl(control, SIOCSIFFLAGS, request)
