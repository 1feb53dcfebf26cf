"""The system calls that move a guest's frames, as strace(1) shows them."""

from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from support.system_calls import between, trace

from rawmmsg.testing import Veth

BATCHES: Final = 200
# Of the memory allocators of C and Python, which are made now and then.
MEMORY: Final = {"brk", "mmap", "munmap", "madvise", "mremap", "mprotect"}

GUEST: Final = """
    from support.frames import numbered
    from support.guest_cards import card
    from support.guest_driver import RECEIVE, TRANSMIT
    from support.linux import same_socket
    from support.programs import accept

    near = RawSocket(B, vnet_hdr=True, ignore_outgoing=True)
    near.setblocking(False)
    queue = same_socket(near)
    FRAMES = [numbered(i, 60 + 20 * (i % 64)) for i in range(64)]

    def send_all(made):
        for frame in FRAMES:
            made.guest.send(frame, flush=False)
        made.guest.flush(TRANSMIT)
"""


def calls(
    directory: Path, pair: Veth, code: str, *options: str
) -> Counter[str]:
    """Counts the system calls between two marks, except those of MEMORY, which
    the guest's side needs, too."""
    options = options or ("-e", "raw=sendmmsg,recvmmsg")
    lines = trace(directory, pair, GUEST + code, *options)
    counts = between(lines, 'begin"', 'end"')
    for name in MEMORY:
        del counts[name]
    return counts


@pytest.mark.parametrize("filter", ["None", "accept()"])
def test_a_batch_of_the_guest_is_one_sendmmsg(
    tmp_path: Path, pair: Veth, filter: str
) -> None:
    code = f"""
    with card(filter={filter}) as made:
        made.guest.transmit.refuse_calls()
        send_all(made)
        made.rings.send(near)
        mark("begin")
        for _ in range({BATCHES}):
            made.guest.finish_sent()
            made.guest.transmit.refuse_calls()
            send_all(made)
            assert made.rings.send(near) == 64
            assert not made.rings.ask_for_kick(TRANSMIT)
        mark("end")
    """
    assert calls(tmp_path, pair, code) == {"sendmmsg": BATCHES}


def test_a_batch_for_the_guest_is_one_recvmmsg(
    tmp_path: Path, pair: Veth
) -> None:
    """Into the guest's buffers: no frame is copied in user space."""
    code = f"""
    def give_all(made):
        made.guest.receive.refuse_calls()
        sender.sendmmsg(FRAMES)
        wait_for(queue, 64)
        received = 0
        while received < 64:
            received += made.rings.receive(near)
        assert [one.frame for one in made.guest.received()] == FRAMES

    with card(size=1024) as made:
        made.guest.post([1536] * 512)
        give_all(made)
        mark("begin")
        for _ in range({BATCHES}):
            give_all(made)
        mark("end")
        assert made.count("moved") == made.count("spilled") == 0
    """
    counts = calls(tmp_path, pair, code)
    # The kernel counts the memory of a packet just before it queues it, so a
    # receive may miss the last packet of a batch.
    assert BATCHES <= counts["recvmmsg"] <= BATCHES * 1.05
    assert counts["sendmmsg"] == BATCHES, "the test's own"
    assert set(counts) == {"sendmmsg", "recvmmsg"}, "there are other calls"


def test_a_guest_without_buffers_costs_no_call(
    tmp_path: Path, pair: Veth
) -> None:
    code = """
    with card() as made:
        sender.sendmmsg(FRAMES)
        wait_for(queue, 64)
        mark("begin")
        for _ in range(100):
            assert made.rings.receive(near) == 0
            assert made.rings.is_full
            assert not made.rings.ask_for_kick(RECEIVE)
            assert made.rings.send(near) == 0
        mark("end")
    """
    assert calls(tmp_path, pair, code) == {}


def test_a_batch_has_one_notification_at_most(
    tmp_path: Path, pair: Veth
) -> None:
    code = f"""
    with card() as made:
        mark("begin")
        for _ in range({BATCHES}):
            send_all(made)
            made.guest.transmit.ask_for_call()
            assert made.rings.send(near) == 64
            made.guest.finish_sent()
        mark("end")
        assert made.link.calls(TRANSMIT) == {BATCHES}
    """
    counts = calls(tmp_path, pair, code)
    assert counts["sendmmsg"] == counts["io_submit"] == BATCHES
    # Completions are read now and then.
    assert counts["io_getevents"] <= BATCHES / 32
    assert set(counts) <= {"sendmmsg", "io_submit", "io_getevents"}


@pytest.mark.parametrize("refused", [False, True])
def test_a_notification_does_not_write_to_a_full_eventfd(
    tmp_path: Path, pair: Veth, refused: bool
) -> None:
    """write(2) would wait for as long as the front end likes. io_submit(2)
    does not, and if the kernel refuses io_setup(2), poll(2) shows that the
    eventfd is full."""
    code = """
    full = os.eventfd(0)
    os.eventfd_write(full, 2**64 - 2)
    with card() as made:
        made.rings.set_call(TRANSMIT, full)
        mark("begin")
        for _ in range(100):
            made.guest.send(FRAMES[0])
            made.guest.transmit.ask_for_call()
            assert made.rings.send(near) == 1
            made.guest.finish_sent()
        mark("end")
        made.rings.set_call(TRANSMIT, made.link.call_descriptor(TRANSMIT))
        made.guest.send(FRAMES[0])
        made.guest.transmit.ask_for_call()
        made.rings.send(near)
        assert made.link.calls(TRANSMIT) == 1
    """
    options = ("-e", "inject=io_setup:error=EAGAIN") if refused else ()
    counts = calls(tmp_path, pair, code, "-e", "raw=sendmmsg", *options)
    assert counts["sendmmsg"] == 100
    if refused:
        assert counts["poll"] + counts["ppoll"] == 100
    else:
        assert counts["io_submit"] == 100
    assert counts["write"] == 0


def test_rings_that_are_made_again_do_not_wait_for_the_kernel(
    tmp_path: Path, pair: Veth
) -> None:
    """io_destroy(2) waits for tens of milliseconds."""
    code = """
    def make(count):
        for _ in range(count):
            with card(), card():
                pass

    make(1)
    mark("begin")
    make(10)
    mark("end")
    """
    counts = calls(tmp_path, pair, code)
    assert counts["openat"] == 20, "each of them opens /dev/null"
    assert counts["io_setup"] == counts["io_destroy"] == 0


def test_batches_of_other_ports_cost_no_call(
    tmp_path: Path, pair: Veth
) -> None:
    """Frames between two guests are copied; only notifications are calls."""
    code = f"""
    from rawmmsg import SUPER_FRAME
    batch = PacketBatch(64, SUPER_FRAME)
    with card() as one, card() as other:
        other.guest.post([1536] * 256)
        for queue in (one.guest.transmit, other.guest.receive):
            queue.refuse_calls()
        send_all(one)
        one.rings.recvmmsg_into(batch)
        other.rings.sendmmsg(batch)
        mark("begin")
        for _ in range({BATCHES}):
            one.guest.finish_sent()
            other.guest.received()
            for queue in (one.guest.transmit, other.guest.receive):
                queue.refuse_calls()
            send_all(one)
            assert one.rings.recvmmsg_into(batch) == 64
            assert other.rings.sendmmsg(batch) == 64
        mark("end")
    """
    assert calls(tmp_path, pair, code) == {}
