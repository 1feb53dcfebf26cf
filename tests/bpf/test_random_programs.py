"""Random programs: the kernel accepts and refuses the same ones as
``Program``, and its verdict on a packet is that of ``accept_length()``.
"""

from __future__ import annotations

import random
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from bpfkit import kernel, machine, packets, randomly
from bpfkit.effort import Effort
from bpfkit.effort import effort as effort
from hypothesis import strategies as st
from support import WAIT
from support.linux import ETH_P_ALL
from support.programs import program as assemble

from rawmmsg.bpf import Program
from rawmmsg.bpf import opcodes as op
from rawmmsg.testing import Veth

SOL_PACKET, PACKET_AUXDATA, VLAN_VALID = 263, 8, 0x10
ARPHRD_ETHER = 1
SKF_AD_MARK, SKF_AD_RXHASH = 20, 32

SEEDS = st.integers(0, 2**32)
# The metadata of a datagram on a socketpair is 0, and it has no interface.
NOTHING_BESIDE = {op.SKF_AD_PROTOCOL: 0}
FIELDS_OF_A_DATAGRAM = (
    *(op.SKF_AD_PROTOCOL, op.SKF_AD_PKTTYPE, op.SKF_AD_IFINDEX),
    *(SKF_AD_MARK, op.SKF_AD_HATYPE, SKF_AD_RXHASH),
    *(op.SKF_AD_ALU_XOR_X, op.SKF_AD_VLAN_TAG, op.SKF_AD_VLAN_TAG_PRESENT),
    op.SKF_AD_VLAN_TPID,
)
FIELDS_OF_A_FRAME = tuple(
    field for field in FIELDS_OF_A_DATAGRAM if field != SKF_AD_RXHASH
)


@pytest.fixture
def filtered() -> Iterator[kernel.Filtered]:
    with kernel.Filtered() as filtered:
        yield filtered


def datagrams(rng: random.Random) -> Iterator[bytes]:
    """Of lengths around the 64 bytes that a program can accept."""
    for length in (64, 65, 80, 200, rng.randrange(1, 64)):
        yield rng.randbytes(length)
    yield bytes(64)


@pytest.mark.no_network
def test_the_kernel_refuses_the_same_programs(
    filtered: kernel.Filtered, effort: Effort
) -> None:
    def check(seed: int) -> None:
        rng = random.Random(seed)
        maker = randomly.Maker(rng, FIELDS_OF_A_DATAGRAM, special=True)
        program = maker.program()
        filtered.attach(Program.from_instructions(program))
        for _ in range(20):
            changed = randomly.spoiled(rng, program)
            try:
                filtered.attach(assemble(*changed))
            except OSError:
                with pytest.raises(ValueError, match=r"instruction"):
                    Program.from_instructions(changed)
            else:
                Program.from_instructions(changed)

    effort.check(150, check, SEEDS)


@pytest.mark.no_network
def test_the_kernel_has_the_same_verdict_on_a_datagram(
    filtered: kernel.Filtered, effort: Effort
) -> None:
    def check(seed: int) -> None:
        rng = random.Random(seed)
        maker = randomly.Maker(rng, FIELDS_OF_A_DATAGRAM, special=False)
        program = Program.from_instructions(maker.program())
        filtered.attach(program)
        for packet in datagrams(rng):
            accepted = program.accept_length(packet, ancillary=NOTHING_BESIDE)
            foretold = packet[:accepted] if accepted else None
            assert filtered.delivered(packet) == foretold, (
                f"accept_length() is {accepted}, as in the kernel, for "
                f"{packet.hex()} and\n{program.disassemble()}"
            )
            beside = machine.Ancillary()
            if not reads_more(program):
                again = machine.run(
                    program.instructions, packet, None, beside
                )[0]
                assert again == accepted, "so says the second interpreter"

    effort.check(600, check, SEEDS)


def reads_more(program: Program) -> bool:
    """Whether it loads a field that the second interpreter does not have."""
    return any(
        item.k - op.SKF_AD_OFF
        in (SKF_AD_MARK, SKF_AD_RXHASH, op.SKF_AD_ALU_XOR_X)
        or item.k == op.SKF_AD_OFF + op.SKF_AD_HATYPE
        for item in program.instructions
    )


@pytest.mark.no_network
def test_random_programs_execute_every_opcode() -> None:
    """So the tests of this file say something about each of them."""
    executed: set[int] = set()
    for seed in range(600):
        rng = random.Random(seed)
        maker = randomly.Maker(rng, FIELDS_OF_A_DATAGRAM, special=False)
        program = Program.from_instructions(maker.program())
        for packet in datagrams(rng):
            trace: list[int] = []
            program.accept_length(packet, trace=trace)
            codes = [item.code for item in program.instructions]
            executed |= {codes[place] for place in trace}
    assert executed == set(randomly.OPCODES)


class Arrived(NamedTuple):
    """A frame as a packet socket delivers it."""

    frame: bytes
    tag: tuple[int, int] | None
    packet_type: int


class Receiver:
    """Two packet sockets on one interface, one of them with a filter.

    The kernel passes a frame to the socket that was bound last first. So when
    the socket without a filter has the frame, the other one has seen it.
    """

    def __init__(self, interface: str, stack: ExitStack) -> None:
        self.ifindex = socket.if_nametoindex(interface)
        self.sockets = [
            stack.enter_context(
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            )
            for _ in range(2)
        ]
        for sock in self.sockets:
            sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            sock.bind((interface, ETH_P_ALL))

    def everything(self) -> Arrived:
        """The next frame; waits for it."""
        whole = self.sockets[0]
        assert select.select([whole], [], [], WAIT)[0], "the frame arrives"
        frame, messages, _, address = whole.recvmsg(1 << 16, 256)
        ((_, _, data),) = messages
        status, *_, tci, tpid = struct.unpack("IIIHHHH", data)
        tag = (tci, tpid) if status & VLAN_VALID else None
        return Arrived(frame, tag, address[2])

    def delivered(self) -> bytes | None:
        """What the filter has let through of this frame."""
        try:
            return self.sockets[1].recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None


# With tags and without, all longer than 64 bytes.
FRAMES = [
    frame.ljust(80, b"\xa5")
    for name, frame in sorted(packets.ethernet_frames().items())
    if len(frame) < 1000 and (name.startswith(("vlan", "qinq", "ip")))
][::4]


def test_the_kernel_has_the_same_verdict_on_a_frame(
    pair: Veth, effort: Effort
) -> None:
    with ExitStack() as stack:
        receiver = Receiver(pair.b, stack)
        sender = stack.enter_context(
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        )
        sender.bind((pair.a, 0))

        def check(seed: int) -> None:
            rng = random.Random(seed)
            maker = randomly.Maker(rng, FIELDS_OF_A_FRAME, special=True)
            program = Program.from_instructions(maker.program())
            kernel.attach(receiver.sockets[1], program)
            for frame in rng.sample(FRAMES, 5):
                sender.send(frame)
                seen = receiver.everything()
                accepted = program.accept_length(
                    seen.frame,
                    vlan=seen.tag,
                    packet_type=seen.packet_type,
                    ifindex=receiver.ifindex,
                    ancillary={op.SKF_AD_HATYPE: ARPHRD_ETHER},
                )
                foretold = seen.frame[:accepted] if accepted else None
                assert receiver.delivered() == foretold, (
                    f"accept_length() is {accepted}, as in the kernel, for "
                    f"{seen} and\n{program.disassemble()}"
                )

        effort.check(300, check, SEEDS)
