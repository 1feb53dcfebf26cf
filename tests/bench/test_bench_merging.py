"""What bench/merging sends: C merges what merge_into() merges, and datagrams
that are lost, changed or not merged are found."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from support.child import tool
from support.old_kernel import without_super_frames

from bench import __main__ as command
from bench.lab import peers
from bench.lab.contender import GroundTruthError, UnavailableError
from bench.lab.runner import Lab, Mode
from bench.merging import sides
from bench.merging.frames import HEADERS, joined
from bench.send.sides import ready
from rawmmsg import GSO_UDP_L4, SUPER_FRAME, PacketBatch, RawSocket

BATCH = 128  # as many as the smallest receive buffer holds
MIDDLE = 10
SIZE = 64


@pytest.fixture
def place() -> Iterator[sides.Place]:
    """Without datagrams that are sent before a contender is timed."""
    with sides.Place(BATCH, SIZE, proof=0) as place:
        yield place


class Arrival(NamedTuple):
    frame: bytes
    flags: int
    gso_type: int
    gso_size: int
    checksum: tuple[int, int]  # where it begins and where it is stored


def arrivals(place: sides.Place, send: Callable[[int], None]) -> list[Arrival]:
    """What arrives if the batch is sent once."""
    found: list[Arrival] = []
    batch = PacketBatch(BATCH, SUPER_FRAME)
    with RawSocket(place.shared.veth.b, vnet_hdr=True) as sock:
        send(1)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.recvmmsg_into(batch)
                found += [
                    Arrival(
                        bytes(batch[i]),
                        batch.vnet_flags[i],
                        batch.gso_types[i],
                        batch.gso_sizes[i],
                        (batch.checksum_starts[i], batch.checksum_offsets[i]),
                    )
                    for i in range(len(batch))
                ]
    return found


def flip(*offsets: int) -> Callable[[PacketBatch], None]:
    """Changes a datagram in the middle of the batch, and no checksum."""

    def alter(batch: PacketBatch) -> None:
        for offset in offsets:
            batch[MIDDLE][offset] ^= 1

    return alter


def differ(offset: int) -> Callable[[PacketBatch], None]:
    """Changes it, and has its checksums computed."""

    def alter(batch: PacketBatch) -> None:
        batch[MIDDLE][offset] ^= 1
        batch.compute_checksums()

    return alter


def no_checksum(batch: PacketBatch) -> None:
    batch[MIDDLE][40:42] = bytes(2)


def nothing(batch: PacketBatch) -> None:
    pass


@pytest.mark.parametrize(
    ("alter", "frames"),
    [
        pytest.param(nothing, 2, id="nothing"),
        pytest.param(flip(SIZE - 1), 4, id="wrong UDP checksum"),
        pytest.param(flip(25), 4, id="wrong IPv4 checksum"),
        pytest.param(no_checksum, 4, id="no UDP checksum"),
        pytest.param(flip(0), 4, id="address"),
        pytest.param(differ(15), 4, id="TOS"),
        pytest.param(differ(18), 4, id="id"),
        pytest.param(differ(20), 4, id="fragment"),
        pytest.param(differ(22), 4, id="TTL"),
        pytest.param(differ(37), 4, id="port"),
    ],
)
def test_c_sends_the_super_frames_of_merge_into(
    place: sides.Place, alter: Callable[[PacketBatch], None], frames: int
) -> None:
    """It checks and compares the same fields, so that it is a baseline."""
    tool("gcc")
    assert joined(SIZE) * 2 == BATCH
    alter(place.frames.out)
    expected = arrivals(place, sides.send_merged(place.frames, place.tx))
    assert len(expected) == frames
    assert arrivals(place, sides.send_in_c(place)) == expected


def sender(
    place: sides.Place, change: Callable[[list[bytes]], list[bytes]]
) -> Callable[[int], None]:
    """Merges and sends the frames after a change."""
    target = PacketBatch(2 * BATCH, SUPER_FRAME)
    batch = PacketBatch(2 * BATCH)

    def send(times: int) -> None:
        for _ in range(times):
            batch.clear()
            batch.extend(change(place.frames.packets))
            assert batch.merge_into(target) == len(batch)
            place.tx.sendmmsg_all(target)

    return send


def renumbered(packets: list[bytes]) -> list[bytes]:
    """The second datagram has the number of the first one, and the right
    checksum."""
    batch = PacketBatch(1)
    batch.append(packets[0])
    batch[0][:HEADERS] = packets[1][:HEADERS]
    batch.compute_checksums()
    return [packets[0], bytes(batch[0]), *packets[2:]]


CHANGES = [
    pytest.param(renumbered, id="duplicate"),
    pytest.param(lambda packets: packets[:-1], id="lost"),
    pytest.param(lambda packets: [*packets, packets[-1]], id="twice"),
    pytest.param(lambda packets: packets[::-1], id="order"),
]


def test_merged_datagrams_are_accepted(place: sides.Place) -> None:
    send = sender(place, lambda packets: packets)
    made = ready(place, place.shared, send, joined=joined(SIZE))
    assert made.run(3).figure > 0


@pytest.mark.parametrize("change", CHANGES)
def test_datagram_that_is_lost_or_changed_is_found_before_a_slice(
    change: Callable[[list[bytes]], list[bytes]],
) -> None:
    with sides.Place(BATCH, SIZE, proof=2 * BATCH) as place:
        send = sender(place, change)
        made = ready(place, place.shared, send, joined=joined(SIZE))
        with pytest.raises(GroundTruthError):
            made.run(1)


@pytest.mark.parametrize("change", CHANGES)
def test_udp_socket_finds_a_datagram_that_is_lost_or_changed(
    change: Callable[[list[bytes]], list[bytes]],
) -> None:
    with sides.Place(BATCH, SIZE, proof=BATCH) as place:
        with pytest.raises(GroundTruthError, match="a UDP socket received"):
            place.prove(place.shared, sender(place, change))
        place.prove(place.shared, sender(place, lambda packets: packets))


@pytest.mark.parametrize("change", CHANGES[1:])
def test_slice_finds_super_frames_too_few_too_many_or_too_short(
    place: sides.Place, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    send = sender(place, change)
    made = ready(place, place.shared, send, joined=joined(SIZE))
    with pytest.raises(GroundTruthError, match=r"2 frames of 2900 bytes sent"):
        made.run(1)


def test_slice_finds_datagrams_that_were_not_merged(
    place: sides.Place,
) -> None:
    def send(times: int) -> None:
        for _ in range(times):
            place.shared.tx.sendmmsg_all(place.frames.out)

    assert ready(place, place.shared, send).run(1).figure > 0
    made = ready(place, place.shared, send, joined=joined(SIZE))
    with pytest.raises(GroundTruthError, match=f"{BATCH} of "):
        made.run(1)


def test_kernel_without_udp_super_frames_is_named() -> None:
    section, refused = without_super_frames(
        GSO_UDP_L4, lambda: command.measure("merging", Lab(Mode.BRIEF))
    )
    assert refused > 0
    (missing,) = section.missing
    assert str(missing) == (
        "missing here: a kernel that takes UDP super-frames (Linux 6.2)"
    )
    assert not section.tables
    assert not section.error


def test_without_ethtool_only_one_table_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def program(name: str) -> str:
        if name == "ethtool":
            raise UnavailableError(name, "apt-get install ethtool")
        return original(name)

    original = peers.program
    monkeypatch.setattr(peers, "program", program)
    section = command.measure("merging", Lab(Mode.BRIEF))
    assert [table.key for table in section.tables] == [
        "merging/64B",
        "merging/64B/programs",
        "merging/64B/receiving",
    ]
    assert [one.what for one in section.missing] == ["ethtool"]
