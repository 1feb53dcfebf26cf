"""Fanout groups: every packet goes to exactly one socket."""

import errno
import socket
from contextlib import ExitStack, closing
from itertools import chain
from typing import Any

import pytest
from support.calls import raises
from support.frames import number_of, numbered, pending, receive
from support.programs import RET, program

from rawmmsg import (
    FANOUT_FLAG_DEFRAG,
    FANOUT_FLAG_ROLLOVER,
    FANOUT_LB,
    PACKET_FANOUT,
    SOL_PACKET,
    RawSocket,
    open_fanout_group,
)
from rawmmsg._options import parse_fanout
from rawmmsg.constants import FanoutMode
from rawmmsg.testing import Veth

FRAMES = 200


def shares(
    sockets: list[RawSocket], sender: RawSocket, first: int = 0
) -> list[list[int]]:
    r"""Sends each frame once; returns the numbers of the frames that each
    socket received.

    On a veth pair, a frame is usually queued when send() returns, because its
    receiver runs on the same CPU at the end of the system call. If that CPU is
    busy it comes later, so this waits for the last frame.
    """
    sender.sendmmsg_all([numbered(first + i) for i in range(FRAMES)])
    found: list[list[int]] = [[] for _ in sockets]
    while sum(map(len, found)) < FRAMES:
        for share, sock in zip(found, sockets, strict=True):
            share += [number_of(packet) for packet in pending(sock)]
    return found


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        (mode, flags)
        for mode in ["hash", "lb", "cpu", "rollover", "random", "queue"]
        for flags in [0, FANOUT_FLAG_DEFRAG, FANOUT_FLAG_ROLLOVER]
        # The kernel refuses "rollover" with the flag of the same name.
        if not (mode == "rollover" and flags == FANOUT_FLAG_ROLLOVER)
    ],
)
def test_every_packet_goes_to_one_socket(
    pair: Veth, sender: RawSocket, mode: Any, flags: int
) -> None:
    with ExitStack() as stack:
        group = open_fanout_group(3, pair.b, mode, flags=flags)
        for sock in group:
            stack.enter_context(sock)
        assert len({sock.fanout_group for sock in group}) == 1
        found = shares(group, sender)
        assert sorted(chain.from_iterable(found)) == list(range(FRAMES))
        assert all(share == sorted(share) for share in found)
        if mode == "lb" and not flags:
            assert all(found), "round robin skipped a socket"


def test_classic_program_chooses_the_socket(
    pair: Veth, sender: RawSocket
) -> None:
    with ExitStack() as stack:
        choose = program((RET, 0, 0, 1))
        group = open_fanout_group(2, pair.b, "cbpf", program=choose)
        for sock in group:
            stack.enter_context(sock)
        assert shares(group, sender) == [[], list(range(FRAMES))]


def test_members_join_by_number(pair: Veth, sender: RawSocket) -> None:
    """As separate processes do."""
    with (
        RawSocket(pair.b, fanout=("lb", 77)) as one,
        RawSocket(pair.b, fanout=("lb", 77)) as other,
    ):
        assert one.fanout_group == other.fanout_group == 77
        found = shares([one, other], sender)
        assert sorted(chain.from_iterable(found)) == list(range(FRAMES))


def test_every_group_gets_every_packet(pair: Veth, sender: RawSocket) -> None:
    with (
        RawSocket(pair.b, fanout="hash") as one,
        RawSocket(pair.b, fanout="hash") as other,
    ):
        assert one.fanout_group != other.fanout_group
        sender.send(numbered(1))
        for sock in (one, other):
            sock.settimeout(30)
            assert number_of(sock.recv(100)) == 1


def test_packets_queued_before_joining_stay(
    pair: Veth, sender: RawSocket
) -> None:
    """No other member may have received them, so discarding them would lose
    them."""
    queued = [numbered(i) for i in range(50)]
    with RawSocket(pair.b) as one, RawSocket(pair.b) as other:
        sender.sendmmsg_all(queued)
        assert one.fanout_group is None
        number = one.set_fanout("lb")
        assert other.set_fanout("lb", number) == number
        assert receive(one, 50) == receive(other, 50) == queued
        found = shares([one, other], sender, 100)
        assert sorted(chain.from_iterable(found)) == list(
            range(100, 100 + FRAMES)
        )


def test_filter_of_a_member_is_kept(pair: Veth, sender: RawSocket) -> None:
    keep = "ether[14:4] = 0 and ether[18:4] < 10"
    with RawSocket(pair.b, fanout="lb", filter=keep) as sock:
        sender.sendmmsg_all([numbered(i) for i in range(20)])
        sock.settimeout(30)
        found: list[int] = []
        while len(found) < 10:
            found += [number_of(packet) for packet in pending(sock)]
        assert found == list(range(10))


def test_ignore_outgoing_works_in_a_group(
    pair: Veth, sender: RawSocket
) -> None:
    """The socket option has no effect in a group; a flag of the group does."""
    with RawSocket(pair.a, fanout="lb", ignore_outgoing=True) as sock:
        sender.send(numbered(1))
        assert pending(sock) == []


def test_member_with_another_mode_is_refused(pair: Veth) -> None:
    with RawSocket(pair.b, fanout=("lb", 5)) as first:
        for options in (
            {"interface": pair.a, "fanout": ("lb", 5)},
            {"interface": pair.b, "fanout": ("hash", 5)},
            {"interface": pair.b, "fanout": ("lb", 5, FANOUT_FLAG_DEFRAG)},
        ):
            with raises(errno.EINVAL):
                RawSocket(**options)  # type: ignore[arg-type]
        with raises(errno.EALREADY):
            first.set_fanout("lb", 5)


@pytest.mark.parametrize("mode", FanoutMode)
def test_mode_is_a_name_or_a_member(mode: FanoutMode) -> None:
    programs = {FanoutMode.CBPF: bytes(8), FanoutMode.EBPF: 1}
    program: Any = programs.get(mode)
    name: Any = mode.name.lower()
    expected = parse_fanout(name, 7, program=program)
    assert parse_fanout(mode, 7, program=program) == expected
    assert expected[0] == 7 | mode << 16


def test_mode_as_a_member_opens_a_group(pair: Veth) -> None:
    with RawSocket(pair.b, fanout=FANOUT_LB) as one:
        with RawSocket(pair.b) as other:
            group = other.set_fanout(FanoutMode.LB, one.fanout_group)
        assert group == one.fanout_group
        with RawSocket(pair.b, fanout=(FANOUT_LB, group)) as third:
            assert third.fanout_group == group


@pytest.mark.parametrize(
    ("mode", "error", "text"),
    [
        ("round-robin", ValueError, "mode must be one of hash, lb, .* ebpf"),
        (1, TypeError, "mode must be a str or a FanoutMode, not 1"),
        (None, TypeError, "mode must be a str or a FanoutMode, not None"),
    ],
)
def test_error_names_the_valid_modes(
    pair: Veth, mode: Any, error: type[Exception], text: str
) -> None:
    with RawSocket(pair.b) as sock, pytest.raises(error, match=text):
        sock.set_fanout(mode)


def test_group_of_zero_sockets_is_refused(pair: Veth) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        open_fanout_group(0, pair.b)


def test_adopted_member_knows_its_group(pair: Veth) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as std:
        std.bind((pair.b, 3))
        std.setsockopt(SOL_PACKET, PACKET_FANOUT, 9 | 1 << 16)
        adopted = RawSocket(fileno=std.fileno())
        assert adopted.fanout_group == 9
        adopted.detach()


def test_adopted_descriptor_can_join(pair: Veth, sender: RawSocket) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as std:
        std.bind((pair.b, 3))
        sender.send(numbered(1))
        with closing(
            RawSocket(fileno=std.detach(), fanout=("lb", 11))
        ) as sock:
            assert sock.fanout_group == 11
            assert receive(sock, 1) == [numbered(1)]
