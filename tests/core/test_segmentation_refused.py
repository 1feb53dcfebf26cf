"""segment_into(): invalid super-frames are refused, and no bytes are written
outside the target."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.calls import repeating
from support.datagrams import (
    HEADER_COLUMNS,
    JUMBO,
    KINDS,
    SHAPES,
    TAGS,
    TIMESTAMPS,
    UDP,
    Datagram,
    Q,
    add,
    columns,
    data,
    super_frame,
    write_header,
)

from rawmmsg import (
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    SUPER_FRAME,
    PacketBatch,
    RawSocket,
)

MSS = 1400


# Refused frames


GOOD = Datagram(data(5000))
GOOD6 = Datagram(data(5000), version=6)
GOOD_UDP = Datagram(data(5000), protocol=UDP)

BAD_HEADERS = {
    "UFO": (GOOD_UDP, {"gso_types": 3}),
    "unknown type": (GOOD, {"gso_types": 77}),
    "ECN alone": (GOOD, {"gso_types": GSO_ECN}),
    "ECN with UDP": (GOOD_UDP, {"gso_types": GSO_UDP_L4 | GSO_ECN}),
    "no size": (GOOD, {"gso_sizes": 0}),
    "no possible size": (GOOD, {"gso_sizes": 65535}),
    "header beyond": (GOOD, {"header_lengths": 5055}),
    "checksum beyond": (GOOD, {"checksum_starts": 5040}),
    "checksum far beyond": (GOOD, {"checksum_offsets": 65535}),
    "checksum elsewhere": (GOOD, {"checksum_offsets": 6}),
    "checksum of a tunnel": (GOOD, {"checksum_starts": 54}),
    "checksum too early": (GOOD, {"checksum_starts": 14}),
    "UDP without checksum": (GOOD_UDP, {"vnet_flags": 0}),
    "IPv6 in IPv4": (
        GOOD,
        {"gso_types": GSO_TCPV6, "checksum_starts": 40},
    ),
    "IPv4 in IPv6": (GOOD6, {"gso_types": GSO_TCPV4}),
    "UDP in TCP": (GOOD, {"gso_types": GSO_UDP_L4, "checksum_offsets": 6}),
}

BAD_FRAMES = {
    "neither IPv4 nor IPv6": (GOOD, 12, b"\x88\xb5"),
    "IPv4 of version 5": (GOOD, 14, b"\x55"),
    "IPv6 of version 4": (GOOD6, 14, b"\x45"),
    "IPv4 header of 16 bytes": (GOOD, 14, b"\x44"),
    "IP length beyond": (GOOD, 16, (5041).to_bytes(2, "big")),
    "IP length within the header": (GOOD, 16, b"\0\x10"),
    "IP length within the TCP header": (GOOD, 16, b"\0\x27"),
    "IPv6 length within the TCP header": (GOOD6, 18, b"\0\x13"),
    "IPv6 length beyond": (GOOD6, 18, (5021).to_bytes(2, "big")),
    "TCP header of 16 bytes": (GOOD, 46, b"\x40"),
    "ICMP": (GOOD, 23, b"\1"),
    "fragment": (GOOD6, 20, b"\x2c"),
    "nine tags": (
        Datagram(data(5000), tags=(Q,) * 9),
        0,
        b"",
    ),
}


def refuses(batch: PacketBatch) -> None:
    """Asserts that the batch's frame is refused if it is the second of two,
    and that the error names it if it is the first."""
    both = PacketBatch(2, SUPER_FRAME)
    both.extend([b"good" * 20, batch[0]])
    fields = {name: column[0] for name, column in columns(batch).items()}
    write_header(both, 1, **fields)
    target = PacketBatch(64, SUPER_FRAME)
    assert both.segment_into(target) == (1, 0)
    assert target.tolist() == [b"good" * 20]
    with pytest.raises(ValueError, match=r"packet 1"):
        both.segment_into(target, 1)
    assert len(target) == 0


@pytest.mark.parametrize(
    ("datagram", "fields"), BAD_HEADERS.values(), ids=BAD_HEADERS
)
def test_header_beyond_the_frame_is_an_error(
    datagram: Datagram, fields: dict[str, int]
) -> None:
    batch = super_frame(datagram, MSS)
    write_header(batch, 0, **fields)
    refuses(batch)


@pytest.mark.parametrize(
    ("datagram", "at", "value"), BAD_FRAMES.values(), ids=BAD_FRAMES
)
def test_frame_that_does_not_match_its_header_is_an_error(
    datagram: Datagram, at: int, value: bytes
) -> None:
    batch = super_frame(datagram, MSS)
    batch[0][at : at + len(value)] = value
    refuses(batch)


def test_malformed_ipv4_without_open_checksum_is_an_error() -> None:
    """No checksum_start gives the place of its transport header."""
    batch = super_frame(GOOD, MSS)
    write_header(batch, 0, vnet_flags=0)
    batch[0][14] = 0x44
    batch[0][30 + 12] = 0x50
    refuses(batch)


def test_tcp_options_beyond_the_ip_length_are_an_error() -> None:
    datagram = Datagram(data(5000), tcp_options=TIMESTAMPS)
    batch = super_frame(datagram, MSS)
    batch[0][16:18] = (20 + 31).to_bytes(2, "big")
    refuses(batch)


def test_super_frame_too_short_for_its_type_is_not_sent(
    kernel: tuple[RawSocket, RawSocket],
) -> None:
    batch = super_frame(GOOD, MSS)
    write_header(batch, 0, vnet_flags=0, header_lengths=0)
    batch.lengths[0] = 39
    with pytest.raises(ValueError, match=r"packet 0.*short"):
        kernel[0].sendmmsg(batch)


def test_segments_too_long_for_ip_are_refused() -> None:
    batch = super_frame(Datagram(data(100_000)), 65_500)
    with pytest.raises(ValueError, match=r"packet 0.*too long"):
        batch.segment_into(PacketBatch(2, SUPER_FRAME))


def test_more_than_65535_segments_are_refused() -> None:
    batch = super_frame(Datagram(data(65_536)), 1)
    with pytest.raises(ValueError, match=r"packet 0.*segments"):
        batch.segment_into(PacketBatch(2))


@pytest.mark.parametrize("datagram", [*KINDS.values(), *SHAPES.values()])
def test_frame_that_ends_within_its_headers_is_refused(
    datagram: Datagram,
) -> None:
    datagram = replace(datagram, tags=(Q,), payload=data(500))
    for length in range(datagram.header_size):
        batch = super_frame(datagram, 100)
        write_header(batch, 0, header_lengths=0)
        batch.lengths[0] = length
        with pytest.raises(ValueError, match=r"packet 0"):
            batch.segment_into(PacketBatch(8))


def test_length_beyond_the_frames_memory_is_an_error() -> None:
    batch = PacketBatch(2, 6000)
    batch.append(b"good" * 20)
    add(batch, GOOD, MSS)
    target = PacketBatch(8)
    for length in (6001, 2**31, 2**32 - 1):
        batch.lengths[1] = length
        assert batch.segment_into(target) == (1, 0)
        with pytest.raises(ValueError, match=r"packet 1"):
            batch.segment_into(target, 1)


# Random frames


class Guarded:
    """A target with guard bytes before and after each frame."""

    GUARD = b"\xa5" * 32

    def __init__(self, capacity: int, frame_size: int) -> None:
        unit = self.GUARD + bytes(frame_size) + self.GUARD
        self.memory = bytearray(unit * capacity)
        view = memoryview(self.memory)
        starts = range(32, len(self.memory), len(unit))
        self.guards = [view[at - 32 : at] for at in starts]
        self.guards += [
            view[at + frame_size : at + frame_size + 32] for at in starts
        ]
        self.batch = PacketBatch(
            buffers=[view[at : at + frame_size] for at in starts]
        )

    def check(self) -> None:
        assert all(guard == self.GUARD for guard in self.guards), (
            "bytes outside the target's frames were written"
        )


def random_frame(rng: random.Random, batch: PacketBatch) -> None:
    """Fills the batch with one frame that is nearly valid, or random."""
    datagram = rng.choice([*KINDS.values(), *SHAPES.values()])
    datagram = replace(
        datagram,
        tags=rng.choice(list(TAGS.values())),
        payload=rng.randbytes(rng.randrange(600)),
    )
    batch.clear()
    add(batch, datagram, rng.choice([1, 50, 100, 600, 65535]))
    frame = batch[0]
    for _ in range(rng.randrange(6)):
        frame[rng.randrange(min(len(frame), 110))] = rng.randrange(256)
    for _ in range(rng.choice([0, 0, 1, 3])):
        name = rng.choice(HEADER_COLUMNS)
        limit = 256 if name in ("vnet_flags", "gso_types") else 65536
        values = [rng.randrange(limit), rng.randrange(10)]
        write_header(batch, 0, **{name: rng.choice(values)})
    if rng.randrange(4) == 0:
        batch.lengths[0] = rng.randrange(len(frame) + 1)


def test_random_frames_write_within_the_target(
    scaled: Callable[[int], int],
) -> None:
    """Every frame is cut or refused; the source batch stays unchanged."""
    rng = random.Random(1)
    batch = PacketBatch(1, 1200)
    target = Guarded(8, 700)
    done = refused = 0
    for _ in range(scaled(3000)):
        random_frame(rng, batch)
        before = bytes(batch[0])
        at = 0, 0
        try:
            while at[0] == 0:
                at = batch.segment_into(target.batch, *at)
                assert len(target.batch) > 0
            done += 1
        except ValueError as error:
            assert "packet 0" in str(error)
            refused += 1
        target.check()
        assert bytes(batch[0]) == before
    assert done > scaled(500), "too few frames were cut"
    assert refused > scaled(500), "too few frames were refused"


def test_frames_that_change_during_the_call_write_within_the_target(
    scaled: Callable[[int], int],
) -> None:
    """Another thread changes the frame and the header all the time."""
    rng = random.Random(2)
    batch = super_frame(
        Datagram(data(4000), version=6, extensions=(JUMBO,)), 500
    )
    frame, length = batch[0], len(batch[0])
    fields = columns(batch)
    good = {name: column[0] for name, column in fields.items()}
    target = Guarded(16, 700)
    places = [12, 13, 14, 18, 19, 20, 54, 55, 62, 74]

    def scribble() -> None:
        at = rng.choice(places)
        kept = frame[at]
        frame[at] = rng.randrange(256)
        batch.lengths[0] = rng.choice([0, 60, length, 2**32 - 1])
        fields["gso_sizes"][0] = rng.choice([0, 1, 400, 500, 65534])
        fields["checksum_starts"][0] = rng.choice([0, 62, 65535])
        frame[at] = kept
        batch.lengths[0] = length
        fields["gso_sizes"][0] = good["gso_sizes"]
        fields["checksum_starts"][0] = good["checksum_starts"]

    with repeating(scribble):
        for _ in range(scaled(2000)):
            try:
                batch.segment_into(target.batch)
            except ValueError as error:
                assert "packet 0" in str(error)
    target.check()
