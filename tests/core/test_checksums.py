"""complete_checksums(): the results are the kernel's, and nothing is written
outside the frame, whatever the header says."""

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
from support import WAIT
from support.calls import repeating
from support.datagrams import (
    CHECKSUM_OFFSETS,
    SCTP,
    TAGS,
    TCP,
    UDP,
    Datagram,
    Q,
    add,
    checksum,
    columns,
    crc32c,
    data,
    leave_checksums_to_software,
    send_open,
    write_header,
    zeroing,
)
from support.frames import frame, pending, receive

from rawmmsg import (
    CHECKSUM_NOT_READY,
    GSO_TCPV4,
    SUPER_FRAME,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

KINDS = {
    "tcp4": Datagram(),
    "tcp6": Datagram(version=6),
    "udp4": Datagram(protocol=UDP),
    "udp6": Datagram(protocol=UDP, version=6),
    "IPv4 options": Datagram(options=bytes([1] * 12)),
    "TCP options": Datagram(tcp_options=bytes([1] * 40)),
    "IPv6 extension": Datagram(
        version=6, extensions=((60, bytes([0, 0, 1, 4, 0, 0, 0, 0])),)
    ),
}


def matches_kernel(
    kernel: tuple[RawSocket, RawSocket], batch: PacketBatch
) -> list[bytes]:
    """Asserts that the completed batch equals what skb_checksum_help() makes
    of it."""
    sender, receiver = kernel
    assert sender.sendmmsg(batch) == len(batch)
    theirs = receive(receiver, len(batch))
    assert pending(receiver) == []
    batch.complete_checksums()
    ours = batch.tolist()
    for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.hex(" ") == other.hex(" "), f"frame {i} differs"
    return ours


# As the kernel completes them


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", KINDS.values(), ids=KINDS)
def test_checksums_equal_the_kernels(
    kernel: tuple[RawSocket, RawSocket],
    datagram: Datagram,
    tags: tuple[int, ...],
) -> None:
    sizes = [*range(40), 100, 101, 1000, 1001, 1398, 1399, 1400]
    made = [replace(datagram, tags=tags, payload=data(n)) for n in sizes]
    batch = PacketBatch(len(made))
    for one in made:
        add(batch, one)
    assert matches_kernel(kernel, batch) == [one.build() for one in made]


def test_checksum_of_any_protocol_is_completed(
    kernel: tuple[RawSocket, RawSocket],
) -> None:
    """The header says where the data starts and where the checksum goes."""
    rng = random.Random(3)
    batch = PacketBatch(32)
    for i in range(32):
        batch.append(frame(rng.randbytes(60 + i)))
        start = rng.randrange(34, 60)
        write_header(
            batch,
            i,
            vnet_flags=VNET_NEEDS_CSUM,
            checksum_starts=start,
            checksum_offsets=rng.randrange(73 + i - start),
        )
    matches_kernel(kernel, batch)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_checksum_of_zero_becomes_all_ones(
    kernel: tuple[RawSocket, RawSocket], protocol: int
) -> None:
    """In UDP, 0 means no checksum. The kernel does it for every protocol."""
    datagram = zeroing(Datagram(data(20), protocol))
    batch = PacketBatch(1)
    add(batch, datagram)
    (packet,) = matches_kernel(kernel, batch)
    at = datagram.transport_offset + (16 if protocol == TCP else 6)
    assert packet[at : at + 2] == b"\xff\xff"


def test_padding_counts_for_the_checksum(
    kernel: tuple[RawSocket, RawSocket],
) -> None:
    """As in the kernel, which sums everything after the start."""
    batch = PacketBatch(1)
    datagram = Datagram(b"abc", UDP)
    add(batch, datagram)
    length = len(batch[0])
    batch.lengths[0] += 15
    batch[0][length:] = bytes(range(1, 16))
    (packet,) = matches_kernel(kernel, batch)
    assert packet[:length] != datagram.build()


# SCTP, whose CRC32c an offload header cannot express

EXTENSION = (60, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
SCTP_KINDS = {
    "IPv4": Datagram(protocol=SCTP),
    "IPv6": Datagram(protocol=SCTP, version=6),
    "IPv4 options": Datagram(protocol=SCTP, options=bytes([1] * 40)),
    "IPv6 extension": Datagram(
        protocol=SCTP, version=6, extensions=(EXTENSION,)
    ),
    "IPv6 extensions": Datagram(
        protocol=SCTP,
        version=6,
        extensions=((0, EXTENSION[1]), (43, EXTENSION[1]), EXTENSION),
    ),
}


def test_test_helper_computes_crc32c_correctly() -> None:
    """The check value of CRC-32/ISCSI, and a vector from RFC 3720, B.4."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("datagram", SCTP_KINDS.values(), ids=SCTP_KINDS)
def test_sctp_gets_its_crc32c(
    datagram: Datagram, tags: tuple[int, ...]
) -> None:
    sizes = [*range(20), 100, 1001, 1404]
    made = [replace(datagram, tags=tags, payload=data(n)) for n in sizes]
    batch = PacketBatch(len(made))
    for one in made:
        add(batch, one)
    target = PacketBatch(len(made))
    assert batch.segment_into(target) == (len(made), 0)
    assert target.tolist() == [one.build() for one in made]
    assert batch.tolist() == [one.build(whole=False) for one in made]
    assert batch.complete_checksums() == len(made)
    assert batch.tolist() == [one.build() for one in made]
    assert batch.complete_checksums() == 0


def test_crc32c_of_any_length_at_any_place_is_right() -> None:
    rng = random.Random(5)
    memory = bytearray(200)
    for length in range(60):
        shift = rng.randrange(16)
        one = Datagram(rng.randbytes(length), SCTP)
        size = len(one.build())
        view = memoryview(memory)[shift : shift + size]
        batch = PacketBatch(1, buffer=view)
        add(batch, one)
        batch.complete_checksums()
        assert bytes(batch[0]) == one.build(), f"{length} bytes at {shift}"


def test_old_value_of_sctps_checksum_field_does_not_count() -> None:
    one = Datagram(data(100), SCTP)
    batch = PacketBatch(1)
    add(batch, one)
    at = one.transport_offset + 8
    batch[0][at : at + 4] = b"\xde\xad\xbe\xef"
    batch.complete_checksums()
    assert batch.tolist() == [one.build()]


def test_padding_does_not_count_for_sctp() -> None:
    """The receiver removes it before it computes the sum."""
    one = Datagram(b"abcd", SCTP)
    batch = PacketBatch(1)
    add(batch, one)
    length = len(batch[0])
    batch.lengths[0] = 60
    batch[0][length:] = bytes(60 - length)
    batch.complete_checksums()
    assert bytes(batch[0][:length]) == one.build()
    assert bytes(batch[0][length:]) == bytes(60 - length)


# Offset 8 as in SCTP, but an Internet checksum.
NOT_SCTP = {
    "another protocol": (Datagram(data(100)), 0, b""),
    "another EtherType": (Datagram(data(100), SCTP), 12, b"\x88\xb5"),
    "IPv4 of version 5": (Datagram(data(100), SCTP), 14, b"\x55"),
    "IP length beyond": (Datagram(data(100), SCTP), 16, b"\x10\x00"),
    "a header more": (Datagram(data(100), SCTP), 14, b"\x46"),
    "a tunnel": (Datagram(data(100), SCTP, options=bytes(4)), 14, b"\x45"),
    "ESP": (Datagram(data(100), SCTP, version=6), 20, b"\x32"),
    "an endless extension": (
        Datagram(data(100), SCTP, version=6, extensions=(EXTENSION,)),
        55,
        b"\xff",
    ),
}


@pytest.mark.parametrize(
    ("datagram", "at", "value"), NOT_SCTP.values(), ids=NOT_SCTP
)
def test_offset_8_of_other_protocols_is_an_internet_checksum(
    kernel: tuple[RawSocket, RawSocket],
    datagram: Datagram,
    at: int,
    value: bytes,
) -> None:
    batch = PacketBatch(1)
    add(batch, datagram)
    batch[0][at : at + len(value)] = value
    write_header(batch, 0, checksum_offsets=CHECKSUM_OFFSETS[SCTP])
    matches_kernel(kernel, batch)


@pytest.mark.parametrize("datagram", SCTP_KINDS.values(), ids=SCTP_KINDS)
@pytest.mark.parametrize("padding", [0, 20])
def test_sctp_without_room_for_its_checksum_is_an_error(
    kernel: tuple[RawSocket, RawSocket], datagram: Datagram, padding: int
) -> None:
    """Whether the frame or the length in the IP header is too short."""
    for short in (1, 2):
        batch = PacketBatch(1)
        add(batch, datagram)
        frame_length = batch.lengths[0]
        version = datagram.version
        at, network = (16, 14) if version == 4 else (18, 54)
        length = (frame_length - short - network).to_bytes(2, "big")
        batch[0][at : at + 2] = length
        batch.lengths[0] += padding - short
        before = batch.tolist()
        for call in (
            batch.complete_checksums,
            lambda made=batch: made.segment_into(PacketBatch(1)),
            lambda made=batch: kernel[0].sendmmsg(made),
        ):
            with pytest.raises(ValueError, match=r"packet 0.*checksum"):
                call()
        assert batch.tolist() == before
        assert columns(batch)["vnet_flags"][0] == VNET_NEEDS_CSUM


Send = Callable[[RawSocket, PacketBatch], object]
SENDS: dict[str, Send] = {
    "sendmmsg": RawSocket.sendmmsg,
    "sendmmsg_all": RawSocket.sendmmsg_all,
}


@pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)
@pytest.mark.parametrize("vnet_hdr", [10, 12])
@pytest.mark.parametrize("offload", [True, False], ids=["on", "off"])
def test_sctp_is_sent_with_its_crc32c(
    veth_factory: Callable[[], Veth],
    send: Send,
    vnet_hdr: Literal[10, 12],
    offload: bool,
) -> None:
    """The kernel would write an Internet checksum if the device has no
    offload, and ask the device for one if it has."""
    veth = veth_factory()
    if not offload:
        leave_checksums_to_software(veth.a)
    made = [
        replace(one, tags=tags, payload=data(101))
        for one in SCTP_KINDS.values()
        for tags in TAGS.values()
    ]
    tcp = Datagram(data(100))
    batch = PacketBatch(len(made) + 1)
    for one in [*made, tcp]:
        add(batch, one)
    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=vnet_hdr) as sender,
        RawSocket(veth.b, vnet_hdr=True, ignore_outgoing=True) as receiver,
    ):
        send(sender, batch)
        got = receive(receiver, len(batch))
    frames = [one.build() for one in made]
    assert got[:-1] == frames
    assert batch.tolist() == [*frames, tcp.build(whole=False)]
    flags = columns(batch)["vnet_flags"].tolist()
    assert flags == [0] * len(made) + [VNET_NEEDS_CSUM]


@pytest.mark.parametrize("datagram", SCTP_KINDS.values(), ids=SCTP_KINDS)
def test_received_sctp_is_sent_on_with_its_crc32c(
    veth_factory: Callable[[], Veth], datagram: Datagram
) -> None:
    left, right = veth_factory(), veth_factory()
    leave_checksums_to_software(right.a)
    datagram = replace(datagram, tags=(Q,), payload=data(333))
    batch = PacketBatch(1)
    with (
        RawSocket(left.b, vnet_hdr=True) as inlet,
        RawSocket(right.a, protocol=0, vnet_hdr=True) as outlet,
        RawSocket(right.b, ignore_outgoing=True) as receiver,
    ):
        inlet.settimeout(WAIT)
        send_open(left.a, [datagram])
        inlet.recvmmsg_into(batch)
        assert columns(batch)["vnet_flags"][0] == VNET_NEEDS_CSUM
        assert batch.tolist() == [datagram.build(whole=False)]
        assert batch.flags[0] & CHECKSUM_NOT_READY
        outlet.sendmmsg_all(batch)
        assert receive(receiver, 1) == [datagram.build()]
    assert not batch.flags[0] & CHECKSUM_NOT_READY


def test_random_sctp_is_written_within_the_frame(
    scaled: Callable[[int], int],
) -> None:
    """At most the four bytes that the header names are written."""
    rng = random.Random(6)
    memory = bytearray(600)
    batch = PacketBatch(1, buffer=memoryview(memory)[100:500])
    done = refused = 0
    for _ in range(scaled(5000)):
        datagram = replace(
            rng.choice([*SCTP_KINDS.values()]),
            tags=rng.choice([*TAGS.values()]),
            payload=rng.randbytes(rng.randrange(100)),
        )
        memory[:] = rng.randbytes(600)
        batch.clear()
        add(batch, datagram)
        packet = batch[0]
        for _ in range(rng.randrange(4)):
            packet[rng.randrange(min(len(packet), 90))] = rng.randrange(256)
        if rng.randrange(2):
            batch.lengths[0] = rng.randrange(len(packet) + 1)
        start = rng.choice([datagram.transport_offset, rng.randrange(120)])
        write_header(batch, 0, checksum_starts=start)
        before = bytes(memory)
        try:
            assert batch.complete_checksums() == 1
            done += 1
        except ValueError as error:
            assert "packet 0" in str(error)
            refused += 1
            assert memory == before
        at = 100 + start + 8
        assert memory[:at] == before[:at]
        assert memory[at + 4 :] == before[at + 4 :]
        if at + 4 > 100 + batch.lengths[0]:
            end = 100 + batch.lengths[0]
            assert memory[end:] == before[end:]
    assert done > scaled(500), "too few checksums were completed"
    assert refused > scaled(500), "too few frames were refused"


# Every position and length


@pytest.mark.parametrize("shift", range(16))
def test_every_length_and_alignment_is_right(shift: int) -> None:
    content = random.Random(shift).randbytes(400)
    memory = bytearray(500)
    for length in range(22, 400, 7):
        view = memoryview(memory)[shift : shift + length]
        batch = PacketBatch(1, buffer=view)
        batch.append(content[:length])
        write_header(batch, 0, vnet_flags=VNET_NEEDS_CSUM, checksum_starts=20)
        assert batch.complete_checksums() == 1
        value = checksum(content[20:length]) or 0xFFFF
        assert bytes(batch[0][20:22]) == value.to_bytes(2, "big"), (
            f"{length - 20} bytes at {shift}"
        )
        assert bytes(batch[0][22:]) == content[22:length]


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_sums_of_extremes_are_right(byte: bytes) -> None:
    """65,535 equal bytes: no carry is lost."""
    batch = PacketBatch(1, SUPER_FRAME)
    batch.append(bytes(20) + byte * 65_535)
    write_header(batch, 0, vnet_flags=VNET_NEEDS_CSUM, checksum_starts=20)
    batch.complete_checksums()
    value = checksum(byte * 65_535) or 0xFFFF
    assert bytes(batch[0][20:22]) == struct.pack("!H", value)


# What is changed


def test_only_open_checksums_are_completed() -> None:
    """Super-frames, and frames that need nothing, stay unchanged."""
    small, large = Datagram(data(100)), Datagram(data(5000))
    batch = PacketBatch(4, SUPER_FRAME)
    batch.append(small.build())
    add(batch, small)
    add(batch, large, 1400)
    add(batch, small)
    assert batch.complete_checksums() == 2
    assert batch.tolist() == [
        small.build(),
        small.build(),
        large.build(whole=False),
        small.build(),
    ]
    flags = columns(batch)["vnet_flags"].tolist()
    assert flags == [0, 0, VNET_NEEDS_CSUM, 0]
    assert batch.complete_checksums() == 0


def test_other_header_fields_are_unchanged() -> None:
    batch = PacketBatch(1)
    add(batch, Datagram(data(10)))
    flags = VNET_NEEDS_CSUM | VNET_DATA_VALID
    write_header(batch, 0, vnet_flags=flags, header_lengths=54)
    before = {name: column[0] for name, column in columns(batch).items()}
    batch.complete_checksums()
    after = {name: column[0] for name, column in columns(batch).items()}
    assert after == before | {"vnet_flags": VNET_DATA_VALID}


def test_completed_frame_is_no_longer_flagged(veth: Veth) -> None:
    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as sender,
        RawSocket(veth.b, vnet_hdr=True) as receiver,
    ):
        datagram = Datagram(data(100), tags=(Q,))
        batch = PacketBatch(1)
        add(batch, datagram)
        sender.sendmmsg(batch)
        receiver.settimeout(WAIT)
        receiver.recvmmsg_into(batch)
    assert batch.flags[0] & CHECKSUM_NOT_READY
    assert batch.complete_checksums() == 1
    assert not batch.flags[0] & CHECKSUM_NOT_READY
    assert batch.tolist() == [datagram.build()]


# Errors


GOOD = Datagram(data(100))

BAD_HEADERS = {
    "start beyond": {"checksum_starts": 153},
    "field half beyond": {"checksum_offsets": 154 - 34 - 1},
    "field far beyond": {"checksum_offsets": 65535},
    "both at their most": {
        "checksum_starts": 65535,
        "checksum_offsets": 65535,
    },
    "start in the link header": {"checksum_starts": 13},
    "header beyond": {"header_lengths": 155},
}


@pytest.mark.parametrize("fields", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_header_that_does_not_fit_is_an_error(fields: dict[str, int]) -> None:
    """The frames before it are completed; those after it are not."""
    batch = PacketBatch(3)
    for _ in range(3):
        add(batch, GOOD)
    write_header(batch, 1, **fields)
    open_frame = GOOD.build(whole=False)
    with pytest.raises(ValueError, match=r"packet 1"):
        batch.complete_checksums()
    assert batch.tolist() == [GOOD.build(), open_frame, open_frame]
    flags = columns(batch)["vnet_flags"].tolist()
    assert flags == [0, VNET_NEEDS_CSUM, VNET_NEEDS_CSUM]


def test_field_at_the_end_of_the_frame_is_accepted() -> None:
    batch = PacketBatch(1)
    batch.append(bytes(range(60)))
    write_header(
        batch,
        0,
        vnet_flags=VNET_NEEDS_CSUM,
        checksum_starts=58,
        checksum_offsets=0,
    )
    assert batch.complete_checksums() == 1
    assert bytes(batch[0][58:]) == struct.pack("!H", ~0x3A3B & 0xFFFF)


def test_length_beyond_the_frame_is_an_error() -> None:
    batch = PacketBatch(2, 200)
    add(batch, GOOD)
    add(batch, GOOD)
    for length in (201, 2**31, 2**32 - 1):
        batch.lengths[1] = length
        with pytest.raises(ValueError, match=r"packet 1"):
            batch.complete_checksums()


def test_random_headers_write_within_the_frame(
    scaled: Callable[[int], int],
) -> None:
    """At most the two bytes that the header names are written."""
    rng = random.Random(4)
    memory = bytearray(400)
    batch = PacketBatch(1, buffer=memoryview(memory)[100:300])
    done = refused = 0
    for _ in range(scaled(5000)):
        memory[:] = before = rng.randbytes(400)
        batch.set_count(1)
        batch.lengths[0] = length = rng.randrange(1, 201)
        limit = rng.choice([30, 220, 65536])
        start, offset = rng.randrange(limit), rng.randrange(limit)
        write_header(
            batch,
            0,
            vnet_flags=VNET_NEEDS_CSUM | rng.randrange(256),
            gso_types=rng.choice([0, 0, 0, GSO_TCPV4, rng.randrange(256)]),
            header_lengths=rng.choice([0, 0, rng.randrange(220)]),
            checksum_starts=start,
            checksum_offsets=offset,
        )
        try:
            count = batch.complete_checksums()
        except ValueError as error:
            assert "packet 0" in str(error)
            refused += 1
            count = 0
        if count == 0:
            assert memory == before
            continue
        done += 1
        assert start + offset + 2 <= length
        at = 100 + start + offset
        value = checksum(before[100 + start : 100 + length]) or 0xFFFF
        expected = bytearray(before)
        expected[at : at + 2] = value.to_bytes(2, "big")
        assert memory == expected
    assert done > scaled(200), "too few checksums were completed"
    assert refused > scaled(200), "too few headers were refused"


def complete_again(batch: PacketBatch, rounds: int) -> None:
    """Completes the checksums while another thread changes the batch."""
    for _ in range(rounds):
        try:
            batch.complete_checksums()
        except ValueError as error:
            assert "packet 0" in str(error)


def test_headers_that_change_during_the_call_write_within_the_frame(
    scaled: Callable[[int], int],
) -> None:
    """Another thread changes the length and the header all the time."""
    guard = b"\xa5" * 1000
    memory = bytearray(guard + bytes(200) + guard)
    batch = PacketBatch(1, buffer=memoryview(memory)[1000:1200])
    batch.append(bytes(200))
    fields = columns(batch)

    def scribble() -> None:
        values = [20, 60, 197, 198, 199, 1000, 65535]
        for start in values:
            fields["vnet_flags"][0] = VNET_NEEDS_CSUM
            fields["checksum_starts"][0] = start
            fields["checksum_offsets"][0] = values[-start % 7]
            batch.lengths[0] = start

    with repeating(scribble):
        complete_again(batch, scaled(3000))
    assert memory[:1000] == guard
    assert memory[1200:] == guard


def test_sctp_that_changes_during_the_call_is_written_within_the_frame(
    scaled: Callable[[int], int],
) -> None:
    """Another thread changes the headers before SCTP, and the lengths."""
    datagram = Datagram(
        data(40), SCTP, version=6, tags=(Q,), extensions=(EXTENSION,)
    )
    size = len(datagram.build())
    guard = b"\xa5" * 3000
    memory = bytearray(guard + bytes(size) + guard)
    batch = PacketBatch(1, buffer=memoryview(memory)[3000 : 3000 + size])
    add(batch, datagram)
    packet = batch[0]
    good = bytes(packet)
    fields = columns(batch)
    # EtherTypes, IPv6 length, next header, the extension's next header, size.
    places = [12, 13, 16, 17, 22, 23, 24, 58, 59]
    rng = random.Random(8)

    def scribble() -> None:
        at = rng.choice(places)
        packet[at] = rng.choice([0, 1, 60, 132, 255])
        batch.lengths[0] = rng.choice([size, size - 1, 70, 40, 0])
        fields["vnet_flags"][0] = VNET_NEEDS_CSUM
        packet[at] = good[at]
        batch.lengths[0] = size
        fields["vnet_flags"][0] = VNET_NEEDS_CSUM

    with repeating(scribble):
        complete_again(batch, scaled(3000))
    assert memory[:3000] == guard
    assert memory[-3000:] == guard
