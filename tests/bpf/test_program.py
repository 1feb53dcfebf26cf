"""``Program``: an immutable array of instructions, to show and to run."""

from __future__ import annotations

import copy
import pickle

import numpy
import pytest
from bpfkit import oracle, packets
from bpfkit.names import fixed_names as fixed_names
from bpfkit.oracle import Pair

from rawmmsg import bpf
from rawmmsg.bpf import FilterError, Program
from rawmmsg.bpf import opcodes as op

pytestmark = pytest.mark.no_network

EXPRESSIONS = (
    "",
    "tcp port 80",
    "vlan and ip",
    "inbound",
    "ip[8] + ip[9] > 5",
    "host 2001:db8::1",
)
ACCEPT_ALL = "{ 0x6, 0, 0, 0x00040000 },"


def disassemblies() -> list[tuple[str, str, bool]]:
    """(expression, libpcap's text, whether it is the optimised program)."""
    text = (oracle.GOLDEN / "golden-disassembly.txt").read_text()
    _, *blocks = text.split("\n\n")
    split = [block.rstrip("\n").split("\n", 1) for block in blocks]
    return [
        (expression, listing, number % 2 == 0)
        for number, (expression, listing) in enumerate(split)
    ]


@pytest.mark.parametrize(
    ("expression", "listing", "optimised"), disassemblies()
)
def test_disassembly_is_that_of_tcpdump(
    expression: str, listing: str, optimised: bool
) -> None:
    answer = oracle.goldens().ask(expression)
    assert isinstance(answer, Pair)
    instructions = answer.optimised if optimised else answer.unoptimised
    assert instructions is not None
    program = Program.from_instructions(instructions)
    assert program.disassemble().rstrip() == listing, (
        "disassemble() prints what tcpdump -d prints"
    )
    assert program.dump("d") == program.disassemble(), (
        'dump("d") is disassemble()'
    )


def test_an_empty_expression_accepts_everything() -> None:
    program = bpf.compile("")
    assert program.dump("dd").strip() == ACCEPT_ALL, (
        'compile("") is one instruction that accepts'
    )
    for name, frame in packets.ethernet_frames().items():
        assert program.accept_length(frame) == 262144, (
            f"the empty expression accepts {name}"
        )


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_dumps_read_back(expression: str) -> None:
    program = bpf.compile(expression)
    ddd, dd = program.dump("ddd"), program.dump("dd")
    assert ddd.splitlines()[0] == str(len(program.instructions)), (
        "-ddd starts with the count"
    )
    assert Program.from_tcpdump(ddd) == program, (
        "from_tcpdump() reads what dump('ddd') wrote"
    )
    assert Program.from_tcpdump(dd) == program, (
        "from_tcpdump() reads what dump('dd') wrote"
    )
    assert Program.from_tcpdump(ddd.replace("\n", "\r\n")) == program, (
        "line ends do not matter"
    )


def test_the_output_of_tcpdump_is_read() -> None:
    """tcpdump -ddd 'ip' and tcpdump -dd 'ip', copied from a terminal."""
    ddd = "4\n40 0 0 12\n21 0 1 2048\n6 0 0 262144\n6 0 0 0\n"
    dd = (
        "{ 0x28, 0, 0, 0x0000000c },\n{ 0x15, 0, 1, 0x00000800 },\n"
        "{ 0x6, 0, 0, 0x00040000 },\n{ 0x6, 0, 0, 0x00000000 },\n"
    )
    assert Program.from_tcpdump(ddd) == Program.from_tcpdump(dd), (
        "both notations mean one program"
    )
    assert Program.from_tcpdump(ddd).dump("ddd").split() == ddd.split(), (
        "-ddd is written as tcpdump writes it"
    )
    assert Program.from_tcpdump(ddd).dump("dd").split() == dd.split(), (
        "-dd is written as tcpdump writes it"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "3\n6 0 0 1\n",
        "1\n6 0 0\n",
        "1\n6 0 0 1 2\n",
        "x\n6 0 0 1",
        "1\n6 0 -1 1\n",
        "1\n6 0 0 4294967296",
        "1\n6 256 0 1",
        "tcp port 80",
        "(000) ret #0",
        "{ 0x6, 0, 0 },",
        "{ 0x6, 0, 0, 0x1 }, junk",
        "0\n",
    ],
)
def test_text_that_is_not_a_dump_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Program.from_tcpdump(text)


def test_an_unknown_dump_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="dddd"):
        bpf.compile("tcp").dump("dddd")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_program_is_its_bytes(expression: str) -> None:
    program = bpf.compile(expression)
    again = Program(bytes(program))
    assert isinstance(program, bytes), "a program is bytes"
    assert again == program == bytes(program), "a program equals its bytes"
    assert hash(again) == hash(program) == hash(bytes(program)), (
        "equal programs have one hash"
    )
    assert len(program) == 8 * len(program.instructions), (
        "eight bytes make an instruction"
    )
    assert Program.from_instructions(program.instructions) == program, (
        "instructions make the program again"
    )
    assert memoryview(program).readonly, (
        "a program cannot be written through its buffer"
    )


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_program_can_be_pickled_and_copied(protocol: int) -> None:
    program = bpf.compile("tcp port 80")
    again = pickle.loads(pickle.dumps(program, protocol))
    assert type(again) is Program, "a pickled program is a Program again"
    assert again == program, "a pickled program is the same"
    assert copy.deepcopy(program) == program == copy.copy(program), (
        "copies are the same program"
    )


def test_a_program_cannot_be_changed() -> None:
    program = bpf.compile("tcp")
    with pytest.raises(TypeError):
        program[0] = 0  # type: ignore[index]
    with pytest.raises(AttributeError):
        program.instructions = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        program.note = "mine"  # type: ignore[attr-defined]


def test_the_repr_is_short_and_shows_the_size() -> None:
    program = bpf.compile("tcp port 80 or host 10.0.0.1")
    assert "Program" in repr(program), "the repr names the type"
    assert str(len(program.instructions)) in repr(program), (
        "the repr shows the number of instructions"
    )
    assert len(repr(program)) < 120, "the repr fits a line"


@pytest.mark.parametrize("data", [b"", b"\0", bytes(7), bytes(9)])
def test_bytes_that_are_not_an_array_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"empty|multiple|bytes"):
        Program(data)


RETURN = (6, 0, 0, 1)
FAULTS = {
    "the program is empty": [],
    "the program has 4097 instructions; the kernel accepts at most 4096": [
        *[RETURN] * 4097,
    ],
    "instruction 1: unknown opcode 0xffff": [RETURN, (0xFFFF, 0, 0, 0)],
    "instruction 0: the jump goes past the end": [(0x15, 1, 0, 0), RETURN],
    "instruction 0: division by zero": [(0x94, 0, 0, 0), RETURN],
    "instruction 0: a shift by 4294967295 bits": [
        (0x64, 0, 0, 2**32 - 1),
        RETURN,
    ],
    "instruction 0: there is no scratch word M[16]": [(3, 0, 0, 16), RETURN],
    "instruction 0: unknown ancillary data 62": [
        (0x20, 0, 0, op.SKF_AD_OFF + 62),
        RETURN,
    ],
    "the last instruction is not a return": [RETURN, (0x87, 0, 0, 0)],
    "instruction 2: M[15] is read before it is written": [
        (0x15, 0, 1, 5),
        (2, 0, 0, 15),
        (0x61, 0, 0, 15),
        (0x61, 0, 0, 3),
        RETURN,
    ],
    "instruction 1: M[3] is read before it is written": [
        (2, 0, 0, 15),
        (0x60, 0, 0, 3),
        (0x60, 0, 0, 12),
        RETURN,
    ],
}


@pytest.mark.parametrize(("reason", "instructions"), FAULTS.items())
def test_a_refused_program_has_a_fault_with_one_wording(
    reason: str, instructions: list[tuple[int, int, int, int]]
) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        Program.from_instructions(instructions)
    assert str(caught.value) == reason


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_matches_takes_any_buffer(kind: type[bytes]) -> None:
    frame = packets.ethernet_frames()["ip-tcp-http"]
    assert bpf.compile("tcp port 80").matches(kind(frame)), (
        f"matches() takes {kind.__name__}"
    )


def test_len_is_the_length_on_the_wire() -> None:
    program = bpf.compile("greater 1000")
    frame = packets.ethernet_frames()["ip-tcp-http"]
    assert not program.matches(frame), (
        "by default a packet is as long as its bytes"
    )
    assert program.matches(frame, wire_length=1000), (
        "a packet cut short keeps the length it had"
    )


@pytest.mark.parametrize("snaplen", [1, 96, 65535, 262144])
def test_the_snaplen_is_the_accepted_length(snaplen: int) -> None:
    frame = packets.ethernet_frames()["ip-tcp-http"]
    program = bpf.compile("tcp", snaplen=snaplen)
    assert program.accept_length(frame) == snaplen, (
        "an accepted packet is accepted up to snaplen bytes"
    )
    assert program.matches(frame) is True, "matches() says whether, not how"
    assert program.matches(b"") is False, "matches() says whether, not how"


@pytest.mark.parametrize("snaplen", [0, -1, 1 << 32])
def test_a_snaplen_that_accepts_nothing_is_refused(snaplen: int) -> None:
    with pytest.raises(ValueError, match="snaplen"):
        bpf.compile("tcp", snaplen=snaplen)


def test_the_same_expression_gives_the_same_program() -> None:
    first = [bpf.compile(expression) for expression in EXPRESSIONS]
    again = [bpf.compile(expression) for expression in reversed(EXPRESSIONS)]
    assert first == again[::-1], (
        "no state is left from one compilation to the next"
    )


@pytest.mark.parametrize(
    "expression",
    [
        *EXPRESSIONS,
        "greater 100",
        "len - 5 = 95 or len & 3 = 0",
        "ip[ip[0] - 60] = 0x45",
        "ether[0xffffffff] = 1 or arp",
        "udp port " + " or ".join(map(str, range(1, 60))),
    ],
)
@pytest.mark.parametrize("offset", [0, 8, 100])
def test_a_shifted_program_accepts_the_same_packets_behind_a_header(
    expression: str, offset: int
) -> None:
    program = bpf.compile(expression, live=False)
    shifted = program.shifted(offset)
    for name, frame in packets.ethernet_frames().items():
        for end in (len(frame), 40, 20):
            cut = frame[:end]
            assert shifted.accept_length(
                bytes(offset) + cut
            ) == program.accept_length(cut), f"{expression!r}: {name}"


def test_a_shifted_program_still_reads_what_is_beside_the_packet() -> None:
    shifted = bpf.compile("vlan 5 and inbound").shifted(8)
    frame = bytes(8) + packets.ethernet_frames()["ip-tcp-http"]
    assert shifted.matches(frame, vlan=5, packet_type=0), (
        "offsets of ancillary data are not shifted"
    )


def test_a_program_that_cannot_be_shifted_is_an_error() -> None:
    length_in_x = Program.from_instructions([(0x81, 0, 0, 0), (6, 0, 0, 1)])
    with pytest.raises(FilterError, match="length of the packet into X"):
        length_in_x.shifted(8)
    load_length, far = (0x80, 0, 0, 0), (0x15, 0, 255, 5)
    rest = [load_length] * 255 + [(6, 0, 0, 1), (6, 0, 0, 0)]
    too_far = Program.from_instructions([far, *rest])
    with pytest.raises(FilterError, match="more than 255 instructions"):
        too_far.shifted(8)


@pytest.mark.parametrize("offset", [-1, -13, -4108, 2**16, 2**40])
def test_a_shift_out_of_all_packets_is_an_error(offset: int) -> None:
    with pytest.raises(ValueError, match="offset must be 0 to 65535"):
        bpf.compile("ip").shifted(offset)
    with pytest.raises(TypeError):
        bpf.compile("ip").shifted(1.5)  # type: ignore[arg-type]
    shifted = bpf.compile("ip").shifted(numpy.uint8(8))  # type: ignore[arg-type]
    assert shifted == bpf.compile("ip").shifted(8)


def test_a_load_behind_all_packets_is_shifted_to_none() -> None:
    """SKF_LL_OFF follows: an offset from the beginning of the packet."""
    beyond = op.SKF_LL_OFF - 1
    program = Program.from_instructions(
        [(0x30, 0, 0, beyond), (6, 0, 0, 1)]  # ldb, ret
    )
    assert not program.matches(bytes(64))
    assert not program.shifted(8).matches(bytes(64))


@pytest.mark.parametrize("packet", [64, -1, None, "text", [69, 0]])
def test_only_a_buffer_is_a_packet(packet: object) -> None:
    with pytest.raises(TypeError, match="bytes-like object"):
        bpf.compile("").matches(packet)  # type: ignore[arg-type]


def test_a_vlan_of_any_kind_of_int() -> None:
    frame = packets.ethernet_frames()["ip-tcp-http"]
    assert bpf.compile("vlan 5").matches(
        frame,
        vlan=numpy.uint16(5),  # type: ignore[arg-type]
    )
    with pytest.raises(TypeError, match="'str' object cannot be"):
        bpf.compile("vlan 5").matches(frame, vlan="5")  # type: ignore[arg-type]


def test_instructions_have_names() -> None:
    instruction = bpf.compile("ip").instructions[0]
    fields = (instruction.code, instruction.jt, instruction.jf, instruction.k)
    assert instruction == fields == (0x28, 0, 0, 12), (
        "an instruction is a tuple (code, jt, jf, k): the first of 'ip' is "
        "ldh [12]"
    )
