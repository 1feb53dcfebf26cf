"""verify_checksums(): one status for each frame, and nothing is changed."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from support import WAIT
from support.datagrams import (
    DESTINATION,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    SCTP,
    TAGS,
    TCP,
    UDP,
    Datagram,
    Q,
    add,
    columns,
    data,
    send_open,
    write_header,
    zeroing,
)
from support.frames import frame, receive_unix
from support.sums import (
    CHECKED,
    batch_of,
    header_field,
    overwritten,
    status,
    transport_field,
    with_header_checksum,
)

from rawmmsg import (
    CHECKSUM_BAD,
    CHECKSUM_GOOD,
    CHECKSUM_NONE,
    CHECKSUM_NOT_READY,
    CHECKSUM_PENDING,
    GSO_TCPV4,
    SUPER_FRAME,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

# Right and wrong


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_right_checksums_are_good_at_every_length(
    datagram: Datagram, tags: tuple[int, ...]
) -> None:
    sizes = [*range(70), 100, 101, 1000, 1001, 1398, 1399, 1400]
    made = [replace(datagram, tags=tags, payload=data(n)) for n in sizes]
    batch = batch_of([one.build() for one in made])
    assert batch.verify_checksums() == bytes([CHECKSUM_GOOD] * len(made))


@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_change_of_any_covered_bit_is_bad(datagram: Datagram) -> None:
    """From the transport header on, except in UDP's length, which says what is
    covered."""
    one = replace(datagram, payload=data(21), tags=(Q,))
    packet = bytearray(one.build())
    places = {*range(one.transport_offset, len(packet))}
    if one.protocol == UDP:
        places -= {one.transport_offset + 4, one.transport_offset + 5}
    for at in places:
        for bit in range(8):
            packet[at] ^= 1 << bit
            assert status(packet) == CHECKSUM_BAD, f"bit {bit} of byte {at}"
            packet[at] ^= 1 << bit
    assert status(packet) == CHECKSUM_GOOD


@pytest.mark.parametrize("options", [b"", bytes([1] * 40)])
def test_change_of_the_ipv4_header_is_bad(options: bytes) -> None:
    """Of every byte that leaves the header readable, also if the transport
    checksum is right, or there is none."""
    one = Datagram(data(21), UDP, options=options)
    packet = bytearray(one.build())
    open_field = transport_field(one)
    without = bytearray(packet)
    without[open_field] = bytes(2)
    for kind, sound in ((packet, CHECKSUM_GOOD), (without, CHECKSUM_NONE)):
        for at in range(14, one.transport_offset):
            if at in (14, 16, 17):  # the header's and the packet's size
                continue
            kind[at] ^= 0x10
            assert status(kind) == CHECKSUM_BAD, f"byte {at}"
            kind[at] ^= 0x10
        assert status(kind) == sound


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_change_of_an_address_is_bad(protocol: int, version: int) -> None:
    one = Datagram(data(21), protocol, version)
    first, size = (26, 8) if version == 4 else (22, 32)
    for at in range(first, first + size):
        packet = bytearray(one.build())
        packet[at] ^= 1
        if version == 4:
            packet = bytearray(with_header_checksum(packet, 14))
        assert status(packet) == CHECKSUM_BAD, f"byte {at}"


def test_icmp_and_sctp_do_not_cover_addresses() -> None:
    for protocol, version in ((ICMP, 4), (SCTP, 4), (SCTP, 6)):
        one = Datagram(data(21), protocol, version)
        packet = bytearray(one.build())
        packet[33] ^= 1  # in the destination of IPv4, the source of IPv6
        if version == 4:
            packet = bytearray(with_header_checksum(packet, 14))
        assert status(packet) == CHECKSUM_GOOD


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP, ICMPV6])
def test_both_forms_of_zero_are_right(protocol: int) -> None:
    """0xffff is the same number. (In UDP, 0 means that there is none.)"""
    version = 6 if protocol == ICMPV6 else 4
    one = zeroing(Datagram(data(20), protocol, version))
    packet = bytearray(one.build())
    packet[transport_field(one)] = b"\xff\xff"
    assert status(packet) == CHECKSUM_GOOD
    packet[transport_field(one)] = bytes(2)
    expected = CHECKSUM_NONE if protocol == UDP else CHECKSUM_GOOD
    assert status(packet) == expected


def test_both_forms_of_zero_are_right_in_a_header() -> None:
    one = Datagram(data(20), UDP)
    value = int.from_bytes(one.build()[header_field(one)], "big")
    one = replace(one, ident=(one.ident + value) % 0xFFFF)
    packet = bytearray(one.build())
    assert packet[header_field(one)] == bytes(2)
    assert status(packet) == CHECKSUM_GOOD
    packet[header_field(one)] = b"\xff\xff"
    assert status(packet) == CHECKSUM_GOOD


def test_message_of_zeros_is_good_only_with_a_checksum() -> None:
    """The sum of zeros alone is 0, and never 0xffff."""
    packet = bytearray(Datagram(bytes(20), ICMP).build())
    packet[34:] = bytes(len(packet) - 34)
    assert status(packet) == CHECKSUM_BAD
    packet[36:38] = b"\xff\xff"
    assert status(packet) == CHECKSUM_GOOD


@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_padding_does_not_matter(datagram: Datagram) -> None:
    one = replace(datagram, payload=b"abc")
    assert status(one.build() + b"\1\2\3") == CHECKSUM_GOOD


def test_bytes_behind_the_length_of_udp_do_not_matter() -> None:
    for version in (4, 6):
        one = Datagram(data(21), UDP, version)
        longer = bytearray(Datagram(data(30), UDP, version).build())
        at = one.transport_offset
        longer[at : at + 8] = one.build()[at : at + 8]
        assert status(longer) == CHECKSUM_GOOD
        longer[-1] ^= 1
        assert status(longer) == CHECKSUM_GOOD
        longer[at + 28] ^= 1
        assert status(longer) == CHECKSUM_BAD


def test_final_destination_counts() -> None:
    """Of a source route that is not used up."""
    final4, final6 = bytes([10, 9, 0, 77]), bytes(range(16))
    option = bytes([1, 131, 7, 4]) + final4
    route = (43, bytes([0, 2, 4, 1, 0, 0, 0, 0]) + final6)
    for one in (
        Datagram(data(9), UDP, options=option, final=final4),
        Datagram(data(9), UDP, 6, extensions=(route,), final=final6),
    ):
        assert status(one.build()) == CHECKSUM_GOOD
        assert status(replace(one, final=b"").build()) == CHECKSUM_BAD


# Without a checksum

UNREADABLE = {
    "nothing": b"",
    "less than a header": Datagram(data(9)).build()[:13],
    "ARP": frame(data(46), ethertype=0x0806),
    "a cut tag": Datagram(data(9), tags=(Q,)).build()[:17],
    "nine tags": Datagram(data(9), tags=(Q,) * 9).build(),
    "a cut IPv4 header": Datagram(data(9)).build()[:33],
    "a cut IPv6 header": Datagram(data(9), version=6).build()[:53],
    "a cut packet": Datagram(data(9)).build()[:-1],
    "a cut UDP datagram": Datagram(data(9), UDP, 6).build()[:-1],
    "a cut extension": Datagram(
        data(9), UDP, 6, extensions=(HOP_BY_HOP, DESTINATION)
    ).build()[:77],
}


@pytest.mark.parametrize("packet", UNREADABLE.values(), ids=UNREADABLE)
def test_frame_that_cannot_be_read_has_none(packet: bytes) -> None:
    assert status(packet) == CHECKSUM_NONE


@pytest.mark.parametrize("length", [0, 7, 30])
def test_udp_with_a_wrong_length_has_none(length: int) -> None:
    packet = bytearray(Datagram(data(21), UDP).build())
    packet[38:40] = length.to_bytes(2, "big")
    assert status(packet) == CHECKSUM_NONE
    packet[25] ^= 1
    assert status(packet) == CHECKSUM_BAD


@pytest.mark.parametrize("word", [0x2000, 0x0003, 0x3FFF])
@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP, SCTP])
def test_fragment_has_none(protocol: int, word: int) -> None:
    packet = bytearray(Datagram(data(40), protocol, tags=(Q,)).build())
    packet[24:26] = word.to_bytes(2, "big")
    assert status(packet) == CHECKSUM_BAD
    assert status(with_header_checksum(packet, 18)) == CHECKSUM_NONE


def test_fragment_of_ipv6_has_none() -> None:
    header = (44, bytes(8))
    one = Datagram(data(40), UDP, 6, extensions=(HOP_BY_HOP, header))
    assert status(one.build()) == CHECKSUM_NONE


@pytest.mark.parametrize("protocol", [4, 33, 47, 50, 51, 136, 253, ICMPV6])
def test_other_protocol_has_none(protocol: int) -> None:
    packet = bytearray(Datagram(data(40)).build())
    packet[23] = protocol
    assert status(packet) == CHECKSUM_BAD
    assert status(with_header_checksum(packet, 14)) == CHECKSUM_NONE


@pytest.mark.parametrize("version", [4, 6])
def test_udp_without_checksum_has_none(version: int) -> None:
    one = Datagram(data(40), UDP, version)
    packet = bytearray(one.build())
    packet[transport_field(one)] = bytes(2)
    assert status(packet) == CHECKSUM_NONE


# Pending


@pytest.mark.parametrize("datagram", CHECKED.values(), ids=CHECKED)
def test_open_checksum_is_pending(datagram: Datagram) -> None:
    batch = PacketBatch(2)
    add(batch, replace(datagram, payload=data(30)))
    batch.append(datagram.build())
    write_header(batch, 1, vnet_flags=VNET_DATA_VALID)
    assert batch.verify_checksums() == bytes([CHECKSUM_PENDING, CHECKSUM_GOOD])
    batch.complete_checksums()
    assert batch.verify_checksums() == bytes([CHECKSUM_GOOD, CHECKSUM_GOOD])


def test_open_checksum_under_a_wrong_header_is_bad() -> None:
    one = Datagram(data(30))
    batch = PacketBatch(1)
    add(batch, one)
    batch[0][header_field(one)] = b"\1\2"
    assert batch.verify_checksums() == bytes([CHECKSUM_BAD])


def test_open_checksum_of_any_frame_is_pending() -> None:
    """Whether we can read the frame or not, the header says so."""
    batch = batch_of([*UNREADABLE.values(), Datagram(data(9), UDP).build()])
    for i in range(len(batch)):
        write_header(batch, i, vnet_flags=VNET_NEEDS_CSUM)
    assert batch.verify_checksums() == bytes([CHECKSUM_PENDING] * len(batch))


def test_super_frame_is_pending_if_its_checksum_is() -> None:
    """Otherwise it has none of its own: its segments have one each."""
    one = Datagram(data(5000))
    batch = PacketBatch(3, SUPER_FRAME)
    for _ in range(3):
        add(batch, one, 1400)
    write_header(batch, 1, vnet_flags=0)
    write_header(batch, 2, vnet_flags=0)
    batch[2][header_field(one)] = b"\1\2"
    assert batch.verify_checksums() == bytes(
        [CHECKSUM_PENDING, CHECKSUM_NONE, CHECKSUM_BAD]
    )


def test_flag_of_a_received_frame_is_pending(veth: Veth) -> None:
    """Without offload headers, the column `flags` tells. Once the batch is
    filled again, its old flags do not count."""
    one = Datagram(data(100), tags=(Q,))
    batch = PacketBatch(1)
    with RawSocket(veth.b) as receiver:
        receiver.settimeout(WAIT)
        send_open(veth.a, [one])
        receiver.recvmmsg_into(batch)
    assert batch.flags[0] & CHECKSUM_NOT_READY
    assert batch.verify_checksums() == bytes([CHECKSUM_PENDING])
    batch.set_count(1)
    assert batch.verify_checksums() == bytes([CHECKSUM_BAD])
    batch[0][:] = one.build()
    assert batch.verify_checksums() == bytes([CHECKSUM_GOOD])


def test_headers_of_an_earlier_receive_are_not_pending() -> None:
    one = Datagram(data(100))
    batch = PacketBatch(1)
    add(batch, one)
    write_header(batch, 0, gso_types=GSO_TCPV4)
    receive_unix(batch, one.build())
    assert batch.verify_checksums() == bytes([CHECKSUM_GOOD])


# What is returned


def test_statuses_are_new_memory_of_their_own() -> None:
    one = Datagram(data(100))
    batch = PacketBatch(8)
    batch.extend([one.build(), overwritten(one, 1), b""])
    statuses = batch.verify_checksums()
    assert (statuses.format, statuses.ndim, len(statuses)) == ("B", 1, 3)
    assert statuses.readonly
    batch.compute_checksums()
    again = batch.verify_checksums()
    del batch
    assert statuses.tolist() == [CHECKSUM_GOOD, CHECKSUM_BAD, CHECKSUM_NONE]
    assert again.tolist() == [CHECKSUM_GOOD, CHECKSUM_GOOD, CHECKSUM_NONE]


def test_empty_batch_has_no_statuses() -> None:
    assert PacketBatch().verify_checksums().tolist() == []


def test_nothing_is_changed() -> None:
    batch = PacketBatch(40, SUPER_FRAME)
    for one in CHECKED.values():
        batch.append(overwritten(one, 1))
        add(batch, one)
        if one.protocol != SCTP:
            add(batch, replace(one, payload=data(5000)), 1400)
    before = bytes(memoryview(batch))
    fields = {name: column.tolist() for name, column in columns(batch).items()}
    lengths = batch.lengths.tolist()
    batch.verify_checksums()
    assert bytes(memoryview(batch)) == before
    assert batch.lengths.tolist() == lengths
    for name, column in columns(batch).items():
        assert column.tolist() == fields[name]


def test_length_beyond_the_frame_is_an_error() -> None:
    batch = PacketBatch(2, 200)
    batch.extend([Datagram(data(9)).build()] * 2)
    for length in (201, 2**31, 2**32 - 1):
        batch.lengths[1] = length
        with pytest.raises(ValueError, match="packet 1: its length"):
            batch.verify_checksums()


# With compute_checksums()


def test_random_frames_are_never_bad_once_computed(
    scaled: Callable[[int], int],
) -> None:
    """Whatever was there: they are good, or have none."""
    rng = random.Random(9)
    kinds = [*CHECKED.values()]
    counts = [0, 0, 0, 0]
    for _ in range(scaled(3000)):
        one = replace(
            rng.choice(kinds),
            tags=rng.choice([*TAGS.values()]),
            payload=rng.randbytes(rng.randrange(100)),
        )
        packet = bytearray(overwritten(one, rng.randrange(256)))
        for _ in range(rng.randrange(4)):
            packet[rng.randrange(min(len(packet), 90))] = rng.randrange(256)
        batch = batch_of([packet])
        (before,) = batch.verify_checksums()
        try:
            batch.compute_checksums()
        except ValueError:
            (after,) = batch.verify_checksums()
            assert after == before
            assert after in (CHECKSUM_NONE, CHECKSUM_BAD)
            continue
        (after,) = batch.verify_checksums()
        assert after in (CHECKSUM_NONE, CHECKSUM_GOOD)
        if after == CHECKSUM_NONE:
            assert before in (CHECKSUM_NONE, CHECKSUM_BAD)
        counts[after] += 1
    assert counts[CHECKSUM_GOOD] > scaled(500)
    assert counts[CHECKSUM_NONE] > scaled(100)
