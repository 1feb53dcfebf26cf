"""Packets of a recording, sent as super-frames."""

from pathlib import Path

import pytest
from support.datagrams import KINDS, Datagram
from support.frames import numbered_frames
from support.merging import UDP4, Listener, flow
from support.replaying import replayed, write

from rawmmsg.testing import Veth

PACES = {
    "top speed": ("--top-speed",),
    "recorded": (),
    "looped": ("--top-speed", "--loop", "3"),
    "recorded, looped": ("--loop", "3"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
def test_the_receiver_gets_the_same_packets(
    pair: Veth, tmp_path: Path, kind: Datagram, pace: tuple[str, ...]
) -> None:
    frames = flow(kind, 40)
    file = write(tmp_path / "trace.pcap", frames)
    rounds = 3 if "--loop" in pace else 1
    with Listener(pair.b) as listener:
        result = replayed(file, pair.a, "--merge", *pace)
        listener.wait_for(40 * rounds)
        assert listener.frames == frames * rounds
    assert result.only.sent == 40 * rounds
    assert result.only.bytes == sum(map(len, frames)) * rounds
    assert result.only.merged == len(listener.pieces)
    assert len(listener.pieces) < 40 * rounds


def test_only_neighbours_of_a_flow_are_merged(
    pair: Veth, tmp_path: Path
) -> None:
    others = numbered_frames(2)
    frames = [*flow(UDP4, 3), others[0], *flow(UDP4, 5), others[1]]
    file = write(tmp_path / "trace.pcap", frames)
    with Listener(pair.b) as listener:
        replayed(file, pair.a, "--merge", "--top-speed")
        listener.wait_for(10)
        assert listener.frames == frames
    assert listener.pieces == [3, 1, 5, 1]


def test_packets_that_are_not_due_together_are_not_merged(
    pair: Veth, tmp_path: Path
) -> None:
    frames = flow(UDP4, 8)
    file = write(tmp_path / "trace.pcap", frames)
    with Listener(pair.b) as listener:
        replayed(file, pair.a, "--merge", "--pps", "20")
        listener.wait_for(8)
        assert listener.frames == frames
    assert listener.pieces == [1] * 8


@pytest.mark.parametrize("rounds", [1, 3])
def test_edited_packets_are_merged(
    pair: Veth, tmp_path: Path, rounds: int
) -> None:
    frames = flow(UDP4, 30)
    file = write(tmp_path / "trace.pcap", frames)
    address = bytes((2, 0, 0, 0, 0, 9))
    with Listener(pair.b) as listener:
        replayed(
            *(file, pair.a, "--merge", "--top-speed", f"--loop={rounds}"),
            *("--dst-mac", address.hex(":")),
        )
        listener.wait_for(30 * rounds)
        wanted = [address + one[6:] for one in frames]
        assert listener.frames == wanted * rounds
    assert len(listener.pieces) < 30 * rounds


@pytest.mark.parametrize("limit", [1, 7, 30, 44])
def test_limit_counts_packets(pair: Veth, tmp_path: Path, limit: int) -> None:
    frames = flow(UDP4, 30)
    file = write(tmp_path / "trace.pcap", frames)
    with Listener(pair.b) as listener:
        replayed(
            *(file, pair.a, "--merge", "--top-speed", "--loop=0"),
            f"--limit={limit}",
        )
        listener.wait_for(limit)
        assert listener.frames == (frames * 2)[:limit]
