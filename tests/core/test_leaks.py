"""Leaks: each case runs many times, and neither descriptors, nor memory, nor
(on a debug build of Python) references increase."""

import ctypes
import errno
import gc
import importlib.util
import mmap
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import FREE_THREADED
from support.datagrams import KINDS, Datagram
from support.flows import numbered_flow
from support.frames import LOCAL_EXPERIMENTAL, datagram_pair
from support.programs import accept
from support.recordings import SAMPLES
from support.small_rings import SmallGuest

import rawmmsg
from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket, bpf
from rawmmsg._rawmmsg import (
    _copy_frames,
    _FrameSorter,
    _GuestRings,
    _RecordFinder,
    _RecordWriter,
)
from rawmmsg.bpf import opcodes as op
from rawmmsg.testing import Veth
from rawmmsg.vhost import MappedRegion, Region

FRAME = b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(46)
DATAGRAM = Datagram(bytes(20)).build()

ROUNDS = 4
"""Other growth, such as a cache that fills, appears in some rounds, but a leak
in all. So the round with the least growth counts."""


class MallocInfo(ctypes.Structure):
    """struct mallinfo2 of mallinfo2(3)"""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena ordblks smblks hblks hblkhd"
            " usmblks fsmblks uordblks fordblks keepcost"
        ).split()
    ]


def native_bytes() -> int:
    """The bytes that malloc() has handed out; 0 if libc cannot tell (glibc
    can)."""
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is None:
        return 0
    function.restype = MallocInfo
    info = function()
    return int(info.uordblks + info.hblkhd)


def clear_names() -> None:
    """Clears CPython's cache of attribute lookups. It keeps up to 4096 names,
    and while it fills, it grows in every round: each import of a C module
    brings some new strings."""
    if sys.version_info >= (3, 13):
        sys._clear_internal_caches()
    else:
        sys._clear_type_cache()


def measure() -> dict[str, int]:
    """Quantities that increase by at least one with every run that leaks."""
    gc.collect()
    clear_names()
    count_references = getattr(sys, "gettotalrefcount", lambda: 0)
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "references": count_references(),
        # Free-threaded 3.13 leaks some references per type, also for the
        # standard library's _struct and _csv.
        "memory blocks": 0 if FREE_THREADED else sys.getallocatedblocks(),
        # The smallest block of malloc().
        "native memory": native_bytes() // 32,
    }


def assert_no_leak(case: Callable[[], object], runs: int = 100) -> None:
    for _ in range(runs):
        case()
    growth: dict[str, int] = {}
    gc.collect()
    gc.freeze()  # makes each later collection short
    try:
        for _ in range(ROUNDS):
            before = measure()
            for _ in range(runs):
                case()
            after = measure()
            for what in after:
                grown = after[what] - before[what]
                growth[what] = min(grown, growth.get(what, grown))
    finally:
        gc.unfreeze()
    leaks = {what: n for what, n in growth.items() if n >= runs // 2}
    assert not leaks, f"{case.__name__} leaks in {runs} runs: {leaks}"
    assert growth["descriptors"] <= 0


@contextmanager
def refused(*expected: type[BaseException]) -> Iterator[None]:
    """Like pytest.raises(), which would keep the exception alive longer."""
    try:
        yield
    except expected:
        return
    raise AssertionError(f"nothing raised one of {expected}")


@pytest.mark.parametrize(
    ("what", "leak"),
    [
        ("descriptors", lambda: os.open("/dev/null", os.O_RDONLY)),
        ("references", object),
        ("memory blocks", object),
        # So much that it shows, whatever other code frees meanwhile.
        ("native memory", lambda: ctypes.CDLL(None).malloc(4_000)),
    ],
)
def test_a_leak_is_detected(what: str, leak: Callable[[], object]) -> None:
    if not measure()[what]:
        return  # not counted by this build of Python
    kept: list[object] = []

    def case() -> None:
        kept.append(leak())

    with pytest.raises(AssertionError, match=what):
        assert_no_leak(case)
    if what == "descriptors":
        for descriptor in kept:
            assert isinstance(descriptor, int)
            os.close(descriptor)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, RawSocket]]:
    sender, receiver = datagram_pair()
    with sender, receiver:
        receiver.setblocking(False)
        yield sender, receiver


# Batches


def batch_of_its_own_memory() -> None:
    batch = PacketBatch(4, 64)
    batch.extend([FRAME, bytearray(FRAME)])
    assert [bytes(frame) for frame in batch] == batch.tolist()
    assert memoryview(batch).shape == (4, 64)
    assert list(batch.lengths[:2]) == [60, 60]
    batch.set_count(1)
    batch.clear()


def batch_of_the_callers_memory() -> None:
    flat = bytearray(256)
    batch = PacketBatch(buffer=flat, frame_size=64)
    batch.append(FRAME)
    with mmap.mmap(-1, 4096) as memory:
        scattered = PacketBatch(buffers=[flat, memory, bytearray(64)])
        scattered.extend([FRAME, FRAME])
        del scattered
    del batch
    flat.append(0)


def views_that_outlive_their_batch() -> None:
    batch = PacketBatch(4, 64)
    batch.append(FRAME)
    frame, iterator = batch[0], iter(batch)
    lengths, table = batch.lengths, memoryview(batch)
    del batch
    frame[0] = 1
    assert (table[0, 0], lengths[0]) == (1, 60)
    assert next(iterator) == frame


def batch_in_a_cycle() -> None:
    class Holder(bytearray):
        batch: PacketBatch

    memory = Holder(64)
    memory.batch = PacketBatch(buffer=memory, frame_size=64)


def batches_that_are_refused() -> None:
    with refused(TypeError):
        PacketBatch("4")  # type: ignore[arg-type]
    with refused(ValueError):
        PacketBatch(0)
    with refused(ValueError, OverflowError, MemoryError):
        PacketBatch(1 << 62, 1 << 62)
    with refused(BufferError, TypeError, ValueError):
        PacketBatch(buffer=bytes(64), frame_size=64)
    with refused(BufferError, TypeError, ValueError):
        PacketBatch(buffer=memoryview(bytearray(64))[::2], frame_size=8)
    with refused(BufferError, TypeError, ValueError):
        PacketBatch(buffers=[bytearray(64), bytearray(64), b"fixed"])
    with refused(TypeError):
        PacketBatch(buffers=[bytearray(64), None])  # type: ignore[list-item]
    with refused(TypeError, ValueError):
        PacketBatch(buffer=bytearray(64), buffers=[bytearray(64)])


def misuse_of_a_batch() -> None:
    batch = PacketBatch(2, 64)
    with refused(ValueError):
        batch.append(bytes(65))
    with refused(TypeError):
        batch.append("text")  # type: ignore[arg-type]
    with refused(ValueError):
        batch.extend([FRAME] * 3)
    batch.clear()
    with refused(TypeError):
        batch.extend([FRAME, None])  # type: ignore[list-item]
    with refused(IndexError):
        batch[2]
    with refused(ValueError):
        batch.set_count(3)
    batch.set_count(2)
    batch.lengths[1] = 65
    with refused(ValueError):
        batch[1]
    with refused(ValueError):
        batch.tolist()


def checksums_of_a_batch() -> None:
    batch = PacketBatch(4, 128)
    batch.extend([DATAGRAM, DATAGRAM, FRAME])
    assert batch.compute_checksums() == 2
    statuses = batch.verify_checksums()
    assert statuses.tolist() == [1, 1, 0]
    batch.lengths[1] = 129
    for call in (batch.compute_checksums, batch.verify_checksums):
        with refused(ValueError):
            call()
    del batch
    assert statuses[0] == 1


def filters_over_packets() -> None:
    program = bpf.compile("udp or vlan 5")
    beside = {op.SKF_AD_PROTOCOL: 2**40}
    trace: list[int] = []
    for packet in (FRAME, memoryview(FRAME)[::2], bytearray()):
        program.accept_length(packet, 2**40, (5, 0x8100), trace=trace)
        program.matches(packet, None, 5, 0, 1, ancillary=beside)
        with refused(AttributeError):
            program.accept_length(packet, trace=())  # type: ignore[arg-type]
        with refused(TypeError):
            program.matches(packet, vlan=(5, "x"))  # type: ignore[arg-type]
        with refused(TypeError):
            program.matches(packet, ancillary={0: ""})  # type: ignore[dict-item]
    with refused(TypeError):
        program.matches(64)  # type: ignore[arg-type]
    with refused(ValueError):
        bpf.Program(bytes(8))


def merging() -> None:
    """Between batches of both kinds, and with what is refused."""
    flow = [one.build() for one in numbered_flow(KINDS["udp4"], [50] * 4)]
    source, target = PacketBatch(4, 128), PacketBatch(2, 512)
    scattered = PacketBatch(buffers=[bytearray(512), bytearray(60)])
    source.extend(flow)
    assert source.merge_into(target, flows=256, keep_ids=False) == 4
    assert source.merge_into(scattered, 1, segments=2, max_length=900) == 3
    assert target.segment_into(source) == (1, 0)
    assert source.compute_checksums() == 4
    assert source.verify_checksums().nbytes == 4
    with refused(ValueError):
        source.merge_into(target, 5)
    with refused(ValueError):
        source.merge_into(target, flows=0)
    with refused(ValueError):
        source.merge_into(PacketBatch(1, 60))
    with refused(TypeError):
        source.merge_into(target, max_length="1")  # type: ignore[arg-type]
    with refused(TypeError):
        source.merge_into(None)  # type: ignore[arg-type]
    with refused(BufferError):
        source.merge_into(source)


def module_made_again() -> None:
    spec = rawmmsg._rawmmsg.__spec__
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PacketBatch(2, 64).append(FRAME)


@pytest.mark.parametrize(
    "case",
    [
        batch_of_its_own_memory,
        batch_of_the_callers_memory,
        views_that_outlive_their_batch,
        batch_in_a_cycle,
        batches_that_are_refused,
        misuse_of_a_batch,
        checksums_of_a_batch,
        module_made_again,
    ],
)
def test_batches_do_not_leak(case: Callable[[], None]) -> None:
    assert_no_leak(case)


def test_running_filters_does_not_leak() -> None:
    assert_no_leak(filters_over_packets)


# Names of attributes


def test_names_of_attributes_are_interned() -> None:
    """CPython's cache of attribute lookups keeps up to 4096 names, and removes
    those of other code for them. An interned name is one object; otherwise
    each call brings a new one."""
    names: list[str] = []

    class Asked:
        """Has attributes, and remembers which were read."""

        def __init__(self, **attributes: object) -> None:
            vars(self).update(attributes)

        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("__"):
                names.append(name)
            return super().__getattribute__(name)

    numbers: Any = Asked(guest_address=0, user_address=0)
    region: Any = Asked(region=numbers, memory=bytearray(4096))
    addresses: Any = Asked(descriptors=0, available=64, used=128)
    rings = _GuestRings(1)
    rings.set_memory([region])
    rings.set_addresses(0, addresses)
    trace: Any = Asked(append=[].append)
    bpf.compile("").accept_length(FRAME, trace=trace)
    expected = ["region", "guest_address", "user_address", "memory"]
    expected += ["descriptors", "available", "used", "append"]
    assert names == expected
    copies = [name for name in names if name is not sys.intern(name)]
    assert not copies


# The frames of a switch


def test_frames_of_a_switch_do_not_leak() -> None:
    batch, target = PacketBatch(2, 64), PacketBatch(2, 60)
    batch.extend([FRAME, FRAME])
    choices = bytearray(b"\5\0")

    def sort() -> None:
        sorter = _FrameSorter(batch)
        assert len(sorter.sort()) == 1
        assert sorter.counts() == [2]
        view = sorter.show(choices)
        assert len(view[1]) == len(FRAME) + 4
        target.clear()
        assert _copy_frames(view, 0, 2, target) == 0
        assert _copy_frames(batch, 0, 2, target) == 2
        with refused(IndexError):
            sorter.sort([2])
        assert len(sorter.sort()) == 1
        with refused(ValueError):
            sorter.show(b"")
        with refused(TypeError):
            _FrameSorter(None)  # type: ignore[arg-type]

    assert_no_leak(sort)


# Recordings


def test_recordings_do_not_leak() -> None:
    data = bytearray(4096)
    null = os.open(os.devnull, os.O_WRONLY)

    def use() -> None:
        slices = PacketBatch(buffer=data, offsets=[0, 9], lengths=b"ab")
        assert len(slices[1]) == 98
        with refused(BufferError):
            slices.append(FRAME)
        with refused(ValueError):
            PacketBatch(buffer=data, offsets=[0, 9], lengths=5000)
        with refused(TypeError):
            PacketBatch(buffer=data, offsets=[0], lengths="5")  # type: ignore[arg-type]
        for content in SAMPLES.values():
            finder = _RecordFinder(2)
            at = wanted = 0
            while not wanted and at < len(content):
                found = finder.find(content, at, 2 * at + 50)
                at, wanted = found[1:3]
            assert finder.totals()[0] >= 3
            finder.reset()
        with refused(ValueError):
            finder.find(data, 0, 100)
            finder.find(data, 5000, 6000)
        writer = _RecordWriter(True, 60)
        writer.write(null, slices, 0, -1, 1, 0, 7, 1)
        with refused(OSError):
            writer.write(-1, slices, 0, 2, 1, [0, 0], range(2), 1)
        with refused(ValueError):
            writer.write(null, slices, 0, 2, 1, [0, 0], None, 1)
        assert writer.progress()[0] == 2

    try:
        assert_no_leak(use)
    finally:
        os.close(null)


# A guest's rings


def test_frames_of_a_guest_do_not_leak() -> None:
    rings = _GuestRings(2, bytes(accept()))
    batch = PacketBatch(2, SUPER_FRAME)

    def move() -> None:
        guest = SmallGuest(rings)
        guest.start()
        for index in range(2):
            guest.add(index)
        batch.clear()
        batch.append(FRAME)
        assert rings.sendmmsg(batch) == 1
        with refused(BlockingIOError):
            rings.sendmmsg(batch)
        assert rings.recvmmsg_into(batch) == 1
        with refused(BlockingIOError):
            rings.recvmmsg_into(batch)
        assert rings.broken(0) is None
        assert rings.statistics()["sent"]
        guest.stop()
        guest.close()

    assert_no_leak(move)


def test_requests_that_rings_refuse_do_not_leak() -> None:
    rings = _GuestRings(1)
    empty = MappedRegion(Region(8192, 0, 8192, 0), memoryview(b""))

    def request() -> None:
        memory = bytearray(4096)
        good = MappedRegion(Region(0, 4096, 0, 0), memoryview(memory))
        tables = [good] * 2, [good, empty], [good] * 9, [good, None], [1], 1
        for table in tables:
            with refused(ValueError, AttributeError, BufferError, TypeError):
                rings.set_memory(table)  # type: ignore[arg-type]
        good.memory.release()
        memory.append(0)  # it is not in use any more
        with refused(ValueError):
            rings.start(0)
        with refused(ValueError, OverflowError):
            rings.set_size(0, 1 << 40)
        with refused(AttributeError):
            rings.set_addresses(0, None)  # type: ignore[arg-type]
        for call in (rings.send, rings.recvmmsg_into, rings.sendmmsg):
            with refused(TypeError):
                call(None)  # type: ignore[arg-type]
        with refused(ValueError):
            rings.recvmmsg_into(PacketBatch(1))
        with refused(ValueError):
            _GuestRings(0)

    assert_no_leak(request)


def test_rings_that_are_deleted_do_not_leak() -> None:
    """While they run, and in a cycle of references."""

    class Holder(bytearray):
        rings: _GuestRings

    def delete() -> None:
        guest = SmallGuest(_GuestRings(1))
        guest.start()
        guest.add(1)
        del guest.rings
        guest.close()
        with refused(ValueError):
            _GuestRings(1, b"1")
        memory = Holder(4096)
        memory.rings = _GuestRings(1)
        region = MappedRegion(Region(0, 4096, 0, 0), memoryview(memory))
        memory.rings.set_memory([region])
        # So that the next run uses what the kernel made for this one.
        del memory, region
        gc.collect(0)

    assert_no_leak(delete)


# Packets


def test_receiving_does_not_leak(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    sender, receiver = pair
    batch = PacketBatch(4, 64)
    buffer = bytearray(64)

    def receive() -> None:
        for _ in range(4):
            sender.send(FRAME)
        assert receiver.recv(2048) == FRAME
        assert receiver.recv_into(buffer) == 60
        assert receiver.recvmmsg_into(batch) == 2

    assert_no_leak(receive)


def test_addresses_do_not_leak(short_path: Path) -> None:
    path = str(short_path / "receiver")
    peer = str(short_path / "peer")
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(path)
    sender.bind(peer)
    batch = PacketBatch(4, 64)

    def use() -> None:
        fresh = PacketBatch(4, 64)
        other.sendto(FRAME, path)
        other.sendmmsg([FRAME], addresses=path)
        sock.peer = peer
        assert sock.recvfrom(64) == (FRAME, peer)
        assert sock.recvmmsg_into(fresh) == 1
        assert fresh.address(0) == sock.peer == peer
        other.sendmmsg(fresh, addresses=path)
        sock.recvmmsg_into(batch)
        sock.peer = b"\0another"
        with refused(OSError):
            other.sendto(FRAME, sock.peer)
        wrong: Any
        for wrong in ("", "a" * 109, "a\0b", "\ud800", 1, ("a", 1)):
            with refused(ValueError, TypeError):
                other.sendmmsg([FRAME], addresses=wrong)
            with refused(ValueError, TypeError):
                other.sendto(FRAME, wrong)
        with refused(IndexError):
            fresh.address(1)

    with (
        RawSocket(fileno=receiver.detach(), addresses=True) as sock,
        RawSocket(fileno=sender.detach()) as other,
    ):
        assert_no_leak(use)


def test_addresses_of_interfaces_do_not_leak(veth: Veth) -> None:
    batch = PacketBatch(4, 64)
    address = (veth.a, LOCAL_EXPERIMENTAL, 0, 0, b"\xff" * 6)

    def use() -> None:
        sock.sendto(FRAME, address)
        sock.sendmmsg(
            [FRAME] * 2, addresses=[address, (1, LOCAL_EXPERIMENTAL)]
        )
        end.recvmmsg_into(batch)
        assert isinstance(batch.address(0), tuple)
        sock.sendto(FRAME, address)
        assert end.recvfrom(64)[0] == FRAME
        cooked.sendmmsg(batch, addresses=True)
        wrong: Any
        for wrong in ("lo", (), ("lo", -1), ("lo", 0, 0, 0, bytes(99))):
            with refused(ValueError, TypeError):
                sock.sendto(FRAME, wrong)
        with refused(OSError):
            sock.sendmmsg([FRAME] * 2, addresses=[address, ("none", 0)])
        with refused(ValueError):
            sock.sendmmsg([FRAME], addresses=[])
        with refused(ValueError):
            sock.sendmmsg(PacketBatch(1), addresses=True)
        with refused(ValueError):
            end.sendto(FRAME, address)

    with (
        RawSocket() as sock,
        RawSocket(type=socket.SOCK_DGRAM) as cooked,
        RawSocket(veth.b, addresses=True, ignore_outgoing=True) as end,
    ):
        assert_no_leak(use)


def test_receiving_nothing_does_not_leak(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    receiver = pair[1]
    batch = PacketBatch(4, 64)

    def receive() -> None:
        receiver.setblocking(False)
        with refused(BlockingIOError):
            receiver.recvmmsg_into(batch)
        with refused(BlockingIOError):
            receiver.recv(64)
        receiver.settimeout(0.0001)
        with refused(TimeoutError):
            receiver.recvmmsg_into(batch)
        with refused(TimeoutError):
            receiver.recv_into(bytearray(64))
        with refused(TypeError):
            receiver.recvmmsg_into(buffer)  # type: ignore[arg-type]
        with refused(BufferError, TypeError):
            receiver.recv_into(b"fixed")

    buffer = bytearray(64)
    assert_no_leak(receive)


def test_sending_does_not_leak(pair: tuple[socket.socket, RawSocket]) -> None:
    peer, sock = pair
    batch = PacketBatch(2, 64)
    batch.extend([FRAME, FRAME])

    def send() -> None:
        sock.send(FRAME)
        sock.sendmmsg(batch)
        sock.sendmmsg([FRAME, (FRAME, bytearray(4))])
        sock.sendmmsg_all((FRAME, memoryview(FRAME)))
        for _ in range(7):
            peer.recv(2048)

    assert_no_leak(send)


def test_refused_sends_do_not_leak(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    peer, sock = pair
    batch = PacketBatch(2, 64)
    batch.set_count(2)
    batch.lengths[1] = 65

    def send() -> None:
        with refused(ValueError):
            sock.sendmmsg(batch)
        with refused(TypeError):
            sock.sendmmsg([FRAME, (FRAME, None)])  # type: ignore[list-item]
        with refused(TypeError):
            sock.sendmmsg_all(5)  # type: ignore[arg-type]
        with refused(OSError):
            sock.send(bytes(1 << 24))
        with refused(OSError):
            sock.sendmmsg_all([FRAME, bytes(1 << 24)])
        with suppress(BlockingIOError):
            while True:
                peer.setblocking(False)
                peer.recv(2048)

    assert_no_leak(send, 20)


# Sockets


def test_filters_and_options_do_not_leak(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    sock = pair[1]

    def use() -> None:
        sock.attach_filter(accept())
        sock.detach_filter()
        with refused(OSError):
            sock.detach_filter()
        with refused(OSError):
            sock.attach_filter(accept() * 5000)
        with refused(ValueError, OSError):
            sock.attach_filter(b"odd")
        with refused(OSError):
            sock.attach_filter(0)
        with refused(TypeError):
            sock.attach_filter(None)  # type: ignore[arg-type]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4)
        with refused(OSError):
            sock.getsockname()
        sock.statistics()
        assert sock.interface is None

    assert_no_leak(use)


def adopt_and_close() -> None:
    one, other = datagram_pair()
    with one, other:
        assert not other.closed


def adopt_and_detach() -> None:
    one, other = datagram_pair()
    one.close()
    os.close(other.detach())


def adopt_and_forget() -> None:
    one, other = datagram_pair()
    one.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del other


def adopt_what_is_refused() -> None:
    with open("/dev/null", "rb") as file, refused(OSError, ValueError):
        RawSocket(fileno=file.fileno())
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with stream, refused(OSError, ValueError):
        RawSocket(fileno=stream.fileno())
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other, refused(OSError, ValueError):
        RawSocket(fileno=one.fileno(), filter=accept() * 5000)
    with refused(OSError, ValueError):
        RawSocket(fileno=-5)


@pytest.mark.parametrize(
    "case",
    [
        adopt_and_close,
        adopt_and_detach,
        adopt_and_forget,
        adopt_what_is_refused,
    ],
)
def test_adopted_sockets_do_not_leak(case: Callable[[], None]) -> None:
    assert_no_leak(case)


def test_packet_sockets_do_not_leak(veth: Veth) -> None:
    batch = PacketBatch(4, 64)

    def use() -> None:
        with (
            RawSocket(veth.a, protocol=0) as sender,
            RawSocket(
                veth.b,
                promisc=True,
                filter=accept(),
                timestamps="software",
                addresses=True,
            ) as receiver,
        ):
            sender.sendmmsg_all([FRAME])
            receiver.settimeout(10)
            receiver.recvmmsg_into(batch)
            receiver.getsockname()
            receiver.statistics()
            assert receiver.mtu == 1500

    assert_no_leak(use, 16)


def test_refused_packet_sockets_do_not_leak(veth: Veth) -> None:
    def construct() -> None:
        with refused(OSError):
            RawSocket("none")
        with refused(OSError, ValueError):
            RawSocket("a" * 16)
        with refused(OSError):
            RawSocket(veth.a, filter=accept() * 5000)
        with refused(TypeError, ValueError):
            RawSocket(veth.a, timestamps="hard")  # type: ignore[arg-type]
        with refused(TypeError):
            RawSocket(veth.a, unknown=1)  # type: ignore[call-arg]
        with refused(OSError):
            RawSocket(veth.a, netns="/nonexistent")

    assert_no_leak(construct, 16)


def test_close_during_a_call_does_not_leak(
    pair: tuple[socket.socket, RawSocket],
) -> None:
    def close() -> None:
        one, other = datagram_pair()
        started = threading.Event()
        errors = []

        def receive() -> None:
            started.set()
            try:
                other.recv(64)
            except OSError as error:
                errors.append(error.errno)

        thread = threading.Thread(target=receive)
        thread.start()
        started.wait()
        other.close()
        thread.join()
        one.close()
        assert errors == [errno.EBADF]

    assert_no_leak(close, 50)
