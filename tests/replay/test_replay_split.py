"""Two directions of a recording, sent on two interfaces."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from support.frames import numbered, numbered_frames
from support.pacing import arrived
from support.recordings import Packet
from support.replaying import (
    a_microsecond_apart,
    all_of,
    listening,
    replay,
    replayed,
    write,
    write_pcapng,
)

from rawmmsg.testing import Veth, veth_pair

CLIENT, SERVER = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 3))

INBOUND: Final = 1  # epb_flags
OUTBOUND: Final = 2

# Which interface each packet is for: single ones, and runs of several.
SIDES: Final = [int(side) for side in "0101100010111110000001"] * 4

PACES = {
    "recorded": (),
    "pps": ("--pps", "50000"),
    "top speed": ("--top-speed",),
    "merged": ("--merge", "--top-speed"),
}


@pytest.fixture(scope="module")
def other() -> Iterator[Veth]:
    with veth_pair() as made:
        yield made


def frames() -> list[bytes]:
    return [
        numbered(i, src=SERVER if side else CLIENT)
        for i, side in enumerate(SIDES)
    ]


def of(side: int) -> list[bytes]:
    pairs = zip(frames(), SIDES, strict=True)
    return [frame for frame, its in pairs if its == side]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A recording of two interfaces."""
    packets = zip(SIDES, a_microsecond_apart(frames()), strict=True)
    return write_pcapng(tmp_path / "two.pcapng", packets, ("eth0", "eth1"))


@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
def test_interfaces_of_the_recording_are_split(
    pair: Veth, other: Veth, two: Path, pace: tuple[str, ...]
) -> None:
    with listening(pair.b) as first, listening(other.b) as second:
        result = replayed(two, pair.a, "--split", other.a, *pace)
        assert all_of(first, SIDES.count(0)) == of(0)
        assert all_of(second, SIDES.count(1)) == of(1)
    one, two_ = result.interfaces
    assert (one.name, one.sent) == (pair.a, SIDES.count(0))
    assert (two_.name, two_.sent) == (other.a, SIDES.count(1))


def test_a_filter_splits(pair: Veth, other: Veth, tmp_path: Path) -> None:
    file = write(tmp_path / "trace.pcap", frames())
    with listening(pair.b) as first, listening(other.b) as second:
        replayed(
            *(file, pair.a, "--split", other.a, "--split-filter"),
            f"ether src {SERVER.hex(':')}",
        )
        assert all_of(first, SIDES.count(0)) == of(0)
        assert all_of(second, SIDES.count(1)) == of(1)


def test_recorded_directions_are_split(
    pair: Veth, other: Veth, tmp_path: Path
) -> None:
    file = write_pcapng(
        tmp_path / "trace.pcapng",
        [(0, packet) for packet in a_microsecond_apart(frames())],
        direction=[OUTBOUND if side else INBOUND for side in SIDES],
    )
    with listening(pair.b) as first, listening(other.b) as second:
        replayed(file, pair.a, "--split", other.a)
        assert all_of(first, SIDES.count(0)) == of(0)
        assert all_of(second, SIDES.count(1)) == of(1)


def test_the_order_across_the_interfaces_is_that_of_the_recording(
    pair: Veth, two: Path
) -> None:
    """Both are the same interface here, so that one end sees all packets."""
    with listening(pair.b) as sock:
        replayed(two, pair.a, "--split", pair.a, "--top-speed")
        assert all_of(sock, len(SIDES)) == frames()


@pytest.mark.parametrize("limit", [1, 2, 40, 88, 89, 130])
def test_limit_counts_the_packets_of_both(
    pair: Veth, other: Veth, two: Path, limit: int
) -> None:
    expected = (SIDES * 2)[:limit]
    options = ("--limit", str(limit), "--loop", "2", "--top-speed")
    before = arrived(pair.b)[0], arrived(other.b)[0]
    replayed(two, pair.a, "--split", other.a, *options)
    assert arrived(pair.b)[0] - before[0] == expected.count(0)
    assert arrived(other.b)[0] - before[1] == expected.count(1)


def test_packets_of_further_interfaces_are_skipped(
    pair: Veth, other: Veth, tmp_path: Path
) -> None:
    packets = a_microsecond_apart(numbered_frames(9))
    file = write_pcapng(
        tmp_path / "three.pcapng",
        [(i % 3, packet) for i, packet in enumerate(packets)],
        ("eth0", "eth1", "eth2"),
    )
    with listening(pair.b) as first, listening(other.b) as second:
        result = replayed(file, pair.a, "--split", other.a)
        assert all_of(first, 3) == [packets[i].data for i in (0, 3, 6)]
        assert all_of(second, 3) == [packets[i].data for i in (1, 4, 7)]
    assert (
        "\n3 packets skipped: they belong to other interfaces of the"
        " recording\n" in result.text
    )


def test_an_interface_is_the_same_in_all_sections(
    pair: Veth, other: Veth, tmp_path: Path
) -> None:
    """As in two recordings that were joined."""
    packets = a_microsecond_apart(numbered_frames(4))
    names = ("eth0", "eth1")
    one = write_pcapng(
        tmp_path / "1", [(0, packets[0]), (1, packets[1])], names
    )
    two = write_pcapng(
        tmp_path / "2", [(1, packets[2]), (0, packets[3])], names
    )
    joined = tmp_path / "joined"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    with listening(pair.b) as first, listening(other.b) as second:
        replayed(joined, pair.a, "--split", other.a)
        assert all_of(first, 2) == [packets[0].data, packets[3].data]
        assert all_of(second, 2) == [packets[1].data, packets[2].data]


def test_cut_packets_are_skipped_on_both(
    pair: Veth, other: Veth, tmp_path: Path
) -> None:
    packets = a_microsecond_apart(frames())
    for i in (0, 1, 5):
        packets[i] = Packet(packets[i].data[:40], i, 64)
    kept = [i for i in range(len(SIDES)) if i not in (0, 1, 5)]
    file = write_pcapng(
        tmp_path / "two.pcapng",
        zip(SIDES, packets, strict=True),
        ("eth0", "eth1"),
    )
    with listening(pair.b) as first, listening(other.b) as second:
        result = replayed(file, pair.a, "--split", other.a)
        for side, sock in enumerate((first, second)):
            wanted = [packets[i].data for i in kept if SIDES[i] == side]
            assert all_of(sock, len(wanted)) == wanted
    assert "\n3 packets skipped: the recording has only" in result.text


def test_refused_packets_do_not_delay_those_of_the_other_interface(
    tmp_path: Path,
) -> None:
    long = numbered(0, 1600)
    packets = [long, numbered(1), long, numbered(2), numbered(3), long]
    file = write_pcapng(
        tmp_path / "two.pcapng",
        [
            (side, Packet(packet))
            for side, packet in zip((0, 1, 1, 0, 1, 0), packets, strict=True)
        ],
        ("eth0", "eth1"),
    )
    with veth_pair() as one, veth_pair() as two:
        with listening(one.b) as first, listening(two.b) as second:
            result = replayed(file, one.a, "--split", two.a)
            assert all_of(first, 1) == [numbered(2)]
            assert all_of(second, 2) == [numbered(1), numbered(3)]
    assert [one_.refused for one_ in result.interfaces] == [2, 1]


@pytest.mark.parametrize("directions", [(), (INBOUND, OUTBOUND, 0, INBOUND)])
def test_a_recording_that_cannot_be_split_is_an_error(
    pair: Veth, other: Veth, tmp_path: Path, directions: tuple[int, ...]
) -> None:
    packets = [(0, one) for one in a_microsecond_apart(numbered_frames(4))]
    file = write_pcapng(
        tmp_path / "trace.pcapng", packets, direction=directions
    )
    before = arrived(pair.b), arrived(other.b)
    result = replay(file, pair.a, "--split", other.a)
    assert result.code == 1
    assert f"rawmmsg: {file}: the recording has one interface" in result.text
    assert "--split-filter" in result.text
    assert (arrived(pair.b), arrived(other.b)) == before
