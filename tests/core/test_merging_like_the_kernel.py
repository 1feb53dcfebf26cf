"""merge_into() makes the super-frames that the kernel's GRO makes. TABLE lists
all reasons why one of them merges two frames and the other does not."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest
from support import WAIT
from support.datagrams import CWR, TCP, UDP
from support.gro import MOST_FRAMES, Gro, can_keep, gro, write_at_once
from support.linux import switch_on
from support.merged import Made, Pair, Recognizer, batch_of_frames, differences
from support.random_flows import (
    DF,
    FRAGMENT,
    NO_SUM,
    NOT_IP,
    OTHER_ZERO,
    PADDED,
    SHORT_HEADER,
    WRONG_IP_SUM,
    WRONG_LENGTH,
    WRONG_SUM,
    Flow,
    Frame,
    Generator,
    Segment,
    long_runs,
    many_flows,
    mixed,
)

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket

FLOWS: Final = 8
"""As many as GRO keeps (net/core/gro.c: MAX_GRO_SKBS). It has 8 lists of so
many, but frames from a packet socket have no hash and are all in the first."""
LIMIT: Final = 65535
ETHERNET: Final = 14
KERNEL: Final = "the kernel"
OURS: Final = "merge_into()"
TAGS: Final = "tags"


@dataclass(frozen=True)
class Row:
    """A reason why only one of the two merges a frame with the one before it.
    `kernel` and `ours` say what the kernel (where) and merge_into() do, and
    `explains` for which pairs of frames that is the reason. `since` is the
    first version of Linux that does so."""

    name: str
    by: str
    kernel: str
    ours: str
    explains: Callable[[Pair], bool]
    since: tuple[int, int] = (0, 0)


def same_flow(a: Frame, b: Frame) -> bool:
    return a.segment.flow == b.segment.flow


def passes(test: Callable[[Frame, Frame], bool]) -> Callable[[Pair], bool]:
    """Whether a frame of the flow came between, for which this is true."""
    return lambda pair: any(
        same_flow(pair.a, x) and test(pair.a, x) for x in pair.between()
    )


def differs(name: str) -> Callable[[Frame, Frame], bool]:
    return lambda a, x: getattr(a.segment, name) != getattr(x.segment, name)


def has_fault(*faults: str) -> Callable[[Frame, Frame], bool]:
    return lambda _, x: x.fault in faults


def is_constant(pair: Pair) -> bool:
    a, b = pair.a.segment, pair.b.segment
    return a.version == 4 and a.ident == b.ident and not a.fragment & DF


def is_mangled_zero(one: Frame) -> bool:
    """Whether a missing checksum of TCP will be 0."""
    at = one.segment.transport_offset + 16
    return (
        one.is_open
        and one.segment.protocol == TCP
        and one.segment.build()[at : at + 2] == b"\0\0"
    )


def began_elsewhere(who: str) -> Callable[[Pair], bool]:
    """Whether one side could not merge the second frame because its
    super-frame began with another frame than that of the other side."""

    def explains(pair: Pair) -> bool:
        if pair.before(KERNEL)[0] == pair.before(OURS)[0]:
            return False
        return refuses(pair, who)

    return explains


def refuses(pair: Pair, who: str) -> bool:
    """Whether a side's super-frame cannot go on with the second frame, which
    is the next one of the flow."""
    merged, b = [pair.frames[n] for n in pair.before(who)], pair.b
    if merged[-1].size < merged[0].size or b.size > merged[0].size:
        return True
    if pair.length(who) - (ETHERNET if who == KERNEL else 0) > LIMIT:
        return True
    if b.segment.version != 4 or len(merged) < 2:
        return False
    is_fixed = merged[0].segment.ident == merged[1].segment.ident
    steps = b.segment.ident - merged[0].segment.ident
    return steps % 2**16 != (0 if is_fixed else len(merged))


# GRO gives out a frame that it does not understand at once, before frames of
# its flow that it still keeps, and merges the frames around it. merge_into()
# keeps the order, and so ends the super-frame.
PASSES: Final = "gives the frame out at once and goes on with its flow"
ENDS: Final = "ends the super-frame, which keeps the frames in order"
# What GRO takes for two flows is one flow for merge_into().
OTHER_FLOW: Final = "has another flow for it and goes on with this one"

TABLE: Final = (
    Row(
        "wrong checksum",
        KERNEL,
        f"net/ipv4/tcp_offload.c:tcp4_gro_receive() {PASSES}",
        ENDS,
        passes(has_fault(WRONG_SUM)),
    ),
    Row(
        "wrong checksum of the IPv4 header",
        KERNEL,
        f"net/ipv4/af_inet.c:inet_gro_receive() {PASSES}",
        ENDS,
        passes(has_fault(WRONG_IP_SUM)),
    ),
    Row(
        "IPv4 options between",
        KERNEL,
        f"net/ipv4/af_inet.c:inet_gro_receive() {PASSES}",
        ENDS,
        passes(lambda a, x: bool(x.segment.options)),
    ),
    Row(
        "TCP header of less than 20 bytes",
        KERNEL,
        f"net/ipv4/tcp_offload.c:tcp_gro_pull_header() {PASSES}",
        ENDS,
        passes(has_fault(SHORT_HEADER)),
    ),
    Row(
        "UDP without checksum",
        KERNEL,
        f"net/ipv4/udp_offload.c:udp_gro_receive_segment() {PASSES}",
        ENDS,
        passes(has_fault(NO_SUM)),
    ),
    Row(
        "UDP that is empty, padded, or of a wrong length",
        KERNEL,
        f"net/ipv4/udp_offload.c:udp_gro_receive_segment() {PASSES}",
        ENDS,
        passes(
            lambda a, x: (
                x.segment.protocol == UDP
                and (x.fault in (PADDED, WRONG_LENGTH) or x.size == 0)
            )
        ),
    ),
    Row(
        "a fragment, or not IP",
        KERNEL,
        f"net/ipv4/af_inet.c:inet_gro_receive() {PASSES}",
        "ends all super-frames, because it may belong to any of the flows",
        lambda pair: any(
            x.fault in (FRAGMENT, NOT_IP) for x in pair.between()
        ),
    ),
    Row(
        "other MAC address",
        KERNEL,
        f"net/core/gro.c:gro_list_prepare() {OTHER_FLOW}",
        ENDS,
        passes(differs("target")),
    ),
    Row(
        "other tag",
        KERNEL,
        f"net/8021q/vlan_core.c:vlan_gro_receive() {OTHER_FLOW}",
        ENDS,
        passes(differs("tags")),
    ),
    Row(
        "other flow label",
        KERNEL,
        f"net/ipv6/ip6_offload.c:ipv6_gro_receive() {OTHER_FLOW}",
        ENDS,
        passes(differs("label")),
    ),
    Row(
        "other extension headers",
        KERNEL,
        f"net/ipv6/ip6_offload.c:ipv6_gro_receive() {OTHER_FLOW}",
        ENDS,
        passes(differs("extensions")),
    ),
    # The kernel merges frames that a cutter would not give back.
    Row(
        "0xffff for 0",
        KERNEL,
        "net/core/gro.c:__skb_gro_checksum_complete() accepts both",
        "copies the frame, because a cutter writes 0",
        lambda pair: OTHER_ZERO in (pair.a.fault, pair.b.fault),
    ),
    Row(
        "missing checksum that will be 0",
        KERNEL,
        "include/net/gro.h:__skb_gro_checksum_validate_needed() is false",
        "copies the frame: net/core/dev.c:skb_checksum_help() writes 0xffff,"
        " but a cutter writes 0",
        lambda pair: is_mangled_zero(pair.a) or is_mangled_zero(pair.b),
    ),
    Row(
        "constant id without DF",
        KERNEL,
        "include/net/gro.h:inet_gro_flush() does not look at DF",
        "copies the frame, because a cutter counts ids up",
        is_constant,
        since=(6, 18),
    ),
    Row(
        "CWR in all",
        KERNEL,
        "net/ipv4/tcp_offload.c:tcp_gro_receive() needs equal flags, because"
        " CWR is part of a counter in accurate ECN",
        "copies the frame, because a cutter leaves CWR in the first only",
        lambda pair: bool(pair.a.segment.flags & pair.b.segment.flags & CWR),
        since=(7, 0),
    ),
    Row(
        "urgent pointer without URG",
        KERNEL,
        "net/ipv4/tcp_offload.c:tcp_gro_receive() does not compare it",
        "copies the frame, because a cutter repeats that of the first",
        lambda pair: pair.a.segment.urgent != pair.b.segment.urgent,
    ),
    # The kernel does not merge frames that a cutter would give back.
    Row(
        TAGS,
        OURS,
        "net/8021q/vlan_core.c is not part of a kernel without VLANs",
        "merges frames with equal tags",
        lambda pair: bool(pair.a.segment.tags),
    ),
    Row(
        "IPv4 options",
        OURS,
        "net/ipv4/af_inet.c:inet_gro_receive() merges no frame with options",
        "merges frames with equal options",
        lambda pair: bool(pair.a.segment.options),
    ),
    Row(
        "CWR in the first",
        OURS,
        "net/ipv4/tcp_offload.c:tcp_gro_receive() needs equal flags",
        "merges as a cutter cuts",
        lambda pair: bool(pair.a.segment.flags & ~pair.b.segment.flags & CWR),
        since=(6, 15),
    ),
    # Limits, and what follows from the other rows.
    Row(
        "64 KiB with Ethernet header",
        KERNEL,
        "net/core/gro.c:skb_gro_receive() counts from the IP header",
        "counts from the Ethernet header, because the kernel cuts what is"
        " longer (net/core/dev.c:gso_features_check())",
        lambda pair: pair.length(OURS) > LIMIT,
    ),
    Row(
        "ended by us for another flow",
        KERNEL,
        "has fewer flows open, because it does not open some of them",
        "ends the oldest super-frame when a flow too many begins",
        lambda pair: pair.begun(OURS) >= FLOWS,
    ),
    Row(
        "ended by the kernel for another flow",
        OURS,
        "net/core/gro.c:gro_flush_oldest() ends the oldest super-frame",
        "has fewer flows open, because it does not open some of them",
        lambda pair: pair.begun(KERNEL) >= FLOWS,
    ),
    Row(
        "begun elsewhere by the kernel",
        OURS,
        "has begun its super-frame with another frame than we, for one of the"
        " reasons above, and ends it by its usual rules",
        "goes on with its own",
        began_elsewhere(KERNEL),
    ),
    Row(
        "begun elsewhere by us",
        KERNEL,
        "goes on with its own",
        "has begun its super-frame with another frame than the kernel, and"
        " ends it by the usual rules",
        began_elsewhere(OURS),
    ),
)


SEQUENCES: Final = 400
"""In as many, every row of the table is needed at least once."""
KINDS: Final = (*[mixed] * 7, many_flows, long_runs)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Gro]:
    with gro() as made:
        yield made


def by_kernel(oracle: Gro, frames: list[Frame]) -> list[Made]:
    """What the kernel makes of the frames."""
    known = Recognizer(frames)
    oracle.send(batch_of_frames(frames))
    for received in oracle.received():
        if known.read(received):
            break
    return known.made


def by_us(frames: list[Frame]) -> list[Made]:
    """What merge_into() makes of the frames."""
    known = Recognizer(frames)
    target = PacketBatch(len(frames), SUPER_FRAME)
    batch = batch_of_frames(frames)
    done = batch.merge_into(target, flows=FLOWS, keep_ids=False, segments=64)
    assert done == len(frames)
    assert known.read(target), "merge_into() has lost a frame"
    assert max(len(one.data) for one in known.made) <= LIMIT
    return known.made


@dataclass
class Findings:
    """What was seen in all sequences: how often a row was the only one that
    explains a difference, and how many frames are in equal super-frames."""

    needed: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    equal: int = 0
    kernel_merges_tags: bool = False

    def add(self, frames: list[Frame], sides: dict[str, list[Made]]) -> None:
        """Compares what the two sides have made of the frames."""
        merged = {
            side: {one.numbers: one for one in made if len(one.numbers) > 1}
            for side, made in sides.items()
        }
        for numbers in merged[KERNEL].keys() & merged[OURS].keys():
            assert merged[OURS][numbers] == merged[KERNEL][numbers]
            self.equal += len(numbers)
        self.frames += len(frames)
        self.kernel_merges_tags |= any(
            frames[numbers[0]].segment.tags for numbers in merged[KERNEL]
        )
        for pair in differences(frames, sides):
            rows = [
                row.name
                for row in TABLE
                if row.by == pair.by and row.explains(pair)
            ]
            assert rows, (
                f"only {pair.by} merges {pair.second} with {pair.first}, and"
                f" no row of the table says why: {pair.a}, {pair.b}"
            )
            self.needed.update(rows[:1] if len(rows) == 1 else [])

    def rows_never_needed(self) -> set[str]:
        """The rows that this kernel should have needed."""
        version = tuple(map(int, os.uname().release.split(".")[:2]))
        names = {row.name for row in TABLE if row.since <= version}
        if self.kernel_merges_tags:
            names.remove(TAGS)
        return names - self.needed.keys()


def test_super_frames_equal_the_kernels(
    oracle: Gro, scaled: Callable[[int], int]
) -> None:
    """Where both merge the same frames, in every byte, and in the offload
    header. Every difference is in the table, and every row is needed."""
    found = Findings()
    for seed in range(max(SEQUENCES, scaled(SEQUENCES))):
        rng = random.Random(seed)
        frames = KINDS[seed % len(KINDS)](rng, MOST_FRAMES)
        sides = {KERNEL: by_kernel(oracle, frames), OURS: by_us(frames)}
        try:
            found.add(frames, sides)
        except AssertionError as error:
            error.add_note(f"sequence {seed}")
            raise
    assert not found.rows_never_needed(), found.needed
    assert found.equal > found.frames / 4


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 10, 15])
def test_as_many_flows_are_open_as_in_the_kernel(
    oracle: Gro, count: int
) -> None:
    """When there are too many, both close the one that was opened first."""
    rng = random.Random(count)
    for _ in range(10):
        made = Generator(rng, zeros=False)
        flows = [made.plain_flow(number) for number in range(1, count + 1)]
        for _ in range(MOST_FRAMES):
            made.continue_flow(rng.choice(flows))
        assert {one.numbers for one in by_us(made.frames)} == {
            one.numbers for one in by_kernel(oracle, made.frames)
        }


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_super_frames_end_after_64_segments(
    merging_tap: tuple[int, str], protocol: int
) -> None:
    """As do the kernel's of UDP (net/ipv4/udp_offload.c: UDP_GRO_CNT_MAX). The
    kernel ends those of TCP only at 64 KiB."""
    flow = Flow(Segment(protocol=protocol, flow=1), 100, 1, is_open=False)
    made = Generator(random.Random(1), zeros=False)
    for _ in range(150):
        made.continue_flow(flow)
    assert sizes(by_us(made.frames)) == [64, 64, 22]
    descriptor, interface = merging_tap
    switch_on(interface, "rx-udp-gro-forwarding")
    if can_keep(interface):
        kernel = sizes(by_tap(descriptor, interface, made.frames))
        assert kernel == ([150] if protocol == TCP else [64, 64, 22])


def by_tap(descriptor: int, interface: str, frames: list[Frame]) -> list[Made]:
    """What the kernel makes of frames that are written to a tap."""
    packets = [one.data for one in frames]
    batch = PacketBatch(64, SUPER_FRAME)
    deadline = time.monotonic() + WAIT
    with RawSocket(interface, vnet_hdr=True) as receiver:
        receiver.settimeout(WAIT)
        while time.monotonic() < deadline:
            known = Recognizer(frames)
            at_once = write_at_once(descriptor, packets)
            complete = False
            while not complete:
                receiver.recvmmsg_into(batch)
                complete = known.read(batch)
            if at_once:
                return known.made
    raise AssertionError("GRO never saw the frames at once")


def sizes(made: list[Made]) -> list[int]:
    return [len(one.numbers) for one in made]
