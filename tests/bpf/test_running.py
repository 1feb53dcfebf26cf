"""``Program.accept_length()`` over a packet in memory: what it reads of the
packet and of what is beside it, and what it refuses.
"""

from __future__ import annotations

import numpy
import pytest
from bpfkit import packets
from bpfkit.names import fixed_names as fixed_names

from rawmmsg import _rawmmsg, bpf
from rawmmsg.bpf import Program
from rawmmsg.bpf import opcodes as op

pytestmark = pytest.mark.no_network

ABSOLUTE = {1: 0x30, 2: 0x28, 4: 0x20}
INDIRECT = {1: 0x50, 2: 0x48, 4: 0x40}
REST = bytes(range(1, 100))


def loading(code: int, k: int, x: int = 0) -> Program:
    """Returns what it loads. With X of `x`, and A of 77 before."""
    return Program.from_instructions(
        [(0x00, 0, 0, 77), (0x01, 0, 0, x), (code, 0, 0, k), (0x16, 0, 0, 0)]
    )


def field(offset: int) -> Program:
    return loading(ABSOLUTE[4], op.SKF_AD_OFF + offset)


def number_at(offset: int, size: int) -> int:
    return int.from_bytes(REST[offset : offset + size], "big")


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("length", [*range(6), 50])
def test_a_load_ends_at_the_end_of_the_packet(size: int, length: int) -> None:
    packet = REST[:length]
    for offset in (*range(8), 48, 49, 50, 51, 2**31 - 1):
        wanted = number_at(offset, size) if offset + size <= length else 0
        programs = (
            loading(ABSOLUTE[size], offset),
            loading(INDIRECT[size], 0, x=offset),
            loading(INDIRECT[size], offset),
            # The sum is taken in 32 bits.
            loading(INDIRECT[size], (offset - 9) & 0xFFFFFFFF, x=9),
        )
        for program in programs:
            assert program.accept_length(packet) == wanted, (
                f"{size} bytes at {offset} of {length}"
            )


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("network_offset", [0, 14, 46, 47, 50, 51, 2**80, -1])
def test_offsets_from_the_network_header(
    size: int, network_offset: int
) -> None:
    packet = REST[:50]
    for offset in (0, 1, 2, 3, 4, 36, 2**20 - 1):
        start = network_offset + offset
        inside = network_offset >= 0 and start + size <= len(packet)
        wanted = number_at(start, size) if inside else 0
        for program in (
            # (0xFFF00000 + 2**20 - 1 is the last number of 32 bits, and
            # ancillary data if it is not indirect.)
            loading(INDIRECT[size], op.SKF_NET_OFF + offset),
            loading(ABSOLUTE[size], op.SKF_NET_OFF + min(offset, 2**16)),
        ):
            got = program.accept_length(packet, network_offset=network_offset)
            assert got == wanted, f"{size} bytes at {offset} behind the header"


@pytest.mark.parametrize("size", [1, 2, 4])
def test_offsets_from_the_link_header(size: int) -> None:
    packet = REST[:50]
    for offset in (0, 1, 46, 47, 48, 49, 50, 2**20 - 1):
        inside = offset + size <= len(packet)
        wanted = number_at(offset, size) if inside else 0
        for code in (ABSOLUTE[size], INDIRECT[size]):
            program = loading(code, op.SKF_LL_OFF + offset)
            assert program.accept_length(packet) == wanted, (
                f"{size} bytes at {offset} behind the beginning"
            )
    between = loading(ABSOLUTE[size], op.SKF_LL_OFF - 1)
    assert between.accept_length(packet) == 0, "nothing is there"


@pytest.mark.parametrize(
    ("frame", "protocol"),
    [
        (bytes(12) + b"\x08\x00", 0x0800),
        (bytes(12) + b"\x06\x00", 0x0600),
        (bytes(12) + b"\x05\xff\xff\xfe", 4),
        (bytes(12) + b"\x05\xff\xff\xff", 1),
        (bytes(12) + b"\x05\xff", 4),
        (bytes(12) + b"\x08", 0),
        (b"", 0),
    ],
)
def test_the_protocol_is_that_of_the_ethernet_header(
    frame: bytes, protocol: int
) -> None:
    """net/ethernet/eth.c:eth_type_trans(): ETH_P_802_3 is 1 and ETH_P_802_2
    is 4, for frames whose header has a length."""
    program = field(op.SKF_AD_PROTOCOL)
    assert program.accept_length(frame) == protocol
    given = {op.SKF_AD_PROTOCOL: 0x9000}
    assert program.accept_length(frame, ancillary=given) == 0x9000, (
        "a given value takes precedence"
    )


def test_a_field_without_a_value_is_zero() -> None:
    known = (op.SKF_AD_PROTOCOL, op.SKF_AD_ALU_XOR_X, op.SKF_AD_RANDOM)
    for offset in range(0, 64, 4):
        if offset not in known:
            got = field(offset).accept_length(REST, ifindex=0)
            assert got == 0, f"the field {offset}"


def test_without_an_interface_the_program_returns_what_it_had() -> None:
    """net/core/filter.c:convert_bpf_extensions()."""
    for offset in (op.SKF_AD_IFINDEX, op.SKF_AD_HATYPE):
        assert field(offset).accept_length(REST) == 77
    hatype = field(op.SKF_AD_HATYPE)
    known = {op.SKF_AD_HATYPE: 1}
    assert hatype.accept_length(REST, ancillary=known) == 1
    known = {op.SKF_AD_IFINDEX: 5}
    assert hatype.accept_length(REST, ancillary=known) == 0


def test_arguments_replace_ancillary_values() -> None:
    values = dict.fromkeys(range(0, 64, 4), 9)
    wanted = {
        op.SKF_AD_PKTTYPE: 4,
        op.SKF_AD_IFINDEX: 3,
        op.SKF_AD_VLAN_TAG: 5,
        op.SKF_AD_VLAN_TAG_PRESENT: 1,
        op.SKF_AD_VLAN_TPID: 0x8100,
        op.SKF_AD_ALU_XOR_X: 77 ^ 0,
    }
    for offset in range(0, 64, 4):
        got = field(offset).accept_length(
            REST, vlan=5, packet_type=4, ifindex=3, ancillary=values
        )
        assert got == wanted.get(offset, 9), f"the field {offset}"
    tagged = field(op.SKF_AD_VLAN_TPID)
    assert tagged.accept_length(REST, vlan=(5, 0x88A8)) == 0x88A8
    assert values == dict.fromkeys(range(0, 64, 4), 9), "it only reads them"


def test_random_numbers_differ() -> None:
    program = field(op.SKF_AD_RANDOM)
    numbers = {program.accept_length(b"") for _ in range(20)}
    assert len(numbers) > 10
    known = {op.SKF_AD_RANDOM: 6}
    assert program.accept_length(b"", ancillary=known) == 6


@pytest.mark.parametrize("number", [-1, 2**32 + 5, -(2**90) + 3, True])
def test_numbers_are_taken_modulo_32_bits(number: int) -> None:
    wanted = number & 0xFFFFFFFF
    length = Program.from_instructions([(0x80, 0, 0, 0), (0x16, 0, 0, 0)])
    assert length.accept_length(b"", wire_length=number) == wanted
    packet_type = field(op.SKF_AD_PKTTYPE)
    assert packet_type.accept_length(b"", packet_type=number) == wanted
    mark = field(20)
    assert mark.accept_length(b"", ancillary={20: number}) == wanted
    tag = field(op.SKF_AD_VLAN_TAG)
    assert tag.accept_length(b"", vlan=(number, 1)) == wanted


WRONG = {
    "a wire length": {"wire_length": "1"},
    "a packet type": {"packet_type": 1.5},
    "an interface": {"ifindex": "eth0"},
    "a TCI": {"vlan": b"5"},
    "a TPID": {"vlan": (5, None)},
    "an offset": {"network_offset": 14.0},
    "a value": {"ancillary": {0: "1"}},
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_what_is_not_a_number_is_a_type_error(
    arguments: dict[str, object],
) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        bpf.compile("").accept_length(b"", **arguments)  # type: ignore[arg-type]


def test_a_tag_has_two_numbers() -> None:
    for tag in ((), (5,), (5, 0x8100, 1)):
        with pytest.raises(ValueError, match="not a tuple of"):
            bpf.compile("").matches(b"", vlan=tag)  # type: ignore[arg-type]


def test_an_error_of_the_users_code_is_passed_on() -> None:
    class Number:
        def __index__(self) -> int:
            raise ArithmeticError("of my own")

    class Key:
        def __hash__(self) -> int:
            return hash(0)

        def __eq__(self, other: object) -> bool:
            raise ArithmeticError("of my own")

    program = bpf.compile("")
    with pytest.raises(ArithmeticError, match="of my own"):
        program.matches(b"", wire_length=Number())  # type: ignore[arg-type]
    with pytest.raises(ArithmeticError, match="of my own"):
        program.matches(b"", ancillary={Key(): 1})  # type: ignore[dict-item]


def test_a_packet_is_any_buffer_in_the_order_of_its_items() -> None:
    frame = packets.ethernet_frames()["ip-tcp-http"]
    program = bpf.compile("tcp port 80", live=False)
    every_other = numpy.zeros(2 * len(frame), numpy.uint8)
    every_other[::2] = list(frame)
    even = frame[: len(frame) & ~1]
    rows = numpy.frombuffer(even, numpy.uint8).reshape(2, -1)
    for packet in (
        memoryview(every_other)[::2],
        memoryview(frame[::-1])[::-1],
        numpy.asfortranarray(rows),
        numpy.frombuffer(even, numpy.uint16),
    ):
        assert program.matches(packet), repr(packet)  # type: ignore[arg-type]
    assert not program.matches(memoryview(every_other))


def test_the_trace_has_each_instruction_that_was_executed() -> None:
    program = bpf.compile("arp", live=False)
    arp, other = bytes(12) + b"\x08\x06", bytes(14)
    trace = ["before"]
    program.accept_length(arp, trace=trace)  # type: ignore[arg-type]
    assert trace == ["before", 0, 1, 2], "it is appended"
    rejected: list[int] = []
    program.accept_length(other, trace=rejected)
    assert rejected == [0, 1, 3]
    short: list[int] = []
    program.accept_length(b"", trace=short)
    assert short == [0], "the load that ends the program is the last"
    largest = Program.from_instructions([(0, 0, 0, 1)] * 4095 + [(6, 0, 0, 1)])
    everything: list[int] = []
    largest.accept_length(b"", trace=everything)
    assert everything == list(range(4096))


def test_a_trace_that_takes_nothing_is_an_error() -> None:
    with pytest.raises(AttributeError, match="append"):
        bpf.compile("").accept_length(b"", trace=())  # type: ignore[arg-type]


def test_a_program_that_was_not_checked_is_not_run() -> None:
    """Nothing but Program() makes one, except by force."""
    jump = (0x05).to_bytes(2, "little") + bytes(2) + b"\xff" * 4
    for data in (b"", b"\0", jump, bytes(8)):
        forced = bytes.__new__(Program, data)
        for run in (forced.matches, forced.accept_length):
            with pytest.raises(ValueError, match=r"program|instruction"):
                run(bytes(64))


def test_the_function_in_c_takes_all_its_arguments() -> None:
    with pytest.raises(TypeError, match="takes 9 arguments, not 1"):
        _rawmmsg._run_filter(bpf.compile(""))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="a program must be bytes"):
        _rawmmsg._check_filter(bytearray(8))  # type: ignore[arg-type]
