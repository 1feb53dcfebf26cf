"""Random sequences of frames of several TCP and UDP flows. Most frames can be
merged with the one before them in their flow. The others differ in one thing
from a frame that can."""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from support.datagrams import (
    ACK,
    AD,
    CHECKSUM_OFFSETS,
    CWR,
    DESTINATION,
    ECE,
    FIN,
    HOP_BY_HOP,
    PSH,
    TCP,
    UDP,
    Datagram,
    Q,
    checksum,
)
from support.frames import BROADCAST, OTHER_EXPERIMENTAL, frame

SYN: Final = 0x02
RST: Final = 0x04
URG: Final = 0x20

DF: Final = 0x4000
_MORE_FRAGMENTS: Final = 0x2000
_RESERVED: Final = 0x8000

# An address that no interface has: the kernel's IP drops the frames.
_TARGET: Final = bytes.fromhex("0200000000ff")
_FRAGMENT_HEADER: Final = (44, bytes([0, 0, 0, 1, 0, 0, 0, 9]))
_NOP: Final = bytes([1] * 4)


@dataclass(frozen=True)
class Segment(Datagram):
    """The fields of a frame of a flow. The source port is the flow's
    number."""

    flow: int = 0
    target: bytes = _TARGET
    ttl: int = 64
    tos: int = 0
    label: int = 0x12345
    fragment: int = DF
    acknowledgement: int = 1
    window: int = 512
    urgent: int = 0

    def _link(self) -> bytes:
        link = super()._link()
        return self.target + link[len(BROADCAST) :]

    def _network(self, size: int) -> tuple[bytes, bytes]:
        ip, pseudo = super()._network(size)
        if self.version == 6:
            first = 6 << 28 | self.tos << 20 | self.label
            head = first.to_bytes(4, "big")
            return head + ip[4:7] + bytes([self.ttl]) + ip[8:], pseudo
        fields = struct.pack("!HBBH", self.fragment, self.ttl, ip[9], 0)
        ip = ip[:1] + bytes([self.tos]) + ip[2:6] + fields + ip[12:]
        value = checksum(ip).to_bytes(2, "big")
        return ip[:10] + value + ip[12:], pseudo

    def _transport(self) -> bytes:
        head = struct.pack("!H", self.flow) + super()._transport()[2:]
        if self.protocol != TCP:
            return head
        acknowledgement = self.acknowledgement.to_bytes(4, "big")
        last = struct.pack("!HHH", self.window, 0, self.urgent)
        return head[:8] + acknowledgement + head[12:14] + last + head[20:]


@dataclass(frozen=True)
class Frame:
    """A frame as it is sent. If `is_open`, its checksum is left to the
    receiver. `fault` says what is wrong with it, if anything."""

    segment: Segment
    data: bytes
    is_open: bool = False
    fault: str = ""

    @property
    def size(self) -> int:
        """The number of bytes of payload."""
        return len(self.segment.payload)


# Faults that leave the frame in its flow.
WRONG_SUM: Final = "wrong checksum"
WRONG_IP_SUM: Final = "wrong checksum of the IPv4 header"
OTHER_ZERO: Final = "0xffff, where a sender writes 0"
NO_SUM: Final = "no checksum"
WRONG_LENGTH: Final = "wrong UDP length"
PADDED: Final = "padding"
SHORT_HEADER: Final = "TCP header of less than 20 bytes"
# Faults that hide the flow.
FRAGMENT: Final = "a fragment"
NOT_IP: Final = "not IP"
# Neither TCP nor UDP.
ICMP: Final = "ICMP"


@dataclass
class Flow:
    """A flow: the fields of its next frame, its usual size of payload, and by
    how much the IPv4 id counts up."""

    next: Segment
    size: int
    step: int
    is_open: bool

    def advance(self, sent: Segment) -> None:
        """Continues after this frame."""
        size = len(sent.payload)
        self.next = replace(
            self.next,
            ident=(sent.ident + self.step) % 2**16,
            sequence=(sent.sequence + size) % 2**32,
        )


@dataclass
class Generator:
    """Makes the frames of one sequence. A payload begins with the number of
    the frame, so that it differs from all others of its flow. With `zeros`,
    some checksums are 0."""

    rng: random.Random
    zeros: bool = True
    frames: list[Frame] = field(default_factory=list)

    def flow(self, number: int, size: int | None = None) -> Flow:
        """A new flow of a random kind."""
        rng = self.rng
        kind = self._kind()
        segment = Segment(
            **kind,
            flow=number,
            ident=rng.choice((0, 0xFFFA, rng.randrange(2**16))),
            sequence=rng.choice((2**32 - 500, rng.randrange(2**32))),
            tos=rng.choice((0, 2)),
        )
        if size is None:
            size = rng.choice((2, 3, 8, 100, 101, 536, rng.randrange(2, 1400)))
        made = Flow(segment, size, rng.choice((1, 1, 0)), rng.random() < 0.1)
        if segment.version == 4 and rng.random() < 0.2:
            self._aim_at_zero(made)
        return made

    def plain_flow(self, number: int) -> Flow:
        """A new flow that every kernel can merge."""
        rng = self.rng
        segment = Segment(
            protocol=rng.choice((TCP, UDP)),
            version=rng.choice((4, 6)),
            flow=number,
        )
        return Flow(segment, rng.randrange(2, 1400), 1, is_open=False)

    def _kind(self) -> dict[str, Any]:
        rng = self.rng
        version, protocol = rng.choice((4, 4, 6)), rng.choice((TCP, UDP))
        kind: dict[str, Any] = {"version": version, "protocol": protocol}
        if protocol == TCP and rng.random() < 0.4:
            kind["tcp_options"] = bytes([1, 1, 8, 10]) + rng.randbytes(8)
        if version == 4 and rng.random() < 0.1:
            kind["options"] = _NOP
        if version == 6 and rng.random() < 0.2:
            kind["extensions"] = rng.choice(
                ((HOP_BY_HOP,), (DESTINATION,), (HOP_BY_HOP, DESTINATION))
            )
        if rng.random() < 0.1:
            kind["tags"] = rng.choice(((Q,), (AD, Q)))
        if rng.random() < 0.3:
            kind["fragment"] = 0
        return kind

    def _aim_at_zero(self, flow: Flow) -> None:
        """Chooses ids so that soon the checksum of an IPv4 header is 0."""
        made = replace(flow.next, ident=0, payload=bytes(flow.size)).build()
        at = 24 + 4 * len(flow.next.tags)
        ident = int.from_bytes(made[at : at + 2], "big")
        ident -= flow.step * self.rng.randrange(5)
        flow.next = replace(flow.next, ident=ident % 2**16)

    def payload(self, size: int) -> bytes:
        number = len(self.frames).to_bytes(2, "little")
        return (number + self.rng.randbytes(max(0, size - 2)))[:size]

    def add(self, flow: Flow, segment: Segment, fault: str = "") -> None:
        """Adds a frame. It has that fault, if one is given."""
        data = segment.build(whole=not flow.is_open or bool(fault))
        if fault in _FAULTS:
            data = _FAULTS[fault](segment, data)
        elif not fault and not flow.is_open:
            data, fault = self._other_zero(segment, data)
        is_open = flow.is_open and not fault
        self.frames.append(Frame(segment, data, is_open, fault))

    def _other_zero(self, segment: Segment, data: bytes) -> tuple[bytes, str]:
        """Usually writes 0xffff where a checksum is 0. Receivers accept both,
        but no sender writes it."""
        places = []
        if segment.version == 4:
            places.append(24 + 4 * len(segment.tags))
        if segment.protocol == TCP:
            places.append(segment.transport_offset + 16)
        for at in places:
            if data[at : at + 2] == b"\0\0" and self.rng.random() < 0.7:
                return data[:at] + b"\xff\xff" + data[at + 2 :], OTHER_ZERO
        return data, ""

    def continue_flow(self, flow: Flow, size: int | None = None) -> None:
        """Adds the next frame of the flow."""
        payload = self.payload(flow.size if size is None else size)
        segment = replace(flow.next, payload=payload)
        if self.zeros and self.rng.random() < 0.05:
            segment = _with_sum_of_zero(segment)
        self.add(flow, segment)
        flow.advance(segment)

    def near_miss(self, flow: Flow) -> None:
        """Adds a frame that in one thing is not the next of the flow."""
        protocol = "TCP" if flow.next.protocol == TCP else "UDP"
        version = f"IPv{flow.next.version}"
        misses = _MISSES["all"] + _MISSES[version] + _MISSES[protocol]
        self.rng.choice(misses)(self, flow)


def mixed(rng: random.Random, most: int) -> list[Frame]:
    """A few flows, with many near misses."""
    made = Generator(rng)
    flows = [made.flow(number) for number in range(1, rng.randrange(2, 7))]
    flow = flows[0]
    for _ in range(rng.randrange(10, most + 1)):
        if rng.random() < 0.4:
            flow = rng.choice(flows)
        if rng.random() < 0.15:
            made.near_miss(flow)
        else:
            made.continue_flow(flow)
    return made.frames


def many_flows(rng: random.Random, most: int) -> list[Frame]:
    """More flows than stay open."""
    made = Generator(rng)
    flows = [made.flow(number) for number in range(1, rng.randrange(9, 14))]
    for _ in range(most):
        made.continue_flow(rng.choice(flows))
    return made.frames


def long_runs(rng: random.Random, most: int) -> list[Frame]:
    """A flow of large frames, which reach the limit of 64 KiB; the last one
    that fits is often shorter."""
    made = Generator(rng)
    flow = made.flow(1, rng.randrange(1060, 1480))
    start = total = len(replace(flow.next, payload=b"").build()) - 14
    for _ in range(most):
        size = flow.size
        if total + size > 0xFFFF:
            spare = rng.choice((-1, 0, 1, 13, 14, 15))
            size = max(1, 0xFFFF - total - spare)
            size = min(size, flow.size)
            total = start - size
        made.continue_flow(flow, size)
        total += size
    return made.frames


# What a frame can have that others of its flow have not

_Miss: TypeAlias = Callable[[Generator, Flow], None]


def _changed(**changes: Callable[[Any], Any]) -> _Miss:
    """A frame with other fields. It comes between two frames that follow each
    other, or is the next one itself; then those after it may be like it."""

    def miss(made: Generator, flow: Flow) -> None:
        values = {
            name: change(getattr(flow.next, name))
            for name, change in changes.items()
        }
        payload = made.payload(flow.size)
        segment = replace(flow.next, payload=payload, **values)
        made.add(flow, segment)
        kind = made.rng.randrange(3)
        if kind > 0:
            flow.advance(segment)
        if kind > 1:
            flow.next = replace(flow.next, **values)

    return miss


def _flag(value: int) -> _Miss:
    return _changed(flags=lambda flags: flags ^ value)


def _faulty(fault: str) -> _Miss:
    def miss(made: Generator, flow: Flow) -> None:
        segment = replace(flow.next, payload=made.payload(flow.size))
        made.add(flow, segment, fault)
        if made.rng.random() < 0.3:
            flow.advance(segment)

    return miss


def _sized(choose: Callable[[random.Random, int], int]) -> _Miss:
    def miss(made: Generator, flow: Flow) -> None:
        made.continue_flow(flow, choose(made.rng, flow.size))

    return miss


def _jump(*, ident: int = 0, sequence: int = 0) -> _Miss:
    """A gap before the frame, or a step back."""

    def miss(made: Generator, flow: Flow) -> None:
        flow.next = replace(
            flow.next,
            ident=(flow.next.ident + ident) % 2**16,
            sequence=(flow.next.sequence + sequence) % 2**32,
        )
        made.continue_flow(flow)

    return miss


def _other_step(made: Generator, flow: Flow) -> None:
    """From here on ids stay the same, or count up."""
    ident = flow.next.ident + (-1 if flow.step else 1)
    flow.next = replace(flow.next, ident=ident % 2**16)
    flow.step = 1 - flow.step
    made.continue_flow(flow)


def _part_of_a_datagram(made: Generator, flow: Flow) -> None:
    segment = replace(flow.next, payload=made.payload(flow.size))
    if segment.version == 4:
        segment = replace(segment, fragment=_MORE_FRAGMENTS)
    else:
        segment = replace(segment, extensions=(_FRAGMENT_HEADER,))
    made.add(flow, segment, FRAGMENT)


_SHORTER: Final = _sized(lambda rng, size: rng.randrange(1, size))
_MISSES: Final[dict[str, list[_Miss]]] = {
    "all": [
        _changed(target=lambda mac: mac[:-1] + bytes([mac[-1] ^ 1])),
        _changed(ttl=lambda ttl: ttl ^ 1),
        _changed(tos=lambda tos: tos ^ 1),
        _changed(tags=lambda tags: () if tags else (Q,)),
        _SHORTER,
        _SHORTER,
        _sized(lambda rng, size: size + rng.randrange(1, 20)),
        _sized(lambda rng, size: 0),
        _part_of_a_datagram,
        *map(_faulty, (WRONG_SUM, PADDED, NOT_IP, ICMP)),
    ],
    "IPv4": [
        _changed(fragment=lambda bits: bits ^ DF),
        _changed(fragment=lambda bits: bits ^ _RESERVED),
        _changed(options=lambda options: b"" if options else _NOP),
        _jump(ident=1),
        _jump(ident=-1),
        _other_step,
        _faulty(WRONG_IP_SUM),
    ],
    "IPv6": [
        _changed(label=lambda label: label ^ 1),
        _changed(extensions=lambda some: () if some else (HOP_BY_HOP,)),
    ],
    "TCP": [
        *map(_flag, (PSH, FIN, SYN, RST, URG, CWR, ECE, ACK)),
        *map(_flag, (PSH, CWR)),
        _changed(urgent=lambda urgent: urgent ^ 5),
        _changed(window=lambda window: window ^ 1),
        _changed(acknowledgement=lambda number: number + 1),
        _changed(tcp_options=lambda options: b"" if options else _NOP),
        _changed(tcp_options=lambda options: options[::-1]),
        _jump(sequence=1),
        _jump(sequence=-1),
        _faulty(SHORT_HEADER),
    ],
    "UDP": [*map(_faulty, (NO_SUM, WRONG_LENGTH))],
}


def _with_sum_of_zero(segment: Segment) -> Segment:
    """Changes the payload so that the checksum is 0 (0xffff in UDP)."""
    payload = segment.payload
    if len(payload) < 4:
        return segment
    segment = replace(segment, payload=payload[:2] + b"\0\0" + payload[4:])
    at = _checksum_place(segment)
    value = segment.build()[at : at + 2]
    return replace(segment, payload=payload[:2] + value + payload[4:])


# What can be wrong with a frame


def _checksum_place(segment: Segment) -> int:
    return segment.transport_offset + CHECKSUM_OFFSETS[segment.protocol]


def _xor(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]


def _without_sum(segment: Segment, data: bytes) -> bytes:
    at = _checksum_place(segment)
    return data[:at] + b"\0\0" + data[at + 2 :]


def _as_icmp(segment: Segment, data: bytes) -> bytes:
    """The payload is not that of ICMP, which nobody looks at."""
    ip = 14 + 4 * len(segment.tags)
    if segment.version == 6:
        return data[: ip + 6] + b"\x3a" + data[ip + 7 :]
    size = 20 + len(segment.options)
    header = data[ip : ip + 9] + b"\1\0\0" + data[ip + 12 : ip + size]
    value = checksum(header).to_bytes(2, "big")
    return data[:ip] + header[:10] + value + header[12:] + data[ip + size :]


_FAULTS: Final[dict[str, Callable[[Segment, bytes], bytes]]] = {
    WRONG_SUM: lambda one, data: _xor(data, _checksum_place(one), 0x55),
    WRONG_IP_SUM: lambda one, data: _xor(data, 24 + 4 * len(one.tags), 0x55),
    NO_SUM: _without_sum,
    WRONG_LENGTH: lambda one, data: _xor(data, one.transport_offset + 5, 1),
    PADDED: lambda one, data: data + bytes(3),
    SHORT_HEADER: lambda one, data: _xor(
        data, one.transport_offset + 12, data[one.transport_offset + 12] ^ 0x40
    ),
    NOT_IP: lambda one, data: frame(data, ethertype=OTHER_EXPERIMENTAL),
    ICMP: _as_icmp,
}
