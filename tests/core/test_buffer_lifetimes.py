"""How long a batch keeps the caller's memory pinned."""

import gc
import mmap
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from support import WAIT
from support.calls import eventually
from support.frames import datagram_pair
from support.memory import resizable, shared_memory, zeros

from rawmmsg import PacketBatch

SIZE = 256


# Views and calls


HOLDERS: dict[str, Callable[[PacketBatch], Any]] = {
    "batch": lambda batch: batch,
    "packet": lambda batch: batch[0],
    "part": lambda batch: batch[0][:1],
    "lengths": lambda batch: batch.lengths,
    "matrix": lambda batch: memoryview(batch),
    "array": lambda batch: numpy.asarray(batch),
    "iterator": lambda batch: iter(batch),
    "another batch": lambda batch: PacketBatch(1, 4, buffer=batch[0]),
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_bytearray_is_resizable_when_the_last_view_is_gone(
    hold: Callable[[PacketBatch], Any],
) -> None:
    memory = bytearray(2048)
    batch = PacketBatch(buffer=memory)
    batch.append(b"packet")
    holder = hold(batch)
    del batch
    with pytest.raises(BufferError):
        memory.clear()
    assert memory[:6] == b"packet"
    del holder
    memory.clear()


@pytest.mark.parametrize("hold", [HOLDERS["batch"], HOLDERS["packet"]])
def test_scattered_bytearrays_are_resizable_when_the_last_view_is_gone(
    hold: Callable[[PacketBatch], Any],
) -> None:
    """A view of one packet pins the buffers of all."""
    buffers = [bytearray(64), bytearray(64)]
    batch = PacketBatch(buffers=buffers)
    batch.append(b"packet")
    holder = hold(batch)
    del batch
    assert not any(map(resizable, buffers))
    del holder
    assert all(map(resizable, buffers))


def test_released_view_pins_nothing() -> None:
    memory = bytearray(2048)
    batch = PacketBatch(buffer=memory)
    batch.append(b"packet")
    view = batch[0]
    del batch
    assert not resizable(memory)
    view.release()
    assert resizable(memory)


def test_mmap_cannot_be_closed_while_a_batch_uses_it() -> None:
    memory = mmap.mmap(-1, 4096)
    batch = PacketBatch(buffer=memory)
    with pytest.raises(BufferError):
        memory.close()
    with pytest.raises(BufferError):
        memory.resize(8192)
    del batch
    memory.close()


def test_shared_memory_cannot_be_closed_while_a_batch_uses_it() -> None:
    with shared_memory(2048) as memory:
        batch = PacketBatch(1, buffer=memory.buf)
        with pytest.raises(BufferError):
            memory.close()
        del batch
        memory.close()


def test_batch_keeps_its_memory_alive() -> None:
    """Frames stay valid if only the batch refers to the memory."""
    batch = PacketBatch(1, SIZE, buffer=zeros(SIZE, "u1"))
    batch.append(b"packet")
    view = batch[0]
    del batch
    assert bytes(view) == b"packet"


@pytest.mark.parametrize("call", ["recvmmsg_into", "recv_into"])
def test_memory_is_pinned_while_a_receive_waits(call: str) -> None:
    """Memory that the kernel may write to is not freed, even if nothing else
    refers to it."""
    memory = bytearray(2048)
    sender, receiver = datagram_pair()
    receiver.settimeout(WAIT)

    def work() -> None:
        if call == "recvmmsg_into":
            receiver.recvmmsg_into(PacketBatch(buffer=memory))
        else:
            receiver.recv_into(memory)

    thread = threading.Thread(target=work)
    with sender, receiver:
        thread.start()
        try:
            eventually(lambda: not resizable(memory), "memory is not pinned")
            assert not resizable(memory)
        finally:
            sender.send(b"packet")
            thread.join()
    assert memory[:6] == b"packet"
    assert resizable(memory), "memory stays pinned after the call"


@pytest.mark.parametrize(
    "call", ["sendmmsg", "sendmmsg_all", "send", "gather"]
)
def test_memory_is_pinned_while_a_send_waits(call: str) -> None:
    memory = bytearray(b"packet")
    receiver, sender = datagram_pair()

    def work() -> None:
        if call == "send":
            sender.send(memory)
        elif call == "gather":
            sender.sendmmsg([(b"<", memory, b">")])
        else:
            getattr(sender, call)([memory])

    thread = threading.Thread(target=work)
    with sender, receiver:
        receiver.settimeout(WAIT)
        sender.setblocking(False)
        waiting = 0
        with pytest.raises(BlockingIOError):
            while True:
                sender.send(b"before")
                waiting += 1
        sender.settimeout(WAIT)
        thread.start()
        try:
            eventually(lambda: not resizable(memory), "memory is not pinned")
            for _ in range(waiting):
                assert receiver.recv(100) == b"before"
        finally:
            thread.join()
        assert b"packet" in receiver.recv(100)
    assert resizable(memory), "memory stays pinned after the call"


def test_batch_over_another_batchs_frame_pins_it() -> None:
    outer = PacketBatch(2, 2048, buffer=bytearray(4096))
    outer.set_count(2)
    outer.lengths[1] = 2048
    inner = PacketBatch(4, 512, buffer=outer[1])
    del outer
    inner.append(b"packet")
    assert inner.tolist() == [b"packet"]


# Cycles


class Memory(bytearray):
    """A bytearray that can refer to its batch."""

    held: Any


# The garbage collector does not track numpy's arrays.
FLAT = ["batch", "packet", "part", "lengths", "iterator", "another batch"]


@pytest.mark.parametrize(
    ("scattered", "names"),
    [(False, [name]) for name in [*FLAT, "matrix"]]
    + [(True, [name]) for name in FLAT]
    + [(False, [*FLAT, "matrix"]), (True, FLAT)],
)
def test_cycle_through_the_memory_is_collected(
    scattered: bool, names: list[str]
) -> None:
    memory = Memory(2048)
    batch = (
        PacketBatch(buffers=[bytearray(64), memory])
        if scattered
        else PacketBatch(buffer=memory)
    )
    batch.append(b"packet")
    memory.held = [HOLDERS[name](batch) for name in names]
    reference = weakref.ref(memory)
    del memory, batch
    gc.collect()
    assert reference() is None, "the cycle is not collected"


def test_memory_of_a_cycle_stays_while_a_view_outside_does() -> None:
    memory = Memory(2048)
    memory.held = PacketBatch(buffer=memory)
    memory.held.append(b"packet")
    view = memory.held[0]
    reference = weakref.ref(memory)
    del memory
    gc.collect()
    assert reference() is not None
    assert bytes(view) == b"packet"
    del view
    gc.collect()
    assert reference() is None


def test_frames_are_valid_in_finalizers_of_a_cycle() -> None:
    """The collector does not free memory that a view still uses."""
    seen: list[bytes] = []

    class Finalized(bytearray):
        held: Any

        def __del__(self) -> None:
            batch, view = self.held
            seen.append(bytes(view))
            batch.append(b"more")
            seen.extend(batch.tolist())

    memory = Finalized(64)
    batch = PacketBatch(2, 32, buffer=memory)
    batch.append(b"packet")
    memory.held = (batch, batch[0])
    del memory, batch
    gc.collect()
    assert seen == [b"packet", b"packet", b"more"]
