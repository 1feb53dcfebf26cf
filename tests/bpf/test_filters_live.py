"""Filters on real packet sockets, compared with tcpdump's programs: tags that
the kernel moved out of the frame, directions, interfaces.

Every frame goes over a veth pair and is read by sockets on the receiving end
(received frames, tag beside the frame) and on the sending end (outgoing
frames, tag inline): one without a filter, one with ours, one with tcpdump's.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from bpfkit import corpus, kernel, oracle, packets
from bpfkit.names import fixed_names as fixed_names
from bpfkit.oracle import ETHERNET, Pair
from support import WAIT
from support.linux import ETH_P_ALL
from support.programs import program as assemble

from rawmmsg import bpf
from rawmmsg.testing import Veth

SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING = 263, 8, 4
VLAN_VALID = 0x10
CHUNK = 32
REJECT_ALL = bpf.Program.from_instructions([(6, 0, 0, 0)])

FRAMES = {
    name: frame
    for name, frame in packets.ethernet_frames().items()
    if 40 <= len(frame) <= 1514
}
TAGGED = {
    "vlan-100-ip",
    "vlan-100-ip6",
    "vlan-0-priority",
    "vlan-4095",
    "vlan-arp",
    "vlan-200-options",
    "vlan-fragment",
    "vlan-mpls",
    "vlan-pppoe",
    "vlan-llc",
    "vlan-geneve",
    "qinq-8100",
    "qinq-8100-ip6",
    "qinq-88a8",
    "qinq-88a8-ip6",
    "qinq-9100",
    "qinq-9100-ip6",
    "vlan-three",
}


class Seen:
    """The frames that one socket received, in order: (frame, tag or None,
    packet type, ifindex).
    """

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.socket = sock
        self.name = name
        self.ifindex = socket.if_nametoindex(name)
        self.frames: list[tuple[bytes, tuple[int, int] | None, int, int]] = []

    def read(self) -> None:
        """Read all frames that have arrived."""
        while True:
            try:
                frame, messages, _, address = self.socket.recvmsg(
                    1 << 16, 256, socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return
            tag = None
            for level, kind, data in messages:
                if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                    status, *_, tci, tpid = struct.unpack("IIIHHHH", data)
                    tag = (tci, tpid) if status & VLAN_VALID else None
            self.frames.append((frame, tag, address[2], self.ifindex))


class Wire:
    """A veth pair, a sender on one end, and a reader without a filter on each.

    The kernel passes a frame to the sockets of an interface one after the
    other, starting with the one that was bound last. So when these two readers
    have a frame, all readers that were opened later have seen it.
    """

    def __init__(self, pair: Veth) -> None:
        self.ends = (pair.a, pair.b)
        self.stack = ExitStack()
        self.sender = self.open(pair.a, 0, None).socket
        self.everything = [
            self.open(end, ETH_P_ALL, None) for end in self.ends
        ]

    def open(self, name: str, protocol: int, program: bytes | None) -> Seen:
        """A bound socket. Its filter is attached before it is bound."""
        sock = self.stack.enter_context(
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        )
        if program is not None:
            kernel.attach(sock, program)
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        sock.bind((name, protocol))
        return Seen(sock, name)

    def filtered(self, program: bytes) -> list[Seen]:
        """Readers with a filter, one on each end."""
        return [self.open(end, ETH_P_ALL, program) for end in self.ends]

    def send_all(self, readers: list[Seen]) -> None:
        """Send every frame, few at a time, and read what has arrived."""
        frames = list(FRAMES.values())
        deadline = time.monotonic() + WAIT
        for start in range(0, len(frames), CHUNK):
            chunk = frames[start : start + CHUNK]
            for frame in chunk:
                self.sender.send(frame)
            for seen in self.everything:
                while len(seen.frames) < start + len(chunk):
                    assert time.monotonic() < deadline, (
                        f"every frame arrives at {seen.name}"
                    )
                    select.select([seen.socket], [], [], 1)
                    seen.read()
            for seen in readers:
                seen.read()


@pytest.fixture
def wire(pair: Veth) -> Iterator[Wire]:
    wire = Wire(pair)
    with wire.stack:
        yield wire


def names_of(seen: Seen) -> set[str]:
    """The names of frames received, whether their tag is inline or beside."""
    by_bytes = {frame: name for name, frame in FRAMES.items()}
    names = set()
    for frame, tag, *_ in seen.frames:
        whole = (
            frame
            if tag is None
            else frame[:12] + struct.pack("!HH", tag[1], tag[0]) + frame[12:]
        )
        names.add(by_bytes[whole])
    return names


def verdicts(program: bpf.Program, seen: Seen) -> set[str]:
    """The names of the frames of a socket without a filter that matches()
    accepts.
    """
    accepted = Seen(seen.socket, seen.name)
    accepted.frames = [
        record
        for record in seen.frames
        if program.matches(
            record[0], vlan=record[1], packet_type=record[2], ifindex=record[3]
        )
    ]
    return names_of(accepted)


FOR_THE_KERNEL = [
    entry for entry in corpus.live() if entry.section != "vlan and pppoes"
]


@pytest.mark.parametrize(
    "entry", FOR_THE_KERNEL, ids=lambda entry: entry.expression
)
def test_the_kernel_accepts_what_tcpdump_accepts(
    wire: Wire, entry: corpus.Entry
) -> None:
    answer = oracle.goldens().live[ETHERNET, entry.expression]
    assert isinstance(answer, Pair)
    assert answer.optimised is not None
    program = bpf.compile(entry.expression)
    ours = wire.filtered(program)
    theirs = wire.filtered(assemble(*answer.optimised))
    wire.send_all(ours + theirs)
    for all_frames, our_reader, their_reader in zip(
        wire.everything, ours, theirs, strict=True
    ):
        end = f"{entry.expression!r} at {all_frames.name}"
        assert names_of(our_reader) == verdicts(program, all_frames), (
            f"{end}: matches() and the kernel agree"
        )
        assert names_of(our_reader) == names_of(their_reader), (
            f"{end}: accepts what tcpdump's program accepts"
        )


ACCEPTED = {
    "vlan": TAGGED,
    "not vlan": set(FRAMES) - TAGGED,
    "vlan 0": {"vlan-0-priority"},
    "vlan 4095": {"vlan-4095"},
    "vlan 200": {"vlan-200-options"},
    "vlan and arp": {"vlan-arp"},
    "vlan 100 and ip6 and udp port 53": {"vlan-100-ip6"},
    "vlan and tcp port 80": {
        "vlan-100-ip",
        "vlan-0-priority",
        "vlan-200-options",
    },
    "vlan 100 and tcp dst port 80 and src host 10.0.0.1": {"vlan-100-ip"},
    "vlan 100 and vlan 200 and tcp port 80": {
        "qinq-8100",
        "qinq-88a8",
        "qinq-9100",
    },
    "vlan 100 and vlan 300 and udp port 53": {
        "qinq-8100-ip6",
        "qinq-88a8-ip6",
        "qinq-9100-ip6",
    },
    "vlan 1 and vlan 2 and vlan 3 and ip": {"vlan-three"},
    "vlan and mpls 1024": {"vlan-mpls"},
    "vlan and pppoes 0x27": {"vlan-pppoe"},
    "vlan and geneve 11": {"vlan-geneve"},
}


@pytest.mark.parametrize(
    ("expression", "wanted"), ACCEPTED.items(), ids=list(ACCEPTED)
)
def test_a_tagged_frame_is_found_at_both_ends(
    wire: Wire, expression: str, wanted: set[str]
) -> None:
    readers = wire.filtered(bpf.compile(expression))
    wire.send_all(readers)
    for reader in readers:
        assert names_of(reader) == wanted, (
            f"{expression!r} finds its frames, tag inline or not, "
            f"at {reader.name}"
        )


@pytest.mark.parametrize(
    ("expression", "outgoing"), [("outbound", True), ("inbound", False)]
)
def test_directions(wire: Wire, expression: str, outgoing: bool) -> None:
    """The frame was sent on one end and received on the other."""
    readers = wire.filtered(bpf.compile(expression))
    wire.send_all(readers)
    for reader in readers:
        wanted = (
            set(FRAMES) if (reader.name == wire.ends[0]) is outgoing else set()
        )
        assert names_of(reader) == wanted, (
            f"{expression!r} at {reader.name} is decided by the direction"
        )
        assert all(
            (record[2] == PACKET_OUTGOING) is outgoing
            for record in reader.frames
        ), f"{expression!r} accepts one packet type"


def test_ifindex(wire: Wire) -> None:
    end = wire.ends[1]
    index = socket.if_nametoindex(end)
    right, wrong = (
        wire.open(end, ETH_P_ALL, bpf.compile(f"ifindex {number}"))
        for number in (index, index + 1000)
    )
    wire.send_all([right, wrong])
    assert names_of(right) == set(FRAMES), (
        "the index of the interface accepts its frames"
    )
    assert names_of(wrong) == set(), (
        "the index of another interface accepts none"
    )


def test_reject_all_lets_nothing_through(wire: Wire) -> None:
    readers = wire.filtered(REJECT_ALL)
    wire.send_all(readers)
    assert [reader.frames for reader in readers] == [[], []], (
        "a program read from instructions filters as it says"
    )
