"""compute_checksums(): every checksum is right afterwards, whatever was there
before, and nothing else is changed."""

import random
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy
import pytest
from support import WAIT
from support.calls import repeating
from support.datagrams import (
    DESTINATION,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    JUMBO,
    SCTP,
    TAGS,
    TCP,
    UDP,
    Datagram,
    Q,
    add,
    checksum,
    columns,
    data,
    write_header,
    zeroing,
)
from support.frames import frame, receive_unix
from support.sums import (
    CHECKED,
    batch_of,
    computed,
    header_field,
    network_of,
    overwritten,
    transport_field,
    with_header_checksum,
)

from rawmmsg import (
    CHECKSUM_NOT_READY,
    GSO_TCPV4,
    GSO_UDP_L4,
    SUPER_FRAME,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

# Every protocol, behind everything


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_checksums_are_right_at_every_length(
    datagram: Datagram, tags: tuple[int, ...]
) -> None:
    sizes = [*range(70), 100, 101, 1000, 1001, 1398, 1399, 1400]
    made = [replace(datagram, tags=tags, payload=data(n)) for n in sizes]
    batch = batch_of([overwritten(one, 0x5A) for one in made])
    assert batch.compute_checksums() == len(made)
    assert batch.tolist() == [one.build() for one in made]


@pytest.mark.parametrize("old", [0, 1, 0x80, 0xFF])
@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_old_values_do_not_count(datagram: Datagram, old: int) -> None:
    one = replace(datagram, payload=data(333))
    assert computed(overwritten(one, old)) == one.build()
    assert computed(one.build()) == one.build()


@pytest.mark.parametrize("shift", range(16))
def test_checksums_are_right_at_every_address(shift: int) -> None:
    one = Datagram(data(100), UDP)
    size = len(one.build())
    memory = bytearray(size + 16)
    batch = PacketBatch(1, buffer=memoryview(memory)[shift : shift + size])
    batch.append(overwritten(one, 3))
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [one.build()]


@pytest.mark.parametrize("byte", [0, 0xFF])
@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_longest_packets_of_equal_bytes_are_right(
    datagram: Datagram, byte: int
) -> None:
    """No carry is lost."""
    headers = len(datagram.build()) - 14
    longest = 65_535 + (40 if datagram.version == 6 else 0)
    one = replace(datagram, payload=bytes([byte]) * (longest - headers))
    assert computed(overwritten(one, 7)) == one.build()


def test_arrays_of_numpy_become_right() -> None:
    """Frames whose fields were written as columns of an array."""
    count, made = 50, Datagram(data(40), UDP)
    batch = PacketBatch(count, 128)
    for _ in range(count):
        batch.append(made.build())
    frames = numpy.asarray(batch)
    ports = numpy.arange(40_000, 40_000 + count, dtype=">u2")
    frames[:, 34:36] = ports.view("u1").reshape(count, 2)
    frames[:, 33] = numpy.arange(count)
    assert batch.compute_checksums() == count
    for i, packet in enumerate(batch.tolist()):
        addresses = packet[26:34]
        assert packet[33] == i
        assert checksum(packet[14:34]) == 0
        pseudo = addresses + struct.pack("!HH", UDP, 48)
        assert checksum(pseudo + packet[34:]) == 0
        assert packet[34:36] == (40_000 + i).to_bytes(2, "big")


# 0 and 0xffff


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP, ICMPV6])
def test_checksum_of_zero_is_written_as_the_protocol_wants(
    protocol: int,
) -> None:
    """In UDP, 0 means no checksum. Elsewhere it is a value like any other."""
    version = 6 if protocol == ICMPV6 else 4
    one = zeroing(Datagram(data(20), protocol, version))
    expected = b"\xff\xff" if protocol == UDP else b"\0\0"
    for old in (0, 0x5A, 0xFF):
        packet = computed(overwritten(one, old))
        assert packet[transport_field(one)] == expected
        assert packet == one.build()


def test_header_checksum_of_zero_is_written() -> None:
    one = Datagram(data(20), UDP)
    value = struct.unpack("!H", one.build()[header_field(one)])[0]
    one = replace(one, ident=(one.ident + value) % 0xFFFF)
    assert one.build()[header_field(one)] == b"\0\0"
    for old in (0, 0x5A, 0xFF):
        assert computed(overwritten(one, old)) == one.build()


@pytest.mark.parametrize("old", [0, 0x5A, 0xFF])
def test_message_of_zeros_has_a_checksum(old: int) -> None:
    """An echo reply of ICMP is zeros alone if its id and number are 0, and a
    sum of 0 has the checksum 0xffff."""
    one = Datagram(bytes(20), ICMP)
    packet = bytearray(overwritten(one, old))
    packet[34:36] = bytes(2)
    packet[38:] = bytes(len(packet) - 38)
    assert computed(packet)[34:] == b"\0\0\xff\xff" + bytes(24)


# What is covered


@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_padding_does_not_count(datagram: Datagram) -> None:
    one = replace(datagram, payload=b"abc")
    padding = bytes(range(1, 20))
    packet = overwritten(one, 9) + padding
    assert computed(packet) == one.build() + padding


@pytest.mark.parametrize("version", [4, 6])
def test_udp_covers_the_bytes_of_its_own_length(version: int) -> None:
    one = Datagram(data(30), UDP, version)
    short = bytearray(replace(one, payload=data(21)).build())
    packet = bytearray(overwritten(one, 1))
    at = one.transport_offset
    packet[at + 4 : at + 6] = (29).to_bytes(2, "big")
    expected = bytearray(packet)
    if version == 4:
        expected = bytearray(with_header_checksum(packet, 14))
    expected[transport_field(one)] = short[transport_field(one)]
    assert computed(packet) == expected


FRAGMENTS = {"more": 0x2000, "last": 0x0003, "middle": 0x3FFF}


@pytest.mark.parametrize("word", FRAGMENTS.values(), ids=FRAGMENTS)
@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP, SCTP])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_fragment_gets_a_header_checksum_alone(
    protocol: int, word: int, tags: tuple[int, ...]
) -> None:
    one = Datagram(data(40), protocol, tags=tags)
    network = network_of(one)
    packet = bytearray(overwritten(one, 0x77))
    packet[network + 6 : network + 8] = word.to_bytes(2, "big")
    assert computed(packet) == with_header_checksum(packet, network)


@pytest.mark.parametrize("word", [0, 0x4000, 0x8000, 0xC000])
def test_other_flags_make_no_fragment(word: int) -> None:
    one = Datagram(data(40), UDP)
    packet = bytearray(overwritten(one, 0x77))
    packet[20:22] = word.to_bytes(2, "big")
    got = computed(packet)
    assert got[transport_field(one)] == one.build()[transport_field(one)]


@pytest.mark.parametrize("offset", [0, 1, 8, 0xFFF9])
def test_fragment_of_ipv6_is_unchanged(offset: int) -> None:
    """Even a lone one: the fragment header says so."""
    header = (44, bytes([0, 0, *offset.to_bytes(2, "big"), 1, 2, 3, 4]))
    one = Datagram(data(40), UDP, 6, extensions=(HOP_BY_HOP, header))
    batch = batch_of([overwritten(one, 0x77)])
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [overwritten(one, 0x77)]


OTHERS = {
    "IP in IP": 4,
    "GRE": 47,
    "ESP": 50,
    "AH": 51,
    "DCCP": 33,
    "UDP-Lite": 136,
    "none": 59,
    "unknown": 253,
}


@pytest.mark.parametrize("protocol", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("payload", [b"", b"abcdefg"])
def test_other_protocols_get_a_header_checksum_alone(
    protocol: int, payload: bytes
) -> None:
    ipv4 = bytearray(replace(Datagram(), payload=payload).build()[:34])
    ipv4[16:18] = (20 + len(payload)).to_bytes(2, "big")
    ipv4[23] = protocol
    ipv4 += payload
    assert computed(ipv4) == with_header_checksum(ipv4, 14)
    ipv6 = bytearray(Datagram(version=6).build()[:54])
    ipv6[18:20] = len(payload).to_bytes(2, "big")
    ipv6[20] = protocol
    ipv6 += payload
    assert computed(ipv6) == ipv6


def test_icmp_of_the_other_version_is_another_protocol() -> None:
    for protocol, version in ((ICMP, 6), (ICMPV6, 4)):
        one = Datagram(data(10), protocol, version)
        packet = overwritten(one, 0x11)
        got = computed(packet)
        assert got[transport_field(one)] == packet[transport_field(one)]


NOT_IP = {
    "nothing": b"",
    "a byte": b"\xff",
    "less than a header": Datagram(data(9)).build()[:13],
    "a header": frame(b""),
    "ARP": frame(data(46), ethertype=0x0806),
    "a length": frame(data(46), ethertype=46),
    "another EtherType": frame(Datagram(data(9)).build()[14:]),
    "a cut tag": Datagram(data(9), tags=(Q,)).build()[:17],
    "nine tags": Datagram(data(9), tags=(Q,) * 9).build(),
}


@pytest.mark.parametrize("packet", NOT_IP.values(), ids=NOT_IP)
def test_other_frames_are_left_alone(packet: bytes) -> None:
    one = Datagram(data(9), UDP)
    batch = batch_of([packet, overwritten(one, 1), packet])
    write_header(batch, 2, vnet_flags=VNET_NEEDS_CSUM, checksum_starts=20)
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [packet, one.build(), packet]
    assert batch.vnet_flags[2] == VNET_NEEDS_CSUM


def test_eight_tags_are_skipped() -> None:
    """As many as the kernel skips."""
    one = Datagram(data(9), UDP, tags=(Q,) * 8)
    assert computed(overwritten(one, 1)) == one.build()


def test_empty_batch_has_no_checksums() -> None:
    assert PacketBatch().compute_checksums() == 0


# Source routes

FINAL4 = bytes([10, 9, 0, 77])
FINAL6 = bytes(15) + b"\x77"
OTHER6 = bytes(range(16))


def route4(kind: int, *addresses: bytes, pointer: int = 4) -> bytes:
    """An option with a source route, aligned by a NOP before it."""
    content = b"".join(addresses)
    return bytes([1, kind, 3 + len(content), pointer]) + content


def route6(
    kind: int, *addresses: bytes, left: int | None = None, more: bytes = b""
) -> tuple[int, bytes]:
    """A routing header."""
    content = b"".join(addresses) + more
    left = len(addresses) if left is None else left
    header = bytes([0, len(content) // 8, kind, left, 0, 0, 0, 0])
    return 43, header + content


ROUTES4 = {
    "loose": (route4(131, FINAL4), FINAL4),
    "strict": (route4(137, FINAL4), FINAL4),
    "long": (route4(131, bytes(4), bytes(4), FINAL4), FINAL4),
    "partly used": (route4(131, bytes(4), FINAL4, pointer=8), FINAL4),
    "almost used up": (route4(131, FINAL4, pointer=7), FINAL4),
    "used up": (route4(131, FINAL4, pointer=8), b""),
    "used up, long": (route4(131, bytes(4), FINAL4, pointer=12), b""),
    "behind another": (b"\x07\x07\x04" + bytes(5) + route4(131, FINAL4), b""),
    "behind a record": (
        bytes([7, 7, 4, 0, 0, 0, 0, 1]) + route4(131, FINAL4),
        FINAL4,
    ),
    "behind the end": (bytes(4) + route4(131, FINAL4), b""),
    "without an address": (bytes([131, 6, 4, 0, 0, 0, 0, 0]), b""),
    "too long": (bytes([131, 40, 4, 0, 0, 0, 0, 0]), b""),
    "of length 0": (bytes([131, 0, 4, 0, 0, 0, 0, 0]), b""),
    "of length 1": (bytes([9, 1, 1, 1]) + route4(131, FINAL4), b""),
    "cut": (bytes([1, 1, 1, 131]), b""),
}


@pytest.mark.parametrize(("options", "final"), ROUTES4.values(), ids=ROUTES4)
@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP, SCTP])
def test_final_destination_of_an_option_counts(
    options: bytes, final: bytes, protocol: int
) -> None:
    """In the pseudo-header is where the packet ends up (RFC 791, 3.1)."""
    one = Datagram(data(50), protocol, options=options, final=final)
    assert computed(overwritten(one, 1)) == one.build()


ROUTES6 = {
    "type 0": ((route6(0, FINAL6),), FINAL6),
    "type 0, long": ((route6(0, OTHER6, OTHER6, FINAL6),), FINAL6),
    "type 0, partly used": ((route6(0, OTHER6, FINAL6, left=1),), FINAL6),
    "type 0, used up": ((route6(0, OTHER6, FINAL6, left=0),), b""),
    "type 2": ((route6(2, FINAL6),), FINAL6),
    "type 4": ((route6(4, FINAL6, OTHER6, OTHER6),), FINAL6),
    "type 4, partly used": ((route6(4, FINAL6, OTHER6, left=1),), FINAL6),
    "type 4, used up": ((route6(4, FINAL6, OTHER6, left=0),), b""),
    "type 4, with a TLV": (
        (route6(4, FINAL6, OTHER6, more=bytes([4, 6, *bytes(6)])),),
        FINAL6,
    ),
    "unknown, used up": ((route6(253, FINAL6, left=0),), b""),
    "two": ((route6(0, OTHER6), DESTINATION, route6(4, FINAL6)), FINAL6),
    "behind others": ((HOP_BY_HOP, DESTINATION, route6(2, FINAL6)), FINAL6),
}


@pytest.mark.parametrize(
    ("extensions", "final"), ROUTES6.values(), ids=ROUTES6
)
@pytest.mark.parametrize("protocol", [TCP, UDP, ICMPV6, SCTP])
def test_final_destination_of_a_routing_header_counts(
    extensions: tuple[tuple[int, bytes], ...], final: bytes, protocol: int
) -> None:
    """RFC 8200, 8.1."""
    one = Datagram(data(50), protocol, 6, extensions=extensions, final=final)
    assert computed(overwritten(one, 1)) == one.build()


UNKNOWN_ROUTES = {
    "unknown type": route6(253, FINAL6),
    "RPL": route6(3, FINAL6),
    "type 0 without an address": route6(0, left=1),
    "type 4 without an address": route6(4, left=1, more=bytes(8)),
    "type 0 of half an address": route6(0, FINAL6, more=bytes(8)),
    "type 2 of half an address": route6(2, FINAL6, more=bytes(8)),
}


@pytest.mark.parametrize("route", UNKNOWN_ROUTES.values(), ids=UNKNOWN_ROUTES)
def test_unknown_final_destination_is_an_error(
    route: tuple[int, bytes],
) -> None:
    """Except where nothing covers it."""
    sctp = Datagram(data(50), SCTP, 6, extensions=(route,))
    assert computed(overwritten(sctp, 1)) == sctp.build()
    for protocol in (TCP, UDP, ICMPV6):
        packet = replace(sctp, protocol=protocol).build()
        batch = batch_of([packet])
        with pytest.raises(
            ValueError, match=r"packet 0: the final destination"
        ):
            batch.compute_checksums()
        assert batch.tolist() == [packet]


# Offload headers


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_open_checksum_is_computed(
    datagram: Datagram, tags: tuple[int, ...]
) -> None:
    one = replace(datagram, payload=data(100), tags=tags)
    batch = PacketBatch(1)
    add(batch, one)
    write_header(batch, 0, vnet_flags=VNET_NEEDS_CSUM | VNET_DATA_VALID)
    before = {name: column[0] for name, column in columns(batch).items()}
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [one.build()]
    after = {name: column[0] for name, column in columns(batch).items()}
    assert after == before | {"vnet_flags": VNET_DATA_VALID}


def test_header_that_is_never_used_does_not_matter() -> None:
    one = Datagram(data(100))
    batch = batch_of([overwritten(one, 1)])
    write_header(
        batch, 0, header_lengths=65535, checksum_starts=65535, gso_sizes=1
    )
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [one.build()]


def tunnel(inner: Datagram, *, whole: bool) -> tuple[Datagram, int]:
    """A VXLAN datagram, and the offset of the inner transport header."""
    payload = bytes(8) + inner.build(whole=whole)
    outer = Datagram(payload, UDP)
    return outer, outer.header_size + 8 + inner.transport_offset


@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_checksum_in_a_tunnel_is_completed_before_the_outer_one(
    datagram: Datagram,
) -> None:
    if datagram.protocol == SCTP:
        return  # a tunnel cannot leave its checksum open
    inner = replace(datagram, payload=data(200))
    outer, start = tunnel(inner, whole=False)
    batch = batch_of([overwritten(outer, 1)])
    write_header(
        batch,
        0,
        vnet_flags=VNET_NEEDS_CSUM,
        checksum_starts=start,
        checksum_offsets=transport_field(inner).start - inner.transport_offset,
    )
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [tunnel(inner, whole=True)[0].build()]
    assert batch.vnet_flags[0] == 0


def test_checksum_of_another_protocol_is_completed() -> None:
    """The offload header says where it is, as for complete_checksums()."""
    batch = PacketBatch(2)
    for i in range(2):
        packet = bytearray(Datagram(data(60)).build())
        packet[23] = 33  # DCCP
        batch.append(with_header_checksum(packet, 14))
        write_header(
            batch,
            i,
            vnet_flags=VNET_NEEDS_CSUM,
            checksum_starts=34,
            checksum_offsets=6,
        )
    batch.set_count(1)
    batch.complete_checksums()
    completed = batch.tolist()[0]
    batch.set_count(2)
    assert batch.compute_checksums() == 2
    assert batch.tolist() == [completed] * 2
    assert batch.vnet_flags[1] == 0


def test_checksum_at_another_place_is_completed_first() -> None:
    """Wherever the offload header says that it is."""
    one = Datagram(data(60))
    batch = PacketBatch(2)
    for i in range(2):
        batch.append(overwritten(one, 1))
        write_header(
            batch,
            i,
            vnet_flags=VNET_NEEDS_CSUM,
            checksum_starts=one.transport_offset,
            checksum_offsets=30,
        )
    batch.set_count(1)
    batch.complete_checksums()
    batch.compute_checksums()
    expected = batch.tolist()[0]
    assert expected != one.build()
    batch.set_count(2)
    assert batch.compute_checksums() == 2
    assert batch.tolist() == [expected] * 2


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_super_frame_becomes_what_segments_are_made_from(
    protocol: int, version: int, tags: tuple[int, ...]
) -> None:
    one = Datagram(data(5001), protocol, version, tags=tags)
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, one, 1400)
    batch[0][:] = overwritten(one, 0x5A)
    before = {name: column[0] for name, column in columns(batch).items()}
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [one.build(whole=False)]
    after = {name: column[0] for name, column in columns(batch).items()}
    assert after == before
    target = PacketBatch(8)
    assert batch.segment_into(target) == (1, 0)
    assert target.tolist() == one.segments(1400)


@pytest.mark.parametrize("version", [4, 6])
def test_super_frame_of_more_than_64_kib_is_computed(version: int) -> None:
    """Its IP header gives a length of 0 (BIG TCP)."""
    extensions = (JUMBO,) if version == 6 else ()
    one = Datagram(data(66_000), TCP, version, extensions=extensions)
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, one, 1400)
    batch[0][:] = overwritten(one, 0x5A)
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [one.build(whole=False)]


def test_super_frame_without_open_checksum_gets_a_header_checksum() -> None:
    one = Datagram(data(5000))
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, one, 1400)
    write_header(batch, 0, vnet_flags=0)
    packet = overwritten(one, 0x5A)
    batch[0][:] = packet
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [with_header_checksum(packet, 14)]


BAD_HEADERS = {
    "beyond": ({"checksum_starts": 160, "checksum_offsets": 0}, "behind"),
    "in the link header": ({"checksum_starts": 13}, "starts before"),
    "header beyond": (
        {"header_lengths": 9999, "checksum_starts": 40},
        "header_length",
    ),
    "unknown type": ({"gso_types": 3, "gso_sizes": 100}, "unknown"),
    "another type": ({"gso_types": GSO_TCPV4, "gso_sizes": 100}, "gso_type"),
    "no size": ({"gso_types": GSO_UDP_L4}, "gso_size"),
    "a tunnel": (
        {"gso_types": GSO_UDP_L4, "gso_sizes": 9, "checksum_starts": 42},
        "tunnel",
    ),
    "not open": (
        {"gso_types": GSO_UDP_L4, "gso_sizes": 9, "vnet_flags": 0},
        "must have VNET_NEEDS_CSUM",
    ),
}


@pytest.mark.parametrize(
    ("fields", "reason"), BAD_HEADERS.values(), ids=BAD_HEADERS
)
def test_offload_header_that_does_not_fit_is_an_error(
    fields: dict[str, int], reason: str
) -> None:
    """The frames before it are done; it and those after it are unchanged."""
    one = Datagram(data(100), UDP)
    batch = PacketBatch(3)
    for _ in range(3):
        add(batch, one)
    write_header(batch, 1, **fields)
    with pytest.raises(ValueError, match=f"packet 1: .*{reason}"):
        batch.compute_checksums()
    unchanged = one.build(whole=False)
    assert batch.tolist() == [one.build(), unchanged, unchanged]
    flags = batch.vnet_flags[:3].tolist()
    assert flags[0] == 0
    assert flags[1:] == [fields.get("vnet_flags", 1), VNET_NEEDS_CSUM]


def test_received_frame_is_no_longer_flagged(veth: Veth) -> None:
    """With offload headers and without."""
    one = Datagram(data(100), tags=(Q,))
    batch = PacketBatch(1)
    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as sender,
        RawSocket(veth.b, vnet_hdr=True) as receiver,
        RawSocket(veth.b) as plain,
    ):
        add(batch, one)
        sender.sendmmsg(batch)
        for sock in (receiver, plain):
            sock.settimeout(WAIT)
            assert sock.recvmmsg_into(batch) == 1
            assert batch.flags[0] & CHECKSUM_NOT_READY
            assert batch.tolist() == [one.build(whole=False)]
            assert batch.compute_checksums() == 1
            assert not batch.flags[0] & CHECKSUM_NOT_READY
            assert batch.tolist() == [one.build()]
    assert not hasattr(batch, "vnet_flags")


def test_headers_of_an_earlier_receive_do_not_count() -> None:
    one = Datagram(data(100))
    batch = PacketBatch(1)
    add(batch, one)
    write_header(batch, 0, gso_types=GSO_UDP_L4, gso_sizes=7)
    receive_unix(batch, overwritten(one, 1))
    assert not hasattr(batch, "vnet_flags")
    assert batch.compute_checksums() == 1
    assert batch.tolist() == [one.build()]


# Errors

MALFORMED = {
    "IPv4 of version 5": (Datagram(data(9)), {14: 0x55}, "malformed"),
    "IPv4 of version 6": (Datagram(data(9)), {14: 0x65}, "malformed"),
    "a short IPv4 header": (Datagram(data(9)), {14: 0x44}, "malformed"),
    "a long IPv4 header": (Datagram(b""), {14: 0x4F}, "too short"),
    "no IPv4 length": (Datagram(data(9)), {16: 0, 17: 0}, "length of 0"),
    "a short IPv4 length": (Datagram(data(9)), {16: 0, 17: 19}, "too short"),
    "a long IPv4 length": (Datagram(data(9)), {16: 1}, "beyond its end"),
    "IPv6 of version 4": (Datagram(data(9), version=6), {14: 0x45}, "malform"),
    "no IPv6 length": (
        Datagram(data(9), version=6),
        {18: 0, 19: 0},
        "length of 0",
    ),
    "a long IPv6 length": (Datagram(version=6), {18: 1}, "beyond its end"),
    "an endless extension": (
        Datagram(version=6, extensions=(DESTINATION,)),
        {55: 0xFF},
        "too short",
    ),
    "half an extension": (
        Datagram(version=6, extensions=(DESTINATION,)),
        {19: 7},
        "too short",
    ),
    "half of TCP": (Datagram(), {17: 39}, "too short"),
    "half of UDP": (Datagram(protocol=UDP), {17: 27}, "too short"),
    "half of ICMP": (Datagram(protocol=ICMP), {17: 23}, "too short"),
    "half of ICMPv6": (Datagram(b"", ICMPV6, 6), {19: 3}, "too short"),
    "half of SCTP": (Datagram(protocol=SCTP), {17: 31}, "too short"),
    "a short UDP length": (
        Datagram(data(9), UDP),
        {38: 0, 39: 7},
        "UDP header gives a length",
    ),
    "no UDP length": (
        Datagram(data(9), UDP, 6),
        {58: 0, 59: 0},
        "UDP header gives a length",
    ),
    "a long UDP length": (
        Datagram(data(9), UDP),
        {39: 18},
        "UDP header gives a length",
    ),
}


@pytest.mark.parametrize(
    ("datagram", "changes", "reason"), MALFORMED.values(), ids=MALFORMED
)
def test_malformed_frame_is_an_error(
    datagram: Datagram, changes: dict[int, int], reason: str
) -> None:
    """The frames before it are done; it and those after it are unchanged."""
    good = Datagram(data(40), UDP, tags=(Q,))
    bad = bytearray(datagram.build())
    for at, value in changes.items():
        bad[at] = value
    wrong = overwritten(good, 1)
    batch = batch_of([wrong, bytes(bad), wrong])
    with pytest.raises(ValueError, match=f"packet 1: its? .*{reason}"):
        batch.compute_checksums()
    assert batch.tolist() == [good.build(), bad, wrong]


@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_frame_that_is_cut_is_an_error(datagram: Datagram) -> None:
    """After any byte of it, and also if the memory after it holds the rest."""
    one = replace(datagram, payload=data(5), tags=(Q,))
    whole = one.build()
    for length in range(network_of(one), len(whole)):
        batch = batch_of([whole])
        batch.lengths[0] = length
        with pytest.raises(ValueError, match="packet 0: it"):
            batch.compute_checksums()
        batch.lengths[0] = len(whole)
        assert batch.tolist() == [whole]


def test_length_beyond_the_frame_is_an_error() -> None:
    one = Datagram(data(100))
    batch = PacketBatch(2, 200)
    batch.extend([overwritten(one, 1), one.build()])
    for length in (201, 2**31, 2**32 - 1):
        batch.lengths[1] = length
        with pytest.raises(ValueError, match="packet 1: its length"):
            batch.compute_checksums()
        assert bytes(batch[0]) == one.build()


# Hostile frames and threads


def test_random_frames_change_in_their_checksums_alone(
    scaled: Callable[[int], int],
) -> None:
    rng = random.Random(7)
    guard = 64
    memory = bytearray(700)
    batch = PacketBatch(1, buffer=memoryview(memory)[guard:-guard])
    kinds = [*CHECKED.values()]
    done = refused = 0
    for _ in range(scaled(5000)):
        memory[:] = rng.randbytes(len(memory))
        one = replace(
            rng.choice(kinds),
            tags=rng.choice([*TAGS.values()]),
            payload=rng.randbytes(rng.randrange(100)),
        )
        batch.clear()
        batch.append(overwritten(one, rng.randrange(256)))
        packet = batch[0]
        for _ in range(rng.randrange(4)):
            packet[rng.randrange(min(len(packet), 90))] = rng.randrange(256)
        if rng.randrange(4) == 0:
            batch.lengths[0] = rng.randrange(len(packet) + 1)
        before = bytes(memory)
        try:
            batch.compute_checksums()
            done += 1
        except ValueError as error:
            assert "packet 0" in str(error)
            refused += 1
            assert memory == before
        changed = [i for i, b in enumerate(before) if memory[i] != b]
        assert len(changed) <= 6
        assert all(guard <= i < guard + batch.lengths[0] for i in changed)
    assert done > scaled(1000), "too few checksums were computed"
    assert refused > scaled(500), "too few frames were refused"


def test_frames_that_change_during_the_call_are_written_within(
    scaled: Callable[[int], int],
) -> None:
    """Another thread changes the headers, the lengths and the offload header,
    all the time."""
    one = Datagram(
        data(40), UDP, 6, (Q,), extensions=(HOP_BY_HOP, route6(0, FINAL6))
    )
    size = len(one.build())
    guard = b"\xa5" * 3000
    memory = bytearray(guard + bytes(size) + guard)
    batch = PacketBatch(1, buffer=memoryview(memory)[3000 : 3000 + size])
    add(batch, one)
    packet = batch[0]
    good = bytes(packet)
    fields = columns(batch)
    # EtherTypes, versions, lengths, next headers, sizes of extensions, UDP.
    start = one.transport_offset
    places = [12, 13, 16, 17, 18, 22, 23, 24, 58, 59, 66, 67, 68, 69]
    places += [start + 4, start + 5]
    rng = random.Random(8)

    def scribble() -> None:
        at = rng.choice(places)
        packet[at] = rng.choice([0, 1, 8, 43, 60, 69, 132, 255])
        batch.lengths[0] = rng.choice([size, size - 1, 70, 40, 0])
        fields["vnet_flags"][0] = rng.randrange(2)
        fields["gso_types"][0] = rng.choice([0, 0, 5, 1])
        fields["checksum_starts"][0] = rng.choice([start, size, 65535])
        packet[at] = good[at]
        batch.lengths[0] = size

    with repeating(scribble):
        for _ in range(scaled(3000)):
            try:
                batch.compute_checksums()
            except ValueError as error:
                assert "packet 0" in str(error)
            batch.verify_checksums()
    assert memory[:3000] == guard
    assert memory[-3000:] == guard
