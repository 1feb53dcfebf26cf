r"""Filters and fanout programs in eBPF, given as descriptors.

On most systems bpf(2) needs privilege. If it refuses, each test asserts that
this is the reason.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.calls import raises
from support.frames import HEADER_SIZE, frame, pending, receive
from support.namespaces import is_initial_user_namespace

from rawmmsg import RawSocket, open_fanout_group
from rawmmsg.testing import Veth

# <asm/unistd.h>; for most machines, <asm-generic/unistd.h>
_NUMBERS = {
    "x86_64": 321,
    "i686": 357,
    "armv7l": 386,
    "ppc64le": 361,
    "s390x": 351,
}
SYS_BPF = _NUMBERS.get(platform.machine(), 280)

# <linux/bpf.h>
BPF_PROG_LOAD = 5
BPF_PROG_TYPE_SOCKET_FILTER = 1
BPF_PROG_TYPE_SCHED_CLS = 3
MOVE_VALUE = 0xB7
MOVE = 0xBF
LOAD_BYTE = 0x30  # loads from the packet, which register 6 refers to
EXIT = 0x95

# <linux/capability.h>
CAP_SYS_ADMIN = 21
CAP_BPF = 39


def instruction(code: int, registers: int = 0, value: int = 0) -> bytes:
    """struct bpf_insn. `registers` is 16 times the source register plus the
    destination register."""
    return struct.pack("=BBhi", code, registers, 0, value)


def returning(value: int) -> bytes:
    """A program that returns the number; -1 is the largest."""
    return instruction(MOVE_VALUE, 0, value) + instruction(EXIT)


def returning_byte(offset: int) -> bytes:
    """A program that returns one byte of the packet."""
    return (
        instruction(MOVE, 0x16)  # register 6 = register 1, the packet
        + instruction(LOAD_BYTE, 0, offset)
        + instruction(EXIT)
    )


def load(code: bytes, kind: int) -> int:
    """bpf(BPF_PROG_LOAD); returns the descriptor of the program."""
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(code, len(code))
    license = ctypes.create_string_buffer(b"MIT")
    attributes = struct.pack(
        "=IIQQIIQII",
        kind,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license),
        *(0, 0, 0, 0, 0),  # no verifier log, version or flags
    )
    descriptor = libc.syscall(
        ctypes.c_long(SYS_BPF),
        ctypes.c_long(BPF_PROG_LOAD),
        attributes,
        ctypes.c_long(len(attributes)),
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf: {os.strerror(number)}")
    return int(descriptor)


def bpf_needs_privilege() -> bool:
    """Whether this process lacks the privilege that bpf(2) asks for."""
    status = dict(
        line.split(":\t", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
    )
    capabilities = int(status["CapEff"], 16)
    is_initial = is_initial_user_namespace()
    if is_initial and capabilities & (1 << CAP_BPF | 1 << CAP_SYS_ADMIN):
        return False
    sysctl = Path("/proc/sys/kernel/unprivileged_bpf_disabled")
    # A container may forbid the call.
    return sysctl.read_text() != "0\n" or status["Seccomp"] != "0"


@contextmanager
def loaded(
    code: bytes, kind: int = BPF_PROG_TYPE_SOCKET_FILTER
) -> Iterator[int | None]:
    """The descriptor of the program, or None if bpf(2) refuses it for lack of
    privilege."""
    try:
        descriptor = load(code, kind)
    except PermissionError as error:
        assert bpf_needs_privilege(), (
            f"{error}, but this process has the privilege"
        )
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def marked(*marks: int) -> list[bytes]:
    """Frames whose payloads begin with these bytes."""
    return [frame(bytes([mark]) * 46) for mark in marks]


def test_ebpf_filter_cuts_to_what_the_program_returns(
    pair: Veth, sender: RawSocket
) -> None:
    """The program sees the frame from its link header on. 0 rejects the
    packet, other numbers cut it."""
    with loaded(returning_byte(HEADER_SIZE)) as program:
        if program is None:
            return
        with RawSocket(pair.b, filter=program) as sock:
            sent = marked(0, 20, 0, 255, 14)
            sender.sendmmsg_all(sent)
            assert receive(sock, 3) == [sent[1][:20], sent[3], sent[4][:14]]
            assert pending(sock) == []


@pytest.mark.parametrize(("value", "kept"), [(0, []), (-1, marked(1, 2))])
def test_ebpf_filter_accepts_all_or_nothing(
    pair: Veth, sender: RawSocket, value: int, kept: list[bytes]
) -> None:
    with loaded(returning(value)) as program:
        if program is None:
            return
        with (
            RawSocket(pair.b, filter=program) as sock,
            RawSocket(pair.b) as witness,
        ):
            sender.sendmmsg_all(marked(1, 2))
            assert receive(witness, 2) == marked(1, 2)
            assert receive(sock, len(kept)) + pending(sock) == kept


def test_ebpf_filter_is_replaced_and_removed(
    pair: Veth, sender: RawSocket
) -> None:
    """From classic BPF to eBPF, and removed."""
    with loaded(returning(20)) as program:
        if program is None:
            return
        with RawSocket(pair.b, filter="ip") as sock:
            sender.sendmmsg_all(marked(1))
            sock.attach_filter(program)
            sender.sendmmsg_all(marked(2))
            assert receive(sock, 1) == [marked(2)[0][:20]]
            sock.detach_filter()
            sender.sendmmsg_all(marked(3))
            assert receive(sock, 1) == marked(3)


def test_ebpf_program_chooses_the_socket(
    pair: Veth, sender: RawSocket
) -> None:
    """The program sees the packet from its network header on. Its result,
    modulo the number of sockets, selects the socket."""
    with loaded(returning_byte(0)) as program:
        if program is None:
            return
        with ExitStack() as stack:
            group = open_fanout_group(3, pair.b, "ebpf", program=program)
            for sock in group:
                stack.enter_context(sock)
            sender.sendmmsg_all(marked(*range(100)))
            for i, sock in enumerate(group):
                of_this = marked(*range(i, 100, 3))
                assert receive(sock, len(of_this)) == of_this
                assert pending(sock) == []


def test_set_fanout_sets_the_ebpf_program(
    pair: Veth, sender: RawSocket
) -> None:
    with loaded(returning(1)) as program:
        if program is None:
            return
        with RawSocket(pair.b) as first, RawSocket(pair.b) as second:
            number = first.set_fanout("ebpf", program=program)
            assert second.set_fanout("ebpf", number) == number
            sender.sendmmsg_all(marked(1, 2, 3))
            assert receive(second, 3) == marked(1, 2, 3)
            assert pending(first) == []


def test_descriptor_that_is_not_a_program_is_refused(pair: Veth) -> None:
    """Neither a file nor a closed descriptor works as a filter or as a fanout
    program. An earlier filter stays attached."""
    with open(os.devnull) as file, RawSocket(pair.b, filter="ip") as sock:
        for descriptor, number in (
            (file.fileno(), errno.EINVAL),
            (1 << 30, errno.EBADF),
        ):
            for call in (
                lambda fd: RawSocket(pair.b, filter=fd),
                sock.attach_filter,
                lambda fd: RawSocket(pair.b, fanout=("ebpf", None, 0, fd)),
            ):
                with raises(number, os.strerror(number)):
                    call(descriptor)
        sock.detach_filter()


def test_ebpf_program_of_another_type_is_refused(pair: Veth) -> None:
    with loaded(returning(0), BPF_PROG_TYPE_SCHED_CLS) as program:
        if program is None:
            return
        for options in (
            {"filter": program},
            {"fanout": ("ebpf", None, 0, program)},
        ):
            with raises(errno.EINVAL):
                RawSocket(pair.b, **options)
