"""A filter on what a guest sends: it decides about the bytes that are sent,
whatever the guest does to its memory meanwhile."""

from collections.abc import Callable
from typing import Final

import pytest
from support.calls import eventually
from support.frames import (
    LOCAL_EXPERIMENTAL,
    OTHER_EXPERIMENTAL,
    numbered,
    receive,
)
from support.guest_cards import card
from support.guest_driver import OffloadHeader
from support.programs import JEQ, LD_H_ABS, LD_IMM, RET, accept, program

from rawmmsg import RawSocket

LD_H_IND: Final = 0x48
LDX_IMM: Final = 0x01
MISC_TAX: Final = 0x07

GOOD: Final = LOCAL_EXPERIMENTAL
BAD: Final = OTHER_EXPERIMENTAL


def only(ethertype: int) -> bytes:
    return program(
        (LD_H_ABS, 0, 0, 12),
        (JEQ, 0, 1, ethertype),
        (RET, 0, 0, 0xFFFF),
        (RET, 0, 0, 0),
    )


def only_indirect(ethertype: int) -> bytes:
    """The same with an indirect load, so that any byte can be read."""
    return program(
        (LD_IMM, 0, 0, 12),
        (MISC_TAX, 0, 0, 0),
        (LD_H_IND, 0, 0, 0),
        (JEQ, 0, 1, ethertype),
        (RET, 0, 0, 0xFFFF),
        (RET, 0, 0, 0),
    )


def only_last(ethertype: int, at: int) -> bytes:
    """Looks at two bytes far behind in the frame."""
    return program(
        (LD_H_ABS, 0, 0, at),
        (JEQ, 0, 1, ethertype),
        (RET, 0, 0, 0xFFFF),
        (RET, 0, 0, 0),
    )


PROGRAMS: Final[dict[str, Callable[[int], bytes]]] = {
    "constant offset": only,
    "indirect load": only_indirect,
}


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("layout", [[12], [12, 13], [1] * 40, [2000]])
def test_only_accepted_frames_leave(
    near: RawSocket, far: RawSocket, kind: str, layout: list[int]
) -> None:
    with card(filter=PROGRAMS[kind](GOOD)) as made:
        frames = [
            numbered(i, 60 + i, ethertype=GOOD if i % 3 else BAD)
            for i in range(12)
        ]
        for one in frames:
            made.guest.send(one, layout=layout, indirect=True)
        assert made.send(near) == 8
        assert made.guest.finish_sent() == 12
        accepted = [one for i, one in enumerate(frames) if i % 3]
        assert receive(far, 8) == accepted
        assert made.counted == {"received": 8, "batches": 1, "rejected": 4}


def test_frames_that_are_dropped_for_two_reasons_are_counted_apart(
    near: RawSocket, far: RawSocket
) -> None:
    with card(filter=only(GOOD)) as made:
        for i in range(4):
            made.guest.send(numbered(i, ethertype=BAD))
            made.guest.send(numbered(i), OffloadHeader(gso_type=0x77))
            made.guest.send(numbered(i, ethertype=GOOD))
        assert made.send(near) == 4
        assert made.guest.finish_sent() == 12
        assert receive(far, 4) == [numbered(i) for i in range(4)]
        assert made.counted == {
            "received": 8,
            "batches": 1,
            "malformed": 4,
            "rejected": 4,
        }


def test_a_batch_that_is_rejected_does_not_stop_the_next_one(
    near: RawSocket, far: RawSocket
) -> None:
    """send() returns 0 only if the guest has sent nothing more, or the caller
    can look again."""
    with card(batch=4, filter=only(GOOD)) as made:
        made.guest.send_all(numbered(i, ethertype=BAD) for i in range(40))
        made.guest.send(numbered(40, ethertype=GOOD))
        sent = 0

        def is_done() -> bool:
            nonlocal sent
            sent += made.rings.send(near)
            return sent == 1 or not made.rings.ask_for_kick(1)

        eventually(is_done, "the rings never say that they are done")
        assert sent == 1
        assert receive(far, 1) == [numbered(40, ethertype=GOOD)]
        assert made.guest.finish_sent() == 41
        assert made.count("rejected") == 40


def test_a_program_that_accepts_some_bytes_does_not_cut(
    near: RawSocket, far: RawSocket
) -> None:
    with card(filter=accept(1)) as made:
        made.guest.send(numbered(1, 500))
        assert made.send(near) == 1
        assert receive(far, 1) == [numbered(1, 500)]


def test_a_frame_that_ends_before_the_bytes_in_question_is_rejected(
    near: RawSocket,
) -> None:
    with card(filter=only_last(0x1234, 100)) as made:
        made.guest.send(numbered(1, 101))
        assert made.send(near) == 0
        assert made.guest.finish_sent() == 1
        assert made.counted == {"batches": 1, "rejected": 1}


def test_the_program_sees_the_length_of_the_whole_frame(
    near: RawSocket, far: RawSocket
) -> None:
    longer = program(
        (0x80, 0, 0, 0),  # ld len
        (0x25, 0, 1, 1000),  # jgt #1000
        (RET, 0, 0, 1),
        (RET, 0, 0, 0),
    )
    with card(filter=longer) as made:
        for size in (1000, 1001, 1514):
            made.guest.send(numbered(size, size))
        assert made.send(near) == 2
        assert receive(far, 2) == [numbered(1001, 1001), numbered(1514, 1514)]


def test_frames_that_were_not_accepted_are_not_sent_later(
    near: RawSocket, far: RawSocket
) -> None:
    """Not even if the memory table is replaced after the decision."""
    with card(filter=only(GOOD)) as made:
        made.guest.send(numbered(1, ethertype=BAD))
        made.guest.send(numbered(2, 3000, ethertype=GOOD))
        made.guest.send(numbered(3, ethertype=BAD))
        made.guest.send(numbered(4, ethertype=GOOD))
        with pytest.raises(OSError, match="3,000 bytes"):
            made.rings.send(near)
        made.link.share()
        with pytest.raises(OSError, match="3,000 bytes"):
            made.rings.send(near)
        made.rings.refuse()
        assert made.send(near) == 1
        assert receive(far, 1) == [numbered(4, ethertype=GOOD)]
        assert made.guest.finish_sent() == 4
