"""New addresses and VLANs for the packets of a recording."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.frames import frame, numbered_frames
from support.recordings import Packet
from support.replaying import all_of, listening, replayed, write, write_pcapng

from rawmmsg import PacketBatch
from rawmmsg._rawmmsg import _set_addresses
from rawmmsg.testing import Veth, veth_pair

A, B, C, D = (bytes((2, 0, 0, 0, 0, i)) for i in range(4))
OLD = B + A


def tagged(tci: int, packet: bytes, kind: int = 0x8100) -> bytes:
    return packet[:12] + struct.pack("!HH", kind, tci) + packet[12:]


PLAIN = [frame(bytes([i]) * (46 + 50 * i), B, A) for i in range(8)]
MIXED = [
    PLAIN[0],
    tagged(7, PLAIN[1]),
    tagged(0xE007, PLAIN[2]),
    PLAIN[3],
    tagged(0, PLAIN[4]),
    tagged(7, tagged(8, PLAIN[5])),
    tagged(7, PLAIN[6], 0x88A8),
]
WITHOUT = [
    *(PLAIN[0], PLAIN[1], PLAIN[2], PLAIN[3], PLAIN[4]),
    tagged(8, PLAIN[5]),
    tagged(7, PLAIN[6], 0x88A8),
]

# Once, from a file that is kept, and from one batch after another.
ROUNDS = [1, 3]


@pytest.fixture(params=ROUNDS)
def rounds(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize(
    ("options", "header"),
    [
        (("--dst-mac", C.hex(":")), C + A),
        (("--src-mac", C.hex("-")), B + C),
        (("--dst-mac", "2:0:0:0:0:2", "--src-mac", D.hex(":")), C + D),
    ],
)
def test_addresses_are_replaced(
    pair: Veth,
    tmp_path: Path,
    rounds: int,
    options: tuple[str, ...],
    header: bytes,
) -> None:
    file = write(tmp_path / "trace.pcap", MIXED)
    with listening(pair.b) as sock:
        replayed(file, pair.a, "--loop", str(rounds), *options)
        wanted = [header + one[12:] for one in MIXED]
        assert all_of(sock, len(MIXED) * rounds) == wanted * rounds


def test_a_vlan_replaces_the_first_tag(
    pair: Veth, tmp_path: Path, rounds: int
) -> None:
    file = write(tmp_path / "trace.pcap", MIXED)
    wanted = [tagged(100, one) for one in WITHOUT]
    wanted[2] = tagged(0xE000 | 100, WITHOUT[2])  # its priority stays
    with listening(pair.b) as sock:
        replayed(file, pair.a, "--loop", str(rounds), "--vlan", "100")
        assert all_of(sock, len(MIXED) * rounds) == wanted * rounds


def test_tags_are_taken_away(pair: Veth, tmp_path: Path, rounds: int) -> None:
    file = write(tmp_path / "trace.pcap", MIXED)
    with listening(pair.b) as sock:
        replayed(file, pair.a, "--loop", str(rounds), "--vlan", "none")
        assert all_of(sock, len(MIXED) * rounds) == WITHOUT * rounds


def test_all_changes_together(pair: Veth, tmp_path: Path, rounds: int) -> None:
    packets = [Packet(one) for one in numbered_frames(3000, 60)]
    for i in range(0, 3000, 7):
        packets[i] = Packet(packets[i].data[:20], 0, 60)
    file = write(tmp_path / "trace.pcap", packets)
    wanted = [
        tagged(9, C + D + one.data[12:])
        for one in packets
        if one.wire_length is None
    ]
    options = ("--dst-mac", C.hex(":"), "--src-mac", D.hex(":"), "--vlan=9")
    with listening(pair.b) as sock:
        replayed(file, pair.a, f"--loop={rounds}", "--limit=100", *options)
        assert all_of(sock, 100) == wanted[:100]


def test_the_file_stays_as_it_is(pair: Veth, tmp_path: Path) -> None:
    file = write(tmp_path / "trace.pcap", MIXED)
    before = file.read_bytes()
    replayed(file, pair.a, "--dst-mac", C.hex(":"), "--vlan", "9")
    assert file.read_bytes() == before


@pytest.fixture
def other() -> Iterator[Veth]:
    with veth_pair() as made:
        yield made


@pytest.mark.parametrize(
    ("option", "first", "second"),
    [
        (C.hex(":"), C, C),
        (f"{C.hex(':')},{D.hex(':')}", C, D),
    ],
)
def test_the_second_address_is_for_the_second_interface(
    pair: Veth,
    other: Veth,
    tmp_path: Path,
    option: str,
    first: bytes,
    second: bytes,
) -> None:
    packets = [(i % 2, Packet(one)) for i, one in enumerate(PLAIN)]
    file = write_pcapng(tmp_path / "two.pcapng", packets, ("eth0", "eth1"))
    with listening(pair.b) as one, listening(other.b) as two:
        replayed(file, pair.a, "--split", other.a, "--dst-mac", option)
        assert all_of(one, 4) == [first + p[6:] for p in PLAIN[::2]]
        assert all_of(two, 4) == [second + p[6:] for p in PLAIN[1::2]]


# The function that writes addresses.


def test_addresses_are_set_in_all_frames_of_a_batch() -> None:
    batch = PacketBatch(4, 64)
    batch.extend([PLAIN[0], b"short", PLAIN[0]])
    _set_addresses(batch, C, None)
    assert batch.tolist()[::2] == [C + PLAIN[0][6:]] * 2
    _set_addresses(batch, None, D)
    assert batch.tolist()[::2] == [C + D + PLAIN[0][12:]] * 2
    _set_addresses(batch, None, None)
    assert batch.tolist()[::2] == [C + D + PLAIN[0][12:]] * 2


def test_rows_without_room_for_addresses_stay() -> None:
    batch = PacketBatch(2, 13)
    batch.append(b"0123456789abc")
    _set_addresses(batch, C, D)
    assert batch.tolist() == [b"0123456789abc"]


def test_wrong_arguments_of_set_addresses_are_errors() -> None:
    batch = PacketBatch(1)
    with pytest.raises(ValueError, match="must have 6 bytes, not 5"):
        _set_addresses(batch, bytes(5), None)
    with pytest.raises(ValueError, match="must have 6 bytes, not 7"):
        _set_addresses(batch, None, bytes(7))
    slices = PacketBatch(buffer=bytes(60), offsets=[0], lengths=[60])
    with pytest.raises(BufferError, match="read-only"):
        _set_addresses(slices, C, D)
