"""Programs for a packet socket: the VLAN tag may be beside the frame, in the
kernel's metadata, or inside it.

They are compared with the programs that tcpdump attaches to an interface
(golden files). Expressions behind ``vlan`` are also compared with the program
for bytes in memory, which gets the whole frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from bpfkit import corpus, grammar, machine, mutations, oracle, packets
from bpfkit.effort import Effort
from bpfkit.effort import effort as effort
from bpfkit.machine import Ancillary, Instructions
from bpfkit.names import fixed_names as fixed_names
from bpfkit.oracle import ETHERNET, Pair

from rawmmsg import bpf

pytestmark = pytest.mark.no_network

# About how many whole packets each of BESIDE gets: usually, with --examples.
LIMIT, MOST = 40, 200
HOST, BROADCAST, OTHERHOST, OUTGOING = 0, 1, 3, 4
FRAMES = {
    name: frame
    for name, frame in packets.ethernet_frames().items()
    if len(frame) < 1000
}
# What the kernel may know beside a frame; the first is that of a frame with
# its tag, if any, inline.
BESIDE = (
    Ancillary(interface=7),
    Ancillary(interface=7, vlan_tci=100),
    Ancillary(interface=1, vlan_tci=200, vlan_tpid=0x88A8),
    Ancillary(interface=1, vlan_tci=0xA000, packet_type=BROADCAST),
    Ancillary(interface=7, vlan_tci=0xE064, packet_type=OUTGOING),
    Ancillary(interface=1, packet_type=OUTGOING),
    Ancillary(interface=7, packet_type=OTHERHOST),
)


def live_traffic(
    programs: list[Instructions], limit: int
) -> Iterator[tuple[bytes, Ancillary]]:
    """Frames with and without their tags, with metadata, aimed at the
    programs.
    """
    for frame in FRAMES.values():
        rest, tag = packets.stripped(frame)
        if tag is not None:
            yield (
                rest,
                Ancillary(interface=7, vlan_tci=tag[0], vlan_tpid=tag[1]),
            )
    for ancillary in BESIDE:
        whole, cut = mutations.explore(
            programs, FRAMES.values(), ancillary, limit
        )
        for packet in (*whole, *(piece for piece, _ in cut)):
            yield packet, ancillary


@pytest.mark.parametrize(
    "entry", corpus.live(), ids=lambda entry: entry.expression
)
def test_accepts_what_tcpdump_accepts(
    effort: Effort, entry: corpus.Entry
) -> None:
    answer = oracle.goldens().live[ETHERNET, entry.expression]
    assert isinstance(answer, Pair), f"tcpdump compiles {entry.expression!r}"
    assert answer.optimised is not None, (
        f"tcpdump optimises {entry.expression!r}"
    )
    ours = bpf.compile(entry.expression).instructions
    for packet, beside in live_traffic(
        [ours, answer.optimised, answer.unoptimised],
        effort.limit(LIMIT, MOST),
    ):
        got, optimised, plain = (
            machine.run(program, packet, None, beside)[0]
            for program in (ours, answer.optimised, answer.unoptimised)
        )
        assert got in (optimised, plain), (
            f"{entry.expression!r} on a packet socket means what it means to "
            f"tcpdump: accepts {got}, tcpdump {optimised} optimised and "
            f"{plain} not, of {packet.hex()} beside {beside}"
        )


# The frame itself and its length differ by the tag. Without an interface,
# `ifindex` returns what happens to be in the accumulator.
OF_THE_FRAME = ("ether[", "link[", "greater", "less", "len", "ifindex")
# A computed offset may lie before the header, in the part that differs.
COMPUTED = re.compile(r"\[(?!(\d+|\w+type|icmpcode|tcpflags)[]:])")
# A direction is not in the frame at all.
SECTIONS = sorted(
    {entry.section for entry in corpus.compiled()} - {"direction"}
)


def looks_behind_the_tag(expression: str) -> bool:
    return not any(word in expression for word in OF_THE_FRAME)


BEHIND_VLAN = [
    entry.expression
    for entry in (*corpus.live(), *corpus.compiled())
    if entry.section.startswith("vlan")
    and entry.expression.startswith("vlan")
    and " or " not in entry.expression
    and looks_behind_the_tag(entry.expression)
]


def outcome(expression: str, live: bool) -> bpf.Program | None:
    """The program. None if the expression rejects all packets."""
    try:
        return bpf.compile(expression, live=live)
    except bpf.FilterError:
        return None


@pytest.mark.parametrize("expression", dict.fromkeys(BEHIND_VLAN))
def test_a_tag_beside_the_frame_is_treated_like_one_inside(
    expression: str,
) -> None:
    check_behind_vlan(expression)


def check_behind_vlan(expression: str) -> None:
    live, dead = outcome(expression, True), outcome(expression, False)
    if live is None or dead is None:
        assert live is dead, f"{expression!r} is an error on both sides"
        return
    for name, frame in FRAMES.items():
        wanted = dead.accept_length(frame)
        rest, tag = packets.stripped(frame)
        assert live.accept_length(rest, vlan=tag) == wanted, (
            f"{expression!r} means the same for a tag that the kernel moved "
            f"out of the frame: {name}"
        )
        assert live.accept_length(frame) == wanted, (
            f"{expression!r} means the same for a tag inside the frame: {name}"
        )


def test_any_expression_behind_a_tag_beside_the_frame(effort: Effort) -> None:
    def check(inner: str) -> None:
        check_behind_vlan(f"vlan and ({inner})")

    expressions = grammar.plain().filter(looks_behind_the_tag)
    expressions = expressions.filter(lambda text: not COMPUTED.search(text))
    effort.check(100, check, expressions)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_frame_without_metadata_is_treated_as_in_memory(
    section: str,
) -> None:
    """Frames that this host sends have their tag inside."""
    beside = Ancillary(interface=7)
    for entry in corpus.compiled():
        if entry.section != section:
            continue
        live, dead = (
            bpf.compile(entry.expression, live=live).instructions
            for live in (True, False)
        )
        for name, frame in FRAMES.items():
            got = machine.run(live, frame, None, beside)[0]
            wanted = machine.run(dead, frame)[0]
            assert got == wanted, (
                f"{entry.expression!r} means on a packet socket what it means "
                f"in memory for a frame with nothing beside it: {name}"
            )


def test_programs_without_tags_and_directions_are_the_same_in_memory() -> None:
    for entry in corpus.live():
        if entry.section == "plain":
            live, dead = (
                bpf.compile(entry.expression),
                bpf.compile(entry.expression, live=False),
            )
            assert live == dead, (
                f"{entry.expression!r} needs nothing that is beside the frame"
            )


@pytest.mark.parametrize(
    ("expression", "incoming", "outgoing"),
    [
        ("inbound", True, False),
        ("outbound", False, True),
        ("not inbound", False, True),
        ("tcp or inbound", True, True),
    ],
)
def test_direction_is_the_packet_type(
    expression: str, incoming: bool, outgoing: bool
) -> None:
    program = bpf.compile(expression)
    frame = FRAMES["ip-tcp-http"]
    for packet_type in (HOST, BROADCAST, 2, OTHERHOST):
        accepted = program.matches(frame, packet_type=packet_type)
        assert accepted is incoming, (
            f"{expression!r} decides by the packet type {packet_type}"
        )
    assert program.matches(frame, packet_type=OUTGOING) is outgoing, (
        f"{expression!r} decides by PACKET_OUTGOING"
    )


def test_ifindex_is_the_interface_of_the_frame() -> None:
    program = bpf.compile("ifindex 7")
    frame = FRAMES["ip-tcp-http"]
    assert program.matches(frame, ifindex=7), (
        "'ifindex 7' accepts a frame of interface 7"
    )
    assert not program.matches(frame, ifindex=8), (
        "'ifindex 7' rejects a frame of interface 8"
    )
    assert not program.matches(frame), (
        "'ifindex 7' rejects what came from no interface"
    )


@pytest.mark.parametrize("tci", [0, 0xA000, 100, 0xE064, 4095])
def test_a_tag_is_recognised_by_its_presence_not_its_value(tci: int) -> None:
    """A priority tag, for example, has VLAN id 0."""
    frame = FRAMES["ip-tcp-http"]
    assert bpf.compile("vlan").matches(frame, vlan=tci), (
        f"'vlan' accepts a frame tagged {tci:#x}"
    )
    assert not bpf.compile("not vlan").matches(frame, vlan=tci), (
        f"'not vlan' rejects a frame tagged {tci:#x}"
    )
    wanted = bpf.compile(f"vlan {tci & 0xFFF}")
    assert wanted.matches(frame, vlan=tci), (
        "a VLAN id is compared without priority bits"
    )
