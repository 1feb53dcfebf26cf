"""merge_into(): frames of a flow become a super-frame, of which segment_into()
and the kernel make the same frames again."""

import socket
from dataclasses import replace
from functools import partial

import pytest
from support import WAIT
from support.datagrams import (
    ACK,
    AD,
    CWR,
    ECE,
    FIN,
    KINDS,
    PSH,
    SHAPES,
    TAGS,
    TCP,
    Datagram,
    Q,
    add,
    columns,
    data,
    super_frame,
    write_header,
)
from support.flows import (
    batch_with,
    build,
    changed,
    cut_again,
    edited,
    large_target,
    numbered_flow,
    pieces,
    repaired,
    tuned,
)
from support.frames import (
    pending,
    receive,
    receive_unix,
    same_frames,
)
from support.hosts import Host, host
from support.linux import hardware_address

from rawmmsg import (
    GSO_ECN,
    GSO_TCPV4,
    SUPER_FRAME,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth, veth_pair

FLOWS = {
    **KINDS,
    **{
        name: datagram
        for name, datagram in SHAPES.items()
        if datagram.flags != 0xFF
    },
}
"""With options, extension headers, FIN, PSH, CWR and ECE."""


def merge_all(
    source: PacketBatch, target: PacketBatch | None = None
) -> PacketBatch:
    if target is None:
        target = large_target()
    assert source.merge_into(target) == len(source)
    return target


def is_super_frame(batch: PacketBatch, i: int, wanted: PacketBatch) -> None:
    """Asserts that piece i is the frame that the other batch holds, with the
    same offload header."""
    assert batch.tolist()[i] == wanted.tolist()[0]
    got = {name: column[i] for name, column in columns(batch).items()}
    assert got == {name: col[0] for name, col in columns(wanted).items()}


def expected(whole: Datagram, gso_size: int) -> PacketBatch:
    """The super-frame that must be made."""
    batch = super_frame(whole, gso_size)
    if whole.protocol == TCP and whole.flags & CWR:
        write_header(batch, 0, gso_types=whole.gso_type | GSO_ECN)
    return batch


# What is merged, and what the super-frame is


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 1448])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", FLOWS.values(), ids=FLOWS)
def test_frames_of_a_flow_become_one_super_frame(
    datagram: Datagram, tags: tuple[int, ...], size: int
) -> None:
    """With the headers of the first and what segment_into() needs: the sum of
    the pseudo-header with the length of all, and the offload header."""
    whole = replace(datagram, tags=tags, payload=data(7 * size))
    frames = whole.segments(size)
    made = merge_all(batch_with(frames))
    assert pieces(made) == [7]
    is_super_frame(made, 0, expected(whole, size))
    same_frames(cut_again(made), frames)


@pytest.mark.parametrize("datagram", FLOWS.values(), ids=FLOWS)
def test_last_frame_of_any_shorter_length_is_merged(
    datagram: Datagram,
) -> None:
    for last in range(1, 60):
        whole = replace(datagram, payload=data(2 * 60 + last))
        frames = whole.segments(60)
        made = merge_all(batch_with(frames))
        is_super_frame(made, 0, expected(whole, 60))
        same_frames(cut_again(made), frames)


def test_shorter_frame_ends_the_super_frame() -> None:
    flow = build(numbered_flow(KINDS["tcp4"], [50, 50, 20, 20, 20, 50]))
    made = merge_all(batch_with(flow))
    assert pieces(made) == [3, 2, 1]
    assert list(made.gso_sizes[:3]) == [50, 20, 0]
    same_frames(cut_again(made), flow)


@pytest.mark.parametrize("last", [PSH, FIN, PSH | FIN])
@pytest.mark.parametrize("version", [4, 6])
def test_psh_and_fin_end_the_super_frame(version: int, last: int) -> None:
    flow = numbered_flow(Datagram(version=version), [40] * 6)
    for i in (2, 4, 5):
        flow[i] = replace(flow[i], flags=ACK | last)
    made = merge_all(batch_with(build(flow)))
    assert pieces(made) == [3, 2, 1]
    at = flow[0].transport_offset + 13
    assert [piece[at] for piece in made] == [ACK | last] * 3
    same_frames(cut_again(made), build(flow))


@pytest.mark.parametrize("version", [4, 6])
def test_cwr_in_the_first_frame_is_said_by_gso_ecn(version: int) -> None:
    flow = numbered_flow(Datagram(version=version, flags=ACK | ECE), [40] * 5)
    flow[0] = replace(flow[0], flags=ACK | ECE | CWR)
    flow[3] = replace(flow[3], flags=ACK | ECE | CWR)
    made = merge_all(batch_with(build(flow)))
    assert pieces(made) == [3, 2]
    gso_type = flow[0].gso_type | GSO_ECN
    assert list(made.gso_types[:2]) == [gso_type, gso_type]
    same_frames(cut_again(made), build(flow))


@pytest.mark.parametrize("shift", range(16))
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_frames_may_have_any_alignment(datagram: Datagram, shift: int) -> None:
    flow = build(numbered_flow(datagram, [101, 101, 101, 7]))
    size = max(map(len, flow))
    memory = [memoryview(bytearray(size + 16)) for _ in flow]
    source = PacketBatch(
        buffers=[one[(shift + i) % 16 :] for i, one in enumerate(memory)]
    )
    source.extend(flow)
    into = memoryview(bytearray(SUPER_FRAME + 16))
    target = PacketBatch(1, buffer=into[15 - shift :])
    made = merge_all(source, target)
    assert pieces(made) == [4]
    same_frames(cut_again(made), flow)


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_checksum_of_zero_is_merged_in_the_form_that_senders_write(
    datagram: Datagram,
) -> None:
    """0 in TCP and 0xffff in UDP."""
    flow = build(numbered_flow(datagram, [50] * 3))
    flow[1] = tuned(flow[1], datagram.transport_offset, datagram.header_size)
    made = merge_all(batch_with(flow))
    assert pieces(made) == [3]
    same_frames(cut_again(made), flow)


def test_tcp_and_udp_of_the_same_ports_are_two_flows() -> None:
    flow = [
        one
        for pair in zip(
            build(numbered_flow(KINDS["tcp4"], [50] * 4)),
            build(numbered_flow(KINDS["udp4"], [50] * 4)),
            strict=True,
        )
        for one in pair
    ]
    target = large_target()
    assert batch_with(flow).merge_into(target, flows=2) == 8
    assert pieces(target) == [4, 4]
    same_frames(cut_again(target), flow[::2] + flow[1::2])


# Frames whose checksum is still missing, and other offload headers


def open_flow(
    datagram: Datagram, count: int
) -> tuple[PacketBatch, list[bytes]]:
    """A batch of frames without checksums, and the same frames with them."""
    flow = numbered_flow(datagram, [60] * count)
    batch = PacketBatch(count)
    for one in flow:
        add(batch, one)
    return batch, build(flow)


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_frames_without_checksum_are_merged(datagram: Datagram) -> None:
    source, flow = open_flow(datagram, 5)
    made = merge_all(source)
    whole = replace(datagram, payload=data(300))
    is_super_frame(made, 0, expected(whole, 60))
    same_frames(cut_again(made), flow)


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_frames_with_and_without_checksum_are_merged_together(
    datagram: Datagram,
) -> None:
    source, flow = open_flow(datagram, 6)
    for i in (0, 2, 3):
        source[i][:] = flow[i]
        write_header(source, i, vnet_flags=VNET_DATA_VALID if i else 0)
    made = merge_all(source)
    assert pieces(made) == [6]
    same_frames(cut_again(made), flow)


def test_lone_frame_without_checksum_stays_as_it_is() -> None:
    source, _ = open_flow(KINDS["udp4"], 1)
    made = merge_all(source)
    is_super_frame(made, 0, source)
    assert made.vnet_flags[0] == VNET_NEEDS_CSUM


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_super_frame_is_copied_with_its_header(datagram: Datagram) -> None:
    """Also between frames of its own flow, which it separates."""
    flow = numbered_flow(datagram, [100] * 8)
    source = PacketBatch(5, SUPER_FRAME)
    for one in flow[:2]:
        add(source, one)
    add(source, replace(flow[2], payload=data(400)), 100)
    for one in flow[6:]:
        add(source, one)
    for flows in (1, 3):
        made = large_target()
        assert source.merge_into(made, flows=flows) == 5
        assert pieces(made) == [2, 4, 2]
        is_super_frame(
            made, 1, super_frame(replace(flow[2], payload=data(400)), 100)
        )
        same_frames(cut_again(made), cut_again(source))


def test_frame_that_is_marked_as_verified_is_verified_all_the_same() -> None:
    flow = build(numbered_flow(KINDS["udp4"], [50] * 4))
    source = batch_with(flow)
    for i in range(4):
        write_header(source, i, vnet_flags=VNET_DATA_VALID)
    assert pieces(merge_all(source)) == [4]
    source[2][-1] ^= 1
    made = merge_all(source)
    assert pieces(made) == [2, 1, 1]
    assert list(made.vnet_flags[:3]) == [VNET_NEEDS_CSUM, VNET_DATA_VALID, 2]
    assert made.tolist()[1:] == source.tolist()[2:]


def test_batch_of_a_plain_socket_is_merged() -> None:
    """It has no offload headers. Those of an earlier receive are not used."""
    flow = build(numbered_flow(KINDS["tcp4"], [50] * 4))
    source = batch_with(flow)
    for i in range(4):
        write_header(source, i, gso_types=GSO_TCPV4, gso_sizes=9, vnet_flags=1)
    receive_unix(source, *flow)
    with pytest.raises(AttributeError):
        _ = source.gso_types
    assert pieces(merge_all(source)) == [4]
    receive_unix(source, b"a" * 60, flow[0], b"b" * 20)
    made = merge_all(source)
    assert made.tolist() == [b"a" * 60, flow[0], b"b" * 20]
    assert {tuple(one[:3]) for one in columns(made).values()} == {(0, 0, 0)}


def test_headers_that_the_target_had_are_gone() -> None:
    target = large_target(4)
    for _ in range(4):
        add(target, Datagram(data(5000)), 1000)
    merge_all(batch_with([b"x" * 60, b"y" * 60]), target)
    assert target.tolist() == [b"x" * 60, b"y" * 60]
    assert {tuple(one[:2]) for one in columns(target).values()} == {(0, 0)}


def test_source_stays_unchanged() -> None:
    source, _ = open_flow(KINDS["tcp6"], 8)
    before = source.tolist(), {k: list(v) for k, v in columns(source).items()}
    merge_all(source)
    assert before == (
        source.tolist(),
        {k: list(v) for k, v in columns(source).items()},
    )


# Limits


@pytest.mark.parametrize(
    ("segments", "wanted"),
    [(1, [1] * 10), (2, [2] * 5), (3, [3, 3, 3, 1]), (10, [10]), (128, [10])],
)
def test_segments_limits_the_frames_of_a_super_frame(
    segments: int, wanted: list[int]
) -> None:
    flow = build(numbered_flow(KINDS["udp6"], [50] * 10))
    target = large_target()
    assert batch_with(flow).merge_into(target, segments=segments) == 10
    assert pieces(target) == wanted
    same_frames(cut_again(target), flow)


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_most_frames_are_64_unless_more_are_allowed(
    datagram: Datagram,
) -> None:
    flow = build(numbered_flow(datagram, [20] * 300))
    source = batch_with(flow)
    assert pieces(merge_all(source)) == [64, 64, 64, 64, 44]
    target = large_target()
    source.merge_into(target, segments=128)
    assert pieces(target) == [128, 128, 44]


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_super_frame_has_at_most_65535_bytes(
    datagram: Datagram, tags: tuple[int, ...]
) -> None:
    """Of which the last segment fills what the others leave."""
    datagram = replace(datagram, tags=tags)
    room = 65_535 - datagram.header_size
    sizes = [1400] * (room // 1400)
    for last, wanted in ((0, len(sizes) + 1), (1, len(sizes))):
        flow = build(numbered_flow(datagram, [*sizes, room % 1400 + last]))
        made = merge_all(batch_with(flow))
        assert pieces(made)[0] == wanted
        assert sum(pieces(made)) == len(flow)
        same_frames(cut_again(made), flow)


def test_super_frames_grow_as_far_as_the_targets_frame() -> None:
    datagram = KINDS["tcp4"]
    flow = build(numbered_flow(datagram, [100] * 12))
    room = datagram.header_size + 4 * 100
    for more, wanted in ((-1, [3] * 4), (0, [4] * 3), (99, [4] * 3)):
        made = merge_all(batch_with(flow), PacketBatch(12, room + more))
        assert pieces(made) == wanted
        same_frames(cut_again(made), flow)


def test_frames_of_the_target_may_differ_in_size() -> None:
    datagram = KINDS["udp4"]
    flow = build(numbered_flow(datagram, [100] * 9))
    headers = datagram.header_size
    rooms = [headers + 100, headers + 350, headers + 199, headers + 2000]
    target = PacketBatch(buffers=[bytearray(room) for room in rooms])
    made = merge_all(batch_with(flow), target)
    assert pieces(made) == [1, 3, 1, 4]
    same_frames(cut_again(made), flow)


def test_max_length_leaves_longer_frames_alone() -> None:
    datagram = KINDS["tcp4"]
    flow = build(numbered_flow(datagram, [100] * 4))
    source = batch_with(flow)
    length = len(flow[0])
    for limit, wanted in (
        (length, [4]),
        (length - 1, [1] * 4),
        (0, [1] * 4),
        (None, [4]),
        (2**40, [4]),
    ):
        target = large_target()
        assert source.merge_into(target, max_length=limit) == 4
        assert pieces(target) == wanted
        same_frames(cut_again(target), flow)


@pytest.mark.parametrize(
    ("tags", "more"), [((), 0), ((Q,), 4), ((Q, Q), 4), ((AD, Q), 0)]
)
def test_max_length_does_not_count_an_outer_802_1q_tag(
    tags: tuple[int, ...], more: int
) -> None:
    """As in net/packet/af_packet.c:packet_extra_vlan_len_allowed()."""
    datagram = replace(KINDS["udp4"], tags=tags)
    source = batch_with(build(numbered_flow(datagram, [100] * 4)))
    length = len(source[0])
    for limit, wanted in ((length - more, [4]), (length - more - 1, [1] * 4)):
        target = large_target()
        source.merge_into(target, max_length=limit)
        assert pieces(target) == wanted


def test_udp_is_copied_if_only_tcp_is_asked_for() -> None:
    tcp = build(numbered_flow(KINDS["tcp4"], [50] * 3))
    udp = build(numbered_flow(KINDS["udp4"], [50] * 3))
    target = large_target()
    assert batch_with(udp + tcp).merge_into(target, udp=False) == 6
    assert pieces(target) == [1, 1, 1, 3]
    same_frames(cut_again(target), udp + tcp)


# Beginning, stopping and going on


def test_merging_can_start_at_any_frame() -> None:
    flow = build(numbered_flow(KINDS["tcp6"], [50] * 6))
    source = batch_with(flow)
    for start in range(6):
        target = large_target()
        assert source.merge_into(target, start) == 6
        same_frames(cut_again(target), flow[start:])
        assert pieces(target) == [6 - start]


def test_nothing_is_left_after_the_last_frame() -> None:
    source = batch_with([b"x" * 60])
    target = batch_with([b"y" * 60])
    assert source.merge_into(target, 1) == 1
    assert len(target) == 0


def test_empty_batch_is_merged_into_an_empty_batch() -> None:
    target = batch_with([b"x"])
    assert PacketBatch(4).merge_into(target) == 0
    assert len(target) == 0


@pytest.mark.parametrize("capacity", [1, 2, 3, 5])
def test_it_stops_before_the_frame_that_needs_another_one_of_the_target(
    capacity: int,
) -> None:
    """Until then, frames that can join an open super-frame are taken."""
    flow = build(numbered_flow(KINDS["udp4"], [50] * 20))
    source = batch_with(flow)
    target = large_target(capacity)
    frames: list[bytes] = []
    start = 0
    while start < 20:
        end = source.merge_into(target, start, segments=3)
        assert end == min(20, start + 3 * capacity)
        assert len(target) == -(-(end - start) // 3)
        frames += cut_again(target)
        start = end
    same_frames(frames, flow)


def test_full_target_takes_frames_of_flows_that_are_open() -> None:
    a = build(numbered_flow(KINDS["tcp4"], [50] * 3))
    b = build(numbered_flow(KINDS["udp4"], [50] * 3))
    source = batch_with([a[0], b[0], b[1], a[1], a[2], b"x" * 60, b[2]])
    target = large_target(2)
    assert source.merge_into(target, flows=2) == 5
    assert pieces(target) == [3, 2]
    same_frames(cut_again(target), [*a, *b[:2]])
    assert source.merge_into(target, 5, flows=2) == 7
    same_frames(cut_again(target), [b"x" * 60, b[2]])


# Flows


def streams(count: int, each: int) -> list[list[bytes]]:
    """Flows that differ in a port only."""
    return [
        [
            _with_port(one, 1000 + number)
            for one in numbered_flow(KINDS["udp4"], [50] * each)
        ]
        for number in range(count)
    ]


def _with_port(datagram: Datagram, port: int) -> bytes:
    return changed(
        datagram.build(), datagram.transport_offset, port.to_bytes(2, "big")
    )


def test_one_flow_keeps_the_order_of_all_frames() -> None:
    a, b = streams(2, 4)
    frames = [a[0], a[1], b[0], a[2], a[3], b[1], b[2], b[3]]
    made = merge_all(batch_with(frames))
    assert pieces(made) == [2, 1, 2, 3]
    same_frames(cut_again(made), frames)


@pytest.mark.parametrize("flows", [2, 3, 8, 256])
def test_frames_of_several_flows_are_merged_when_they_are_mixed(
    flows: int,
) -> None:
    """The pieces are in the order of their first frames."""
    apart = streams(flows, 3)
    mixed = [frame for step in zip(*apart, strict=True) for frame in step]
    target = large_target(flows)
    assert batch_with(mixed).merge_into(target, flows=flows) == 3 * flows
    assert pieces(target) == [3] * flows
    same_frames(cut_again(target), [one for flow in apart for one in flow])


def test_new_flow_closes_the_one_that_was_opened_first() -> None:
    a, b, c = streams(3, 4)
    frames = [a[0], b[0], a[1], c[0], b[1], a[2], a[3], c[1], b[2], c[2]]
    target = large_target()
    batch_with(frames).merge_into(target, flows=2)
    # a[2] opens a flow again, and so closes b; then b[2] closes c.
    assert pieces(target) == [2, 2, 2, 2, 1, 1]
    same_frames(
        cut_again(target),
        [*a[:2], *b[:2], *c[:2], *a[2:], b[2], c[2]],
    )


def closing(frame: bytes) -> list[int]:
    """Which pieces are made if the frame is in the middle of two flows."""
    a, b = streams(2, 4)
    frames = [a[0], b[0], a[1], b[1], frame, a[2], b[2], a[3], b[3]]
    target = large_target()
    assert batch_with(frames).merge_into(target, flows=4) == 9
    assert sorted(cut_again(target)) == sorted(frames)
    for flow in (a, b):
        cut = [one for one in cut_again(target) if one in flow]
        same_frames(cut, flow)
    return pieces(target)


BETWEEN = {
    "ARP": (b"\xff" * 12 + b"\x08\x06" + bytes(46), [2, 2, 1, 2, 2]),
    "too short": (b"\xff" * 13, [2, 2, 1, 2, 2]),
    "too short for IP": (b"\xff" * 12 + b"\x08\x00E", [2, 2, 1, 2, 2]),
    "nine tags": (replace(KINDS["udp4"], tags=(Q,) * 9), [2, 2, 1, 2, 2]),
    "SCTP": (replace(KINDS["udp4"], protocol=132), [4, 4, 1]),
    "another flow": (KINDS["tcp6"], [4, 4, 1]),
}


@pytest.mark.parametrize(("frame", "wanted"), BETWEEN.values(), ids=BETWEEN)
def test_frame_that_cannot_be_read_closes_all_flows(
    frame: bytes | Datagram, wanted: list[int]
) -> None:
    """One of another protocol, or of another flow, closes none."""
    if isinstance(frame, Datagram):
        frame = frame.build()
    made = closing(frame)
    assert sorted(made) == sorted(wanted)


@pytest.mark.parametrize("kind", ["udp4", "tcp4"])
@pytest.mark.parametrize("fragment", [b"\x20\0", b"\x20\x10", b"\0\x20"])
def test_fragment_closes_all_flows(kind: str, fragment: bytes) -> None:
    """It may belong to any of them."""
    frame = changed(KINDS[kind].build(), 20, fragment)
    assert closing(frame) == [2, 2, 1, 2, 2]


def test_ipv6_fragment_closes_all_flows() -> None:
    frame = changed(KINDS["udp6"].build(), 20, b"\x11")
    assert closing(edited(frame, 20, b"\x2c")) == [2, 2, 1, 2, 2]


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, b"\2"), (15, b"\4"), (20, b"\0\0"), (22, b"\x3f"), (46, b"x")],
    ids=["MAC", "TOS", "DF", "TTL", "no checksum"],
)
def test_frame_that_belongs_to_a_flow_and_cannot_be_merged_closes_it(
    at: int, value: bytes
) -> None:
    """Otherwise the order within the flow would change."""
    a, _ = streams(2, 4)
    frame = edited(a[2], at, value)
    frame = repaired(frame) if at < 40 else edited(frame, 40, b"\0\0")
    assert closing(frame) == [2, 4, 1, 2]


# The ids of IPv4


def with_ids(datagram: Datagram, ids: list[int]) -> list[bytes]:
    flow = numbered_flow(datagram, [50] * len(ids))
    return build(
        replace(one, ident=ident) for one, ident in zip(flow, ids, strict=True)
    )


IDS = {
    "constant": ([7] * 5, [1] * 5, [5]),
    "up": ([65534, 65535, 0, 1, 2], [5], [5]),
    "up, then constant": ([7, 8, 9, 9, 9], [3, 1, 1], [3, 2]),
    "constant, then up": ([7, 7, 7, 8, 9], [1, 1, 3], [3, 2]),
    "down": ([9, 8, 7, 6, 5], [1] * 5, [1] * 5),
    "gap": ([1, 2, 4, 5, 6], [2, 3], [2, 3]),
    "twice": ([1, 1, 2, 2, 3], [1, 2, 2], [2, 2, 1]),
}


@pytest.mark.parametrize("kind", ["tcp4", "udp4"])
@pytest.mark.parametrize(("ids", "kept", "counted"), IDS.values(), ids=IDS)
def test_ids_may_be_constant_if_they_need_not_be_kept(
    kind: str, ids: list[int], kept: list[int], counted: list[int]
) -> None:
    """As in the kernel, which lets the ids of segments count up."""
    frames = with_ids(KINDS[kind], ids)
    source, target = batch_with(frames), large_target()
    source.merge_into(target)
    assert pieces(target) == kept
    same_frames(cut_again(target), frames)
    source.merge_into(target, keep_ids=False)
    assert pieces(target) == counted
    at, wanted = 0, []
    for count in counted:
        wanted += [(ids[at] + i) % 2**16 for i in range(count)]
        at += count
    same_frames(cut_again(target), with_ids(KINDS[kind], wanted))


def test_constant_ids_are_kept_if_fragments_are_allowed() -> None:
    frames = [
        changed(frame, 20, b"\0\0")
        for frame in with_ids(KINDS["udp4"], [7, 7, 7, 8, 9])
    ]
    target = large_target()
    batch_with(frames).merge_into(target, keep_ids=False)
    assert pieces(target) == [1, 1, 3]
    same_frames(cut_again(target), frames)


# What the kernel makes of it


@pytest.mark.parametrize("tags", [(), (Q,)], ids=["plain", "tag"])
@pytest.mark.parametrize("datagram", FLOWS.values(), ids=FLOWS)
def test_kernel_cuts_the_super_frame_into_the_same_frames(
    kernel: tuple[RawSocket, RawSocket],
    datagram: Datagram,
    tags: tuple[int, ...],
) -> None:
    sender, receiver = kernel
    whole = replace(datagram, tags=tags, payload=data(4001))
    frames = whole.segments(500)
    made = merge_all(batch_with(frames))
    assert sender.sendmmsg(made) == 1
    same_frames(receive(receiver, len(frames)), frames)
    assert pending(receiver) == [], "the kernel made more segments"


@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_receiver_of_the_super_frame_can_cut_it(
    veth: Veth, datagram: Datagram
) -> None:
    """On a socket with offload headers it arrives in one piece."""
    frames = replace(datagram, payload=data(64 * 300)).segments(300)
    made = merge_all(batch_with(frames))
    received = large_target(4)
    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as sender,
        RawSocket(veth.b, vnet_hdr=True) as receiver,
    ):
        receiver.settimeout(WAIT)
        assert sender.sendmmsg(made) == 1
        assert receiver.recvmmsg_into(received) == 1
    same_frames(cut_again(received), frames)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_udp_socket_receives_every_datagram(
    family: socket.AddressFamily,
) -> None:
    """One without UDP_GRO: the kernel of the host cuts what arrives."""
    with veth_pair() as veth, host(veth, 1) as far:
        sock = far.call(partial(socket.socket, family, socket.SOCK_DGRAM))
        with sock, RawSocket(veth.b, protocol=0, vnet_hdr=True) as sender:
            sock.settimeout(WAIT)
            far.call(sock.bind, (far.address(family), 9))
            frames = to_host(far, family, 128)
            made = merge_all(batch_with(frames))
            assert pieces(made) == [64, 64]
            assert sender.sendmmsg(made) == 2
            got = [sock.recv(2048) for _ in frames]
            assert got == [frame[-200:] for frame in frames]
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(2048)
        assert set(far.checksum_errors().values()) == {0}


def to_host(
    far: Host, family: socket.AddressFamily, count: int
) -> list[bytes]:
    """Frames with datagrams to port 9 of the host."""
    kind = "udp4" if family == socket.AF_INET else "udp6"
    address = socket.inet_pton(family, far.address(family))
    neighbour = address[:-1] + b"\2"
    at = 26 if family == socket.AF_INET else 22
    hardware = far.call(hardware_address, far.interface)
    return [
        changed(edited(frame, 0, hardware), at, neighbour + address)
        for frame in build(numbered_flow(KINDS[kind], [200] * count))
    ]


@pytest.mark.parametrize("stop", [0, 1, 3, 6, None])
def test_frames_from_stop_on_are_left(stop: int | None) -> None:
    frames = build(numbered_flow(KINDS["tcp4"], [100] * 6))
    source, target = batch_with(frames), large_target()
    end = 6 if stop is None else stop
    assert source.merge_into(target, 0, stop) == end
    assert cut_again(target) == frames[:end]
    assert len(target) == min(end, 1)
    assert len(source) == 6
