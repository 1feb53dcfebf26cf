"""Checksums completed in software: as the kernel completes them, wherever they
are, and within the frame, whatever the header says."""

import random
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from datagrams import (
    TAGS,
    TCP,
    UDP,
    Datagram,
    Q,
    add,
    checksum,
    columns,
    data,
    leave_checksums_to_software,
    write_header,
)
from frames import frame
from traffic import SCALE, WAIT, pending, receive

from rawmmsg import (
    CHECKSUM_NOT_READY,
    GSO_TCPV4,
    SUPER_FRAME,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth, veth_pair

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


@pytest.fixture(scope="module")
def kernel() -> Iterator[tuple[RawSocket, RawSocket]]:
    """A sender whose device leaves checksums to the kernel's software, and
    the far end."""
    with veth_pair() as veth:
        leave_checksums_to_software(veth.a)
        with (
            RawSocket(veth.a, protocol=0, vnet_hdr=True) as sender,
            RawSocket(veth.b, ignore_outgoing=True) as receiver,
        ):
            yield sender, receiver


def matches_kernel(
    kernel: tuple[RawSocket, RawSocket], batch: PacketBatch
) -> list[bytes]:
    """Completes the batch; what skb_checksum_help() makes of it."""
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
def test_checksums_are_the_kernels(
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
    """The header says where it starts and where it goes."""
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


def zeroing(protocol: int) -> Datagram:
    """A datagram whose checksum comes out as 0."""
    datagram = Datagram(data(20) + b"\0\0", protocol)
    packet = datagram.build()
    at = datagram.transport_offset + (16 if protocol == TCP else 6)
    payload = datagram.payload[:-2] + packet[at : at + 2]
    return replace(datagram, payload=payload)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_zero_becomes_all_ones(
    kernel: tuple[RawSocket, RawSocket], protocol: int
) -> None:
    """In UDP, 0 means that there is none; the kernel does not ask for the
    protocol."""
    datagram = zeroing(protocol)
    batch = PacketBatch(1)
    add(batch, datagram)
    (packet,) = matches_kernel(kernel, batch)
    at = datagram.transport_offset + (16 if protocol == TCP else 6)
    assert packet[at : at + 2] == b"\xff\xff"


def test_padding_counts(kernel: tuple[RawSocket, RawSocket]) -> None:
    """As in the kernel, to which all behind the start is data."""
    batch = PacketBatch(1)
    datagram = Datagram(b"abc", UDP)
    add(batch, datagram)
    length = len(batch[0])
    batch.lengths[0] += 15
    batch[0][length:] = bytes(range(1, 16))
    (packet,) = matches_kernel(kernel, batch)
    assert packet[:length] != datagram.build()


# Any place, any length


@pytest.mark.parametrize("shift", range(16))
def test_every_length_and_alignment_is_right(shift: int) -> None:
    content = random.Random(shift).randbytes(400)
    memory = bytearray(500)
    for length in range(22, 400, 7 if SCALE == 1 else 1):
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
    """65,535 bytes of one value: no carry is lost."""
    batch = PacketBatch(1, SUPER_FRAME)
    batch.append(bytes(20) + byte * 65_535)
    write_header(batch, 0, vnet_flags=VNET_NEEDS_CSUM, checksum_starts=20)
    batch.complete_checksums()
    value = checksum(byte * 65_535) or 0xFFFF
    assert bytes(batch[0][20:22]) == struct.pack("!H", value)


# What is done, and what is left


def test_only_open_checksums_are_completed() -> None:
    """Super-frames and frames that need nothing stay as they are."""
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


def test_other_header_fields_stay() -> None:
    batch = PacketBatch(1)
    add(batch, Datagram(data(10)))
    flags = VNET_NEEDS_CSUM | VNET_DATA_VALID
    write_header(batch, 0, vnet_flags=flags, header_lengths=54)
    before = {name: column[0] for name, column in columns(batch).items()}
    batch.complete_checksums()
    after = {name: column[0] for name, column in columns(batch).items()}
    assert after == before | {"vnet_flags": VNET_DATA_VALID}


def test_received_frame_is_ready_afterwards(veth: Veth) -> None:
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
    assert batch.flags is not None
    assert batch.flags[0] & CHECKSUM_NOT_READY
    assert batch.complete_checksums() == 1
    assert not batch.flags[0] & CHECKSUM_NOT_READY
    assert batch.tolist() == [datagram.build()]


# What cannot be done


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
def test_header_that_does_not_fit_is_named(fields: dict[str, int]) -> None:
    """Frames before it are done, and those behind it are not."""
    batch = PacketBatch(3)
    for _ in range(3):
        add(batch, GOOD)
    write_header(batch, 1, **fields)
    open_frame = GOOD.build(whole=False)
    with pytest.raises(ValueError, match=r"packets\[1\]"):
        batch.complete_checksums()
    assert batch.tolist() == [GOOD.build(), open_frame, open_frame]
    flags = columns(batch)["vnet_flags"].tolist()
    assert flags == [0, VNET_NEEDS_CSUM, VNET_NEEDS_CSUM]


def test_field_at_the_very_end_fits() -> None:
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


def test_length_written_beyond_the_frame_is_named() -> None:
    batch = PacketBatch(2, 200)
    add(batch, GOOD)
    add(batch, GOOD)
    for length in (201, 2**31, 2**32 - 1):
        batch.lengths[1] = length
        with pytest.raises(ValueError, match=r"packets\[1\]"):
            batch.complete_checksums()


def test_hostile_headers_write_within_the_frame() -> None:
    """The two bytes that the header names, or none."""
    rng = random.Random(4)
    memory = bytearray(400)
    batch = PacketBatch(1, buffer=memoryview(memory)[100:300])
    done = refused = 0
    for _ in range(5000 * SCALE):
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
            assert "packets[0]" in str(error)
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
    assert done > 200 * SCALE, "hardly any checksum was completed"
    assert refused > 200 * SCALE, "hardly any header was refused"


def test_headers_written_meanwhile_write_within_the_frame() -> None:
    """Another thread changes length and header all the time."""
    guard = b"\xa5" * 1000
    memory = bytearray(guard + bytes(200) + guard)
    batch = PacketBatch(1, buffer=memoryview(memory)[1000:1200])
    batch.append(bytes(200))
    fields = columns(batch)
    stop = threading.Event()

    def scribble() -> None:
        values = [20, 60, 197, 198, 199, 1000, 65535]
        while not stop.is_set():
            for start in values:
                fields["vnet_flags"][0] = VNET_NEEDS_CSUM
                fields["checksum_starts"][0] = start
                fields["checksum_offsets"][0] = values[-start % 7]
                batch.lengths[0] = start

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(3000 * SCALE):
            try:
                batch.complete_checksums()
            except ValueError as error:
                assert "packets[0]" in str(error)
    finally:
        stop.set()
        thread.join()
    assert memory[:1000] == guard
    assert memory[1200:] == guard
