"""Filters: attaching, replacing, detaching, locking, and what the kernel
refuses."""

import array
import ctypes
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import WAIT
from support.calls import raises, repeating
from support.frames import (
    LOCAL_EXPERIMENTAL,
    OTHER_EXPERIMENTAL,
    datagram_pair,
    flood,
    frame,
    pending,
    receive,
    send,
)
from support.programs import (
    JEQ,
    LD_H_ABS,
    LD_IMM,
    LDX_MSH,
    RET,
    accept,
    keep_ethertype,
    program,
)

from rawmmsg import TRUNCATED, PacketBatch, RawSocket
from rawmmsg.testing import Veth

LD_B_ABS = 0x30


def keep_first_byte(byte: bytes) -> bytes:
    """A program that accepts only datagrams that begin with this byte."""
    return program(
        (LD_B_ABS, 0, 0, 0),
        (JEQ, 0, 1, byte[0]),
        (RET, 0, 0, 0xFFFF),
        (RET, 0, 0, 0),
    )


def queue(sock: RawSocket, interface: str, *packets: bytes) -> None:
    """Sends the packets and waits until they are in the socket's queue."""
    with (
        RawSocket(sock.interface) as witness,
        socket.socket(fileno=os.dup(sock.fileno())) as std,
    ):
        send(interface, *packets)
        receive(witness, len(packets))
        std.settimeout(WAIT)
        std.recv(1, socket.MSG_PEEK)


class Instruction(ctypes.Structure):
    """struct sock_filter"""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


# Forms of a program


def as_ctypes(code: bytes) -> Any:
    return (Instruction * (len(code) // 8)).from_buffer_copy(code)


@pytest.mark.parametrize(
    "form",
    [bytes, bytearray, memoryview, lambda c: array.array("Q", c), as_ctypes],
    ids=["bytes", "bytearray", "memoryview", "array", "ctypes"],
)
def test_any_buffer_of_instructions_is_a_filter(
    form: Callable[[bytes], Any],
) -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        sock.attach_filter(form(keep_first_byte(b"+")))
        for message in (b"-no", b"+yes", b"-no", b"+end"):
            sender.send(message)
        assert receive(sock, 2) == [b"+yes", b"+end"]


@pytest.mark.parametrize("wrong", [None, True, 1.5, [b"\0" * 8], object()])
def test_filter_must_be_a_buffer_or_an_expression(wrong: Any) -> None:
    sender, sock = datagram_pair()
    with sender, sock, pytest.raises(TypeError):
        sock.attach_filter(wrong)


def test_filter_that_is_not_contiguous_is_refused() -> None:
    sender, sock = datagram_pair()
    with sender, sock, pytest.raises(BufferError):
        sock.attach_filter(memoryview(accept() * 4)[::2])


@pytest.mark.parametrize("size", [1, 7, 9, 4095])
def test_size_of_a_filter_must_be_a_multiple_of_8(size: int) -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        with pytest.raises(ValueError, match=rf"8 bytes each\), not {size} "):
            sock.attach_filter(bytes(size))


def test_buffer_is_released_after_attaching() -> None:
    sender, sock = datagram_pair()
    code = bytearray(accept())
    with sender, sock:
        sock.attach_filter(code)
        code[:] = b"\0" * 100  # can be resized, because nothing holds it
        sender.send(b"message")
        assert receive(sock, 1) == [b"message"]


# What the kernel refuses


REFUSED = {
    "empty": b"",
    "no return at the end": program((LD_IMM, 0, 0, 1)),
    "jump beyond the end": program((JEQ, 5, 0, 1), (RET, 0, 0, 1)),
    "unknown instruction": program((0xFFFF, 0, 0, 0), (RET, 0, 0, 1)),
    "4,097 instructions": accept() * 4097,
    "65,536 instructions": accept() * 65536,
    "65,537 instructions": accept() * 65537,
}


@pytest.mark.parametrize("name", REFUSED)
def test_program_refused_by_the_kernel_is_einval(name: str) -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        sock.attach_filter(keep_first_byte(b"+"))
        sender.send(b"+queued")
        with pytest.raises(OSError, match="SO_ATTACH_FILTER") as caught:
            sock.attach_filter(REFUSED[name])
        assert caught.value.errno == errno.EINVAL
        sender.send(b"-")
        sender.send(b"+after")
        assert receive(sock, 2) == [b"+queued", b"+after"], (
            "the earlier filter, and packets it accepted, must stay"
        )


@pytest.mark.parametrize("name", REFUSED)
def test_constructor_raises_if_the_kernel_refuses_the_filter(
    pair: Veth, name: str
) -> None:
    with pytest.raises(OSError, match="SO_ATTACH_FILTER") as caught:
        RawSocket(pair.b, filter=REFUSED[name])
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == pair.b


def test_4096_instructions_are_accepted() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        try:
            sock.attach_filter(accept() * 4096)
        except OSError as error:
            # The program needs a little more than 32 KiB. The default of
            # net.core.optmem_max was 20 KiB until Linux 6.7, and is 128 KiB
            # since.
            assert error.errno == errno.ENOMEM
            assert os.uname().release.split(".") < ["6", "7"]
        else:
            sender.send(b"message")
            assert receive(sock, 1) == [b"message"]


def test_program_beyond_optmem_max_is_enomem() -> None:
    # The kernel counts its own instructions, several for each of these.
    large = program(*[(LDX_MSH, 0, 0, 0)] * 4095, (RET, 0, 0, 1))
    sender, sock = datagram_pair()
    with sender, sock:
        sock.attach_filter(keep_first_byte(b"+"))
        with pytest.raises(OSError, match="SO_ATTACH_FILTER") as caught:
            sock.attach_filter(large)
        assert caught.value.errno == errno.ENOMEM
        sender.send(b"-")
        sender.send(b"+after")
        assert receive(sock, 1) == [b"+after"], "the earlier filter is gone"


# Detaching and locking


def test_detach_accepts_everything() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        sock.attach_filter(accept(0))
        sender.send(b"rejected")
        sock.detach_filter()
        sender.send(b"received")
        assert receive(sock, 1) == [b"received"]


def test_detach_without_a_filter_is_enoent() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        with pytest.raises(
            FileNotFoundError, match="the socket has no filter"
        ):
            sock.detach_filter()
        sock.attach_filter(accept())
        sock.detach_filter()
        with pytest.raises(
            FileNotFoundError, match="the socket has no filter"
        ):
            sock.detach_filter()


def test_locked_filter_can_be_neither_replaced_nor_detached() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        sock.attach_filter(keep_first_byte(b"+"))
        sock.lock_filter()
        sender.send(b"+queued")
        with pytest.raises(
            PermissionError, match=r"SO_ATTACH_FILTER.*lock_filter"
        ):
            sock.attach_filter(accept())
        with pytest.raises(
            PermissionError, match=r"SO_DETACH_FILTER.*lock_filter"
        ):
            sock.detach_filter()
        sender.send(b"-")
        sender.send(b"+after")
        assert receive(sock, 2) == [b"+queued", b"+after"]


def test_lock_without_a_filter_forbids_attaching() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        sock.lock_filter()
        with pytest.raises(PermissionError):
            sock.attach_filter(accept())


def test_locking_twice_is_harmless() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        sock.lock_filter()
        sock.lock_filter()


# Replacing a filter while packets are queued


def test_kernel_does_not_filter_queued_packets(
    pair: Veth,
) -> None:
    """This is why attach_filter() drains the queue."""
    code = ctypes.create_string_buffer(accept(0))
    with RawSocket(pair.b) as sock:
        queue(sock, pair.a, frame(b"queued"))
        sock.setsockopt(
            socket.SOL_SOCKET,
            26,  # SO_ATTACH_FILTER
            struct.pack("HP", 1, ctypes.addressof(code)),
        )
        assert receive(sock, 1) == [frame(b"queued")]


def test_packets_queued_under_the_old_filter_are_discarded(
    pair: Veth,
) -> None:
    with RawSocket(pair.b) as sock:
        queued = [frame(b"%d" % number) for number in range(200)]
        queue(sock, pair.a, *queued)
        sock.attach_filter(keep_ethertype(LOCAL_EXPERIMENTAL))
        assert pending(sock) == []
        send(pair.a, frame(b"no", ethertype=OTHER_EXPERIMENTAL), frame(b"yes"))
        assert receive(sock, 1) == [frame(b"yes")]


def test_datagrams_queued_under_the_old_filter_are_discarded() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        sender.send(b"+queued")
        sender.send(b"")
        sender.send(b"-queued")
        sock.attach_filter(keep_first_byte(b"+"))
        assert pending(sock) == []
        sender.send(b"+after")
        assert receive(sock, 1) == [b"+after"]


def test_discarded_packets_are_not_counted(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        queue(sock, pair.a, frame(b"1"), frame(b"2"))
        sock.attach_filter(accept())
        counts = sock.statistics()
        assert counts.packets_received == 0
        assert counts.batches_received == 0


def test_queue_is_discarded_behind_a_pending_error() -> None:
    """An ICMP error is pending before queued datagrams. It stays for the
    receiver."""
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 0))
    peer.bind(("127.0.0.1", 0))
    ours.connect(peer.getsockname())
    peer.sendto(b"queued", ours.getsockname())
    peer.close()
    with RawSocket(fileno=ours.detach()) as sock:
        sock.settimeout(WAIT)
        sock.send(b"nobody is there")
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        assert poll.poll(1000 * WAIT), "no ICMP error arrives"  # POLLERR
        sock.attach_filter(accept(0))
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)
        assert pending(sock) == [], (
            "a datagram that the filter rejects was received"
        )


def test_pending_enetdown_survives_a_new_filter(veth: Veth) -> None:
    with RawSocket(veth.b) as sock:
        sock.settimeout(WAIT)
        veth.down("b")
        veth.up("b")
        sock.attach_filter(keep_ethertype(LOCAL_EXPERIMENTAL))
        send(veth.a, frame(b"no", ethertype=OTHER_EXPERIMENTAL), frame(b"yes"))
        with raises(errno.ENETDOWN):
            sock.recv(2048)
        assert receive(sock, 1) == [frame(b"yes")]


def test_new_filter_holds_under_a_flood(
    veth: Veth, scaled: Callable[[int], int]
) -> None:
    """Everything runs on one CPU. A packet that another CPU queues during the
    change may still be received, as documented."""
    cpu = min(os.sched_getaffinity(0))
    allowed = os.sched_getaffinity(0)
    flooded = [
        frame(b"%d" % number, ethertype=ethertype)
        for number in range(32)
        for ethertype in (LOCAL_EXPERIMENTAL, OTHER_EXPERIMENTAL)
    ]
    os.sched_setaffinity(0, {cpu})
    try:
        with RawSocket(veth.b) as sock, flood(veth.a, flooded, cpu):
            for turn in range(scaled(100)):
                ethertype = (LOCAL_EXPERIMENTAL, OTHER_EXPERIMENTAL)[turn % 2]
                sock.attach_filter(keep_ethertype(ethertype))
                for packet in receive(sock, 64):
                    assert packet[12:14] == ethertype.to_bytes(2, "big"), (
                        "a packet that the filter rejects was received"
                    )
    finally:
        os.sched_setaffinity(0, allowed)


# Filters that cut packets


@pytest.mark.parametrize("kept", [1, 13, 14, 40, 59])
def test_filter_cuts_frames(pair: Veth, kept: int) -> None:
    packet = frame(b"x" * 46)
    with RawSocket(pair.b, filter=accept(kept)) as sock:
        sock.settimeout(WAIT)
        batch = PacketBatch()
        send(pair.a, packet)
        assert sock.recvmmsg_into(batch) == 1
        assert batch.tolist() == [packet[:kept]]
        assert batch.lengths[0] == kept
        assert batch.wire_lengths[0] == len(packet)
        assert batch.flags[0] & TRUNCATED


def test_filter_that_cuts_nothing_sets_no_flag(pair: Veth) -> None:
    packet = frame(b"x" * 46)
    with RawSocket(pair.b, filter=accept(len(packet))) as sock:
        sock.settimeout(WAIT)
        batch = PacketBatch()
        send(pair.a, packet)
        sock.recvmmsg_into(batch)
        assert not batch.flags[0] & TRUNCATED


def test_kernel_does_not_report_that_a_filter_cut(pair: Veth) -> None:
    """This is why TRUNCATED needs vlan=True then: recvmsg(2) sets no
    MSG_TRUNC, and returns the length after the cut."""
    with (
        RawSocket(pair.b, filter=accept(20), vlan=False) as sock,
        socket.socket(fileno=os.dup(sock.fileno())) as std,
    ):
        std.settimeout(WAIT)
        send(pair.a, frame(b"x" * 46))
        data, _, flags, _ = std.recvmsg(2048, 0, socket.MSG_TRUNC)
        assert len(data) == 20
        assert not flags & socket.MSG_TRUNC


def test_filter_cuts_datagrams() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        sock.attach_filter(accept(4))
        sender.send(b"0123456789")
        assert receive(sock, 1) == [b"0123"]


# Expressions


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "a socket on all interfaces has no single link type"),
        (
            {"interface": "lo", "type": socket.SOCK_DGRAM},
            "filters of SOCK_DGRAM see packets without their link header",
        ),
    ],
    ids=["all interfaces", "SOCK_DGRAM"],
)
def test_expression_for_an_unsuitable_socket_is_explained(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        RawSocket(filter="udp", **options)
    with RawSocket(**options) as sock:
        with pytest.raises(ValueError, match=reason):
            sock.attach_filter("udp")


def test_expression_needs_a_packet_socket() -> None:
    sender, sock = datagram_pair()
    with sender, sock:
        with pytest.raises(ValueError, match="are for AF_PACKET sockets"):
            sock.attach_filter("udp")


def udp(source: int, destination: int, payload: bytes) -> bytes:
    """A frame with a UDP datagram without checksum (0)."""
    length = 8 + len(payload)
    datagram = struct.pack(">HHHH", source, destination, length, 0) + payload
    header = struct.pack(
        ">BBHHHBBH4s4s",
        *(0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_UDP, 0),
        *(bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])),
    )
    return frame(header + datagram, ethertype=0x0800)


DNS = [udp(53, 1024, b"answer"), udp(1024, 53, b"question")]
NOT_DNS = [
    udp(54, 1024, b"other ports"),
    frame(b"another protocol"),
]


def test_expression_in_the_constructor_filters(pair: Veth) -> None:
    with RawSocket(pair.b, filter="udp port 53") as sock:
        send(pair.a, *NOT_DNS, DNS[0], *NOT_DNS, DNS[1])
        assert receive(sock, 2) == DNS
        assert pending(sock) == []


def test_attached_expression_filters(pair: Veth) -> None:
    with RawSocket(pair.b) as sock:
        sock.attach_filter("udp port 53")
        send(pair.a, *NOT_DNS, DNS[0], *NOT_DNS, DNS[1])
        assert receive(sock, 2) == DNS
        assert pending(sock) == []


def test_expression_is_compiled_for_the_link_type(
    pair: Veth, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rawmmsg import bpf

    asked: list[tuple[str, int]] = []

    def compile_nothing(expression: str, *, link_type: int) -> bytes:
        asked.append((expression, link_type))
        return accept(0)

    monkeypatch.setattr(bpf, "compile", compile_nothing)
    RawSocket(pair.b, filter="udp port 53").close()
    RawSocket("lo", filter="tcp").close()
    assert asked == [("udp port 53", 1), ("tcp", 772)]


def test_invalid_expression_is_a_filter_error(pair: Veth) -> None:
    from rawmmsg import bpf

    with pytest.raises(bpf.FilterError):
        RawSocket(pair.b, filter="udp port")
    with RawSocket(pair.b) as sock:
        sock.attach_filter(keep_ethertype(LOCAL_EXPERIMENTAL))
        with pytest.raises(bpf.FilterError):
            sock.attach_filter("udp port")
        send(pair.a, frame(b"no", ethertype=OTHER_EXPERIMENTAL), frame(b"yes"))
        assert receive(sock, 1) == [frame(b"yes")], (
            "the earlier filter is gone"
        )


def test_filter_finds_received_tags_in_the_metadata(
    pair: Veth,
) -> None:
    """By SKF_AD_VLAN_TAG_PRESENT (48): the kernel has removed the tag from the
    frame."""
    plain = frame(b"plain" * 10)
    tagged = plain[:12] + bytes.fromhex("81000064") + plain[12:]
    inline = keep_ethertype(0x8100)
    stripped = program(
        (LD_H_ABS, 0, 0, 0xFFFFF000 + 48),
        (JEQ, 0, 1, 1),
        (RET, 0, 0, 0xFFFF),
        (RET, 0, 0, 0),
    )
    with (
        RawSocket(pair.b, filter=inline) as never,
        RawSocket(pair.b, filter=stripped) as always,
    ):
        send(pair.a, plain, tagged)
        assert receive(always, 1) == [tagged]
        assert pending(always) == []
        assert pending(never) == []


def test_filter_is_changed_by_one_call_at_a_time(
    scaled: Callable[[int], int],
) -> None:
    """An attach_filter() during another one is refused. It would let packets
    through the other one's drain."""
    peer, sock = datagram_pair()
    refused = 0

    def attach() -> None:
        nonlocal refused
        for _ in range(scaled(200)):
            try:
                sock.attach_filter(accept())
            except OSError as error:
                assert error.errno == errno.EBUSY
                refused += 1

    with peer, sock:
        threads = [threading.Thread(target=attach) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sock.attach_filter(accept(3))  # the socket can be changed again
        peer.send(b"packet")
        assert sock.recv(100) == b"pac"
    assert refused < scaled(800), "too many calls were refused"


def test_filter_is_read_once(scaled: Callable[[int], int]) -> None:
    """Changes that another thread makes to the buffer during the call have no
    effect."""
    peer, sock = datagram_pair()
    code = bytearray(accept())

    def scribble() -> None:
        code[0] = 0xFF  # not an instruction
        code[0] = RET

    with peer, sock, repeating(scribble):
        for _ in range(scaled(500)):
            sock.attach_filter(accept(3))
            try:
                sock.attach_filter(code)
            except OSError as error:
                assert error.errno == errno.EINVAL
                peer.send(b"packet")
                assert sock.recv(100) == b"pac", "the earlier filter is gone"
