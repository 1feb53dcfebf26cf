"""Doctor's findings about losses and filters, with the fault and without
it."""

import errno
import os

import pytest
from support.calls import raises
from support.child import WITHOUT_CAPABILITIES
from support.doctoring import doctor, problem_now
from support.frames import PACKET, flood, numbered, pending
from support.linux import packet_socket, tc

from rawmmsg import RawSocket, bpf
from rawmmsg.doctor.acceptance import can_accept
from rawmmsg.doctor.checks import counters
from rawmmsg.doctor.kernel.softnet import Softnet, read_softnet
from rawmmsg.doctor.sample import Sample
from rawmmsg.testing import Veth

# The queue of a socket


def test_full_queue_of_a_socket_is_a_problem(veth: Veth) -> None:
    with (
        RawSocket(veth.a, protocol=0) as sender,
        RawSocket(veth.b, rcvbuf=4096) as sock,
    ):
        for _ in range(100):
            sender.send(PACKET)
        problem = doctor("sockets", veth.b).problem()
        assert f"pid {os.getpid()}" in problem["message"]
        assert "rcvbuf=" in problem["remedy"]
        assert problem["values"]["pid"] == os.getpid()
        assert problem["values"]["process"]
        lost = 100 - len(pending(sock))
        assert problem["values"]["drops"] == lost
        note = doctor("sockets", veth.b).only()
        assert note["severity"] == "note", "the queue is empty now"
        assert note["values"]["drops"] == lost
    with RawSocket(veth.b):
        doctor("sockets", veth.b).assert_ok()


def test_socket_that_loses_packets_now_is_a_problem(veth: Veth) -> None:
    """Also one that is not bound to an interface."""
    with packet_socket(None), flood(veth.a, [numbered(0, 1000)]):
        problem = problem_now("sockets", veth.b)
    assert problem["values"]["drops_now"] > 0


def test_socket_on_another_interface_does_not_matter(veth: Veth) -> None:
    with packet_socket("lo"):
        finding = doctor("sockets", veth.a).only()
        assert finding["values"]["sockets"] == 0
        assert doctor("sockets").only()["values"]["sockets"] == 1


# The output queue


def test_full_output_queue_is_a_problem(veth: Veth) -> None:
    tbf = ("tbf", "burst", "2000", "rate", "100bit", "limit", "3000")
    tc("qdisc", "replace", "dev", veth.a, "root", *tbf)
    with RawSocket(veth.a, protocol=0) as sender, raises(errno.ENOBUFS):
        for _ in range(100):
            sender.send(numbered(0, 1000))
    problem = doctor("qdisc", veth.a).problem()
    assert f"the output queue of {veth.a} (tbf)" in problem["message"]
    assert problem["values"]["drops"] == 1
    assert problem["values"]["queued"] > 0
    assert "rawmmsg.pacing" in problem["remedy"]
    tc("qdisc", "delete", "dev", veth.a, "root")
    doctor("qdisc", veth.a).assert_ok()


def test_earlier_drops_of_an_output_queue_are_noted(veth: Veth) -> None:
    tc("qdisc", "replace", "dev", veth.a, "clsact")
    code = "1,6 0 0 2"  # TC_ACT_SHOT
    rest = ("egress", "bpf", "direct-action", "bytecode", code)
    tc("filter", "add", "dev", veth.a, *rest)
    with RawSocket(veth.a, protocol=0) as sender, raises(errno.ENOBUFS):
        sender.send(PACKET)
    note = doctor("qdisc", veth.a).only()
    assert note["severity"] == "note"
    assert "tc -s filter show" in note["remedy"]
    assert note["values"]["drops"] == 1


# The interface and the queues of the CPUs


def test_losses_of_an_interface_are_a_problem_while_they_grow(
    tap: tuple[int, str],
) -> None:
    """A tap that nobody reads drops what its queue cannot hold."""
    _, interface = tap
    doctor("drops", interface).assert_ok()
    with flood(interface, [PACKET]):
        problem = problem_now("drops", interface)
    assert problem["values"]["counter"] == "tx_dropped"
    assert problem["values"]["count_now"] > 0
    note = doctor("drops", interface).only()
    assert note["severity"] == "note"
    assert note["values"]["count"] >= problem["values"]["count"]


def test_frames_that_nobody_wants_are_no_loss(veth: Veth) -> None:
    """The kernel counts them in rx_dropped."""
    with RawSocket(veth.a, protocol=0) as sender:
        sender.send(PACKET)
    doctor("drops", veth.a).assert_ok()
    note = doctor("drops", veth.b).only()
    assert note["values"]["counter"] == "rx_dropped"
    with flood(veth.a, [PACKET]):
        growing = doctor("drops", "--seconds", "1", veth.b).only()
    assert growing["values"]["count_now"] > 0
    assert growing["severity"] == "note"
    assert "harmless" in growing["message"]


def softnet(dropped: int, squeezed: int) -> Sample:
    return Sample(None, [], [], Softnet(1_000, dropped, squeezed))


@pytest.mark.parametrize(
    ("before", "after", "severity", "words"),
    [
        (softnet(0, 9), softnet(0, 9), "ok", "no packet was dropped"),
        (softnet(0, 9), softnet(0, 10), "note", "out of time for packets 1"),
        (softnet(7, 9), softnet(7, 9), "note", "7 packets"),
        (softnet(7, 9), softnet(10, 9), "problem", "3 of them just now"),
    ],
)
def test_softnet_drops_are_a_problem_while_they_grow(
    before: Sample, after: Sample, severity: str, words: str
) -> None:
    """From numbers, because a test cannot fill the queues of all CPUs."""
    (finding,) = counters.check_softnet(before, after)
    assert finding.severity == severity
    assert words in finding.message
    assert (finding.remedy is None) == (severity == "ok")


def test_softnet_counts_what_arrives(veth: Veth) -> None:
    before = read_softnet()
    with RawSocket(veth.a, protocol=0) as sender:
        sender.sendmmsg_all([PACKET] * 100)
    assert read_softnet().processed >= before.processed + 100


# Filters

NOTHING = bpf.Program.from_instructions([(0x06, 0, 0, 0)])  # ret #0


def test_filter_that_rejects_everything_is_a_problem(veth: Veth) -> None:
    with RawSocket(veth.a, filter=NOTHING) as sock:
        problem = doctor("filters", veth.a).problem()
        assert f"pid {os.getpid()}" in problem["message"]
        assert problem["values"]["pid"] == os.getpid()
        assert "rawmmsg filter" in problem["remedy"]
        sock.attach_filter("arp or ip6")
        doctor("filters", veth.a).assert_ok()


def test_filters_are_not_looked_at_without_privilege(veth: Veth) -> None:
    with RawSocket(veth.a, filter=NOTHING):
        note = doctor("filters", veth.a, prefix=WITHOUT_CAPABILITIES).only()
    assert note["severity"] == "note"
    assert "CAP_NET_ADMIN" in note["message"]


@pytest.mark.no_network
@pytest.mark.parametrize(
    ("text", "rejects"),
    [
        ("1,6 0 0 0", True),
        ("1,6 0 0 1", False),
        ("1,22 0 0 0", False),  # ret a
        ("4,40 0 0 12,21 0 1 2048,6 0 0 0,6 0 0 0", True),
        ("4,40 0 0 12,21 0 1 2048,6 0 0 9,6 0 0 0", False),
        ("3,5 0 0 1,6 0 0 9,6 0 0 0", True),  # ja over the first return
        ("3,5 0 0 0,6 0 0 9,6 0 0 0", False),
    ],
)
def test_program_that_can_accept_nothing_is_recognised(
    text: str, rejects: bool
) -> None:
    assert can_accept(bpf.Program.from_tcpdump(text), {}) != rejects
