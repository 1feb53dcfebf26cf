"""Random programs: the kernel accepts and refuses the same ones as
``Program``, and its verdict on a packet is that of ``accept_length()``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from bpfkit import kernel, machine, randomly
from bpfkit.effort import Effort
from bpfkit.effort import effort as effort
from hypothesis import strategies as st
from support.programs import program as assemble

from rawmmsg.bpf import Program
from rawmmsg.bpf import opcodes as op

pytestmark = pytest.mark.no_network

SKF_AD_MARK, SKF_AD_RXHASH = 20, 32

SEEDS = st.integers(0, 2**32)
# The metadata of a datagram on a socketpair is 0, and it has no interface.
NOTHING_BESIDE = {op.SKF_AD_PROTOCOL: 0}
FIELDS = (
    *(op.SKF_AD_PROTOCOL, op.SKF_AD_PKTTYPE, op.SKF_AD_IFINDEX),
    *(SKF_AD_MARK, op.SKF_AD_HATYPE, SKF_AD_RXHASH),
    *(op.SKF_AD_ALU_XOR_X, op.SKF_AD_VLAN_TAG, op.SKF_AD_VLAN_TAG_PRESENT),
    op.SKF_AD_VLAN_TPID,
)
# Offsets that the second interpreter does not know.
UNKNOWN = {
    op.SKF_AD_OFF + field
    for field in (SKF_AD_MARK, SKF_AD_RXHASH, op.SKF_AD_ALU_XOR_X)
}


@pytest.fixture
def filtered() -> Iterator[kernel.Filtered]:
    with kernel.Filtered() as filtered:
        yield filtered


def datagrams(rng: random.Random) -> Iterator[bytes]:
    """Of lengths around the 64 bytes that a program can accept."""
    for length in (64, 65, 80, 200, rng.randrange(1, 64)):
        yield rng.randbytes(length)
    yield bytes(64)


def test_the_kernel_refuses_the_same_programs(
    filtered: kernel.Filtered, effort: Effort
) -> None:
    def check(seed: int) -> None:
        rng = random.Random(seed)
        maker = randomly.Maker(rng, FIELDS, special=True)
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


def test_the_kernel_has_the_same_verdict_on_a_datagram(
    filtered: kernel.Filtered, effort: Effort
) -> None:
    def check(seed: int) -> None:
        rng = random.Random(seed)
        maker = randomly.Maker(rng, FIELDS, special=False)
        program = Program.from_instructions(maker.program())
        beside = {item.k for item in program.instructions}
        filtered.attach(program)
        for packet in datagrams(rng):
            accepted = program.accept_length(packet, ancillary=NOTHING_BESIDE)
            foretold = packet[:accepted] if accepted else None
            assert filtered.delivered(packet) == foretold, (
                f"accept_length() is {accepted}, as in the kernel, for "
                f"{packet.hex()} and\n{program.disassemble()}"
            )
            if beside.isdisjoint(UNKNOWN):
                again, _ = machine.run(
                    program.instructions, packet, None, machine.Ancillary()
                )
                assert again == accepted, "so says the second interpreter"

    effort.check(600, check, SEEDS)


def test_random_programs_execute_every_opcode() -> None:
    """So the tests of this file say something about each of them."""
    executed: set[int] = set()
    for seed in range(600):
        rng = random.Random(seed)
        maker = randomly.Maker(rng, FIELDS, special=False)
        program = Program.from_instructions(maker.program())
        for packet in datagrams(rng):
            trace: list[int] = []
            program.accept_length(packet, trace=trace)
            codes = [item.code for item in program.instructions]
            executed |= {codes[place] for place in trace}
    assert executed == set(randomly.OPCODES)
