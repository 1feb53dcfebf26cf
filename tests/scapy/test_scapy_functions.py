"""Functions and classes of Scapy that use sockets work with those of
rawmmsg."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from scapy.ansmachine import AnsweringMachine
from scapy.arch.linux import L3PacketSocket
from scapy.automaton import ATMT, Automaton
from scapy.config import conf
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether, arping
from scapy.packet import Packet, Raw
from scapy.pipetool import PipeEngine, QueueSink
from scapy.scapypipes import InjectSink, SniffSource
from scapy.sendrecv import (
    AsyncSniffer,
    bridge_and_sniff,
    send,
    sr,
    sr1,
    srp,
    srp1,
    srploop,
)
from support import WAIT
from support.calls import eventually
from support.frames import frame, receive
from support.linux import ip
from support.scapykit import (
    A4,
    B4,
    HOST,
    PEER,
    addressed,
    reload_network,
    to_peer,
    wire,
)
from support.scapykit import send as send_frames

from rawmmsg import RawSocket
from rawmmsg.scapy import (
    L2RawMmsgSocket,
    L3RawMmsgSocket,
    install,
)
from rawmmsg.testing import Veth


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    with install():
        yield


def answer(request: Packet) -> Packet | None:
    """What the host at the far end answers."""
    back = Ether(src=PEER, dst=request.src)
    reply: Packet | None = None
    if ARP in request and request[ARP].op == 1:
        asked = request[ARP]
        reply = back / ARP(
            op=2,
            hwsrc=PEER,
            psrc=asked.pdst,
            hwdst=asked.hwsrc,
            pdst=asked.psrc,
        )
    elif ICMP in request and request[ICMP].type == 8:
        echo = request[ICMP].copy()
        echo.type, echo.chksum = 0, None
        reply = back / IP(src=request[IP].dst, dst=request[IP].src) / echo
    elif ICMPv6EchoRequest in request:
        addresses = {"src": request[IPv6].dst, "dst": request[IPv6].src}
        data = request[ICMPv6EchoRequest].data
        reply = back / IPv6(**addresses) / ICMPv6EchoReply(data=data)
    return reply


@contextmanager
def answering(interface: str) -> Iterator[None]:
    with L2RawMmsgSocket(iface=interface) as sock:

        def reply(request: Packet) -> None:
            packet = answer(request)
            if packet is not None:
                sock.send(packet)

        started = threading.Event()
        sniffer = AsyncSniffer(
            opened_socket=sock,
            prn=reply,
            store=False,
            started_callback=started.set,
        )
        sniffer.start()
        assert started.wait(WAIT)
        try:
            yield
        finally:
            sniffer.stop()


def who_has(number: int) -> Packet:
    return Ether(src=HOST, dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc=HOST, psrc=A4, pdst=f"192.0.2.{number}"
    )


def test_srp_matches_answers(veth: Veth) -> None:
    with answering(veth.b):
        asked = [who_has(number) for number in range(2, 12)]
        answered, unanswered = srp(asked, iface=veth.a, timeout=WAIT)
    assert [got[ARP].psrc for _, got in answered] == [
        one[ARP].pdst for one in asked
    ]
    assert not unanswered
    for sent, got in answered:
        assert sent.sent_time is not None
        assert 0 <= float(got.time) - float(sent.sent_time) < WAIT


def test_srp1_returns_the_answer(veth: Veth) -> None:
    with answering(veth.b):
        got = srp1(who_has(2), iface=veth.a, timeout=WAIT)
    assert got is not None
    assert got[ARP].hwsrc == PEER


def test_srploop_repeats(veth: Veth) -> None:
    with answering(veth.b):
        answered, unanswered = srploop(
            who_has(2), iface=veth.a, inter=0.01, count=3, timeout=WAIT
        )
    assert (len(answered), len(unanswered)) == (3, 0)


def test_arping_finds_the_peer(veth: Veth) -> None:
    with addressed(veth), answering(veth.b):
        answered, _ = arping(B4, iface=veth.a, timeout=int(WAIT))
    assert [got[ARP].hwsrc for _, got in answered] == [PEER]


def test_sr1_is_answered_as_with_scapys_own_socket(veth: Veth) -> None:
    question = IP(dst=B4) / ICMP(id=1, seq=2) / Raw(b"ping")
    replies = []
    with addressed(veth), answering(veth.b):
        for make in (L3PacketSocket, L3RawMmsgSocket):
            conf.L3socket = make
            replies.append(sr1(question, timeout=WAIT))
    theirs, ours = replies
    assert theirs is not None
    assert ours is not None
    assert type(ours) is type(theirs) is IP
    assert bytes(ours) == bytes(theirs)


def test_sr1_over_ipv6(veth_factory: Callable[..., Veth]) -> None:
    veth = veth_factory(ipv6=True)
    ip("address", "add", "2001:db8::1/64", "dev", veth.a, "nodad")
    reload_network()
    neighbours: Any = conf.netcache.in6_neighbor  # type: ignore[attr-defined]
    neighbours["2001:db8::2"] = PEER
    try:
        with answering(veth.b):
            question = IPv6(dst="2001:db8::2") / ICMPv6EchoRequest(data=b"?")
            reply = sr1(question, timeout=WAIT)
    finally:
        del neighbours["2001:db8::2"]
    assert reply is not None
    assert reply[ICMPv6EchoReply].data == b"?"


def test_layer_3_answer_comes_by_the_interface_of_the_request(
    veth_factory: Callable[..., Veth],
) -> None:
    """Also if the socket was opened on another interface."""
    other, veth = veth_factory(), veth_factory()
    with (
        addressed(veth),
        answering(veth.b),
        L3RawMmsgSocket(iface=other.a) as sock,
    ):
        question = [IP(dst=B4) / ICMP(seq=seq) for seq in range(5)]
        answered, unanswered = sock.sr(question, timeout=WAIT)
    assert len(answered) == 5
    assert not unanswered


def test_layer_3_answers_of_each_protocol_come_once(
    veth_factory: Callable[..., Veth],
) -> None:
    """By an interface other than that on which the socket was opened."""
    other, veth = veth_factory(), veth_factory(ipv6=True)
    ip("address", "add", "2001:db8::1/64", "dev", veth.a, "nodad")
    neighbours: Any = conf.netcache.in6_neighbor  # type: ignore[attr-defined]
    neighbours["2001:db8::2"] = PEER
    questions = [
        IP(dst=B4) / ICMP(seq=1),
        IPv6(dst="2001:db8::2") / ICMPv6EchoRequest(data=b"?"),
        IP(dst=B4) / ICMP(seq=2),
    ]
    try:
        with (
            addressed(veth),
            answering(veth.b),
            L3RawMmsgSocket(iface=other.a) as sock,
        ):
            answered, unanswered = sock.sr(questions, timeout=WAIT)
            assert len(sock.inbox.links) == 3, "one for each protocol"
    finally:
        del neighbours["2001:db8::2"]
    assert not unanswered
    assert sorted(str(got.name) for _, got in answered) == ["IP", "IP", "IPv6"]


def test_layer_3_socket_of_one_protocol_opens_no_other(veth: Veth) -> None:
    with addressed(veth), L3RawMmsgSocket(iface=veth.a, type=0x86DD) as sock:
        sock.send(IP(dst=B4) / ICMP())
        assert len(sock.inbox.links) == 1


def test_layer_3_fragments_what_is_too_long(veth: Veth) -> None:
    """As Scapy's own socket does, and in the same cases."""
    long = IP(src=A4, dst=B4, id=9) / UDP() / Raw(bytes(4000))
    arrived = []
    with addressed(veth), RawSocket(veth.b) as far_side:
        for make in (L3PacketSocket, L3RawMmsgSocket):
            with make(iface=veth.a) as sock:
                send(long, socket=sock)
            arrived.append(receive(far_side, 3))
        conf.auto_fragment = False
        try:
            with (
                L3RawMmsgSocket(iface=veth.a) as sock,
                pytest.raises(OSError, match="the MTU of"),
            ):
                send(long, socket=sock)
        finally:
            conf.auto_fragment = True
    assert arrived[1] == arrived[0]


def test_sr_with_a_filter_for_answers(veth: Veth) -> None:
    with addressed(veth), answering(veth.b):
        answered, _ = sr(
            IP(dst=B4) / ICMP(), filter="icmp[0] = 0", timeout=WAIT
        )
    assert len(answered) == 1


def test_bridge_and_sniff_forwards(veth_factory: Callable[..., Veth]) -> None:
    left, right = veth_factory(), veth_factory()
    sent = [frame(bytes([i]) * 46) for i in range(200)]
    with RawSocket(right.a) as far_side:
        seen = bridge_and_sniff(
            left.b,
            right.b,
            xfrm12=lambda packet: packet.original[-1] % 2 == 0,
            count=len(sent),
            timeout=WAIT,
            started_callback=lambda: send_frames(left.a, sent),
        )
        assert wire(seen) == sent
        assert receive(far_side, 100) == sent[::2]


def test_answering_machine_answers(veth: Veth) -> None:
    class Echo(AnsweringMachine[Packet]):
        """Answers as the peer does."""

        function_name = "rawmmsg_echo"
        filter = "arp"

        def is_request(self, req: Packet) -> int:
            return answer(req) is not None

        def make_reply(self, req: Packet) -> Any:
            return answer(req)

        def send_reply(self, reply: Any, send_function: Any = None) -> None:
            self.optsniff["opened_socket"].send(reply)

    with L2RawMmsgSocket(iface=veth.b) as sock:
        sniffer = Echo(opened_socket=sock, verbose=False).bg()
        eventually(
            lambda: hasattr(sniffer, "continue_sniff"), "it did not start"
        )
        try:
            got = srp1(who_has(2), iface=veth.a, timeout=WAIT)
        finally:
            sniffer.stop()
    assert got is not None
    assert got[ARP].psrc == B4


STATES: Any = ATMT  # its own types do not fit its use


# mypy: disable-error-code="untyped-decorator"
class Pinger(Automaton):
    """Asks three times, each time after the last answer has come."""

    def parse_args(self, *args: Any, **kwargs: Any) -> None:
        self.peer = kwargs.pop("peer")
        super().parse_args(*args, **kwargs)
        self.answers: list[int] = []

    def master_filter(self, pkt: Packet) -> bool:
        return ICMP in pkt and pkt[ICMP].type == 0

    @STATES.state(initial=1)
    def ASK(self) -> None:
        self.send(IP(dst=self.peer) / ICMP(seq=len(self.answers)))

    @STATES.receive_condition(ASK)
    def answered(self, pkt: Packet) -> None:
        self.answers.append(pkt[ICMP].seq)
        raise self.DONE() if len(self.answers) == 3 else self.ASK()

    @STATES.timeout(ASK, WAIT)
    def unanswered(self) -> None:
        raise self.DONE()

    @STATES.state(final=1)
    def DONE(self) -> list[int]:
        return self.answers


def test_automaton_gets_its_answers(veth: Veth) -> None:
    with addressed(veth), answering(veth.b):
        automaton = Pinger(peer=B4, iface=veth.a)
        try:
            assert automaton.run() == [0, 1, 2]
        finally:
            eventually(lambda: not automaton.isrunning(), "it did not end")
            automaton.destroy()


def test_scapypipes_forward_whole_batches(
    veth_factory: Callable[..., Veth],
) -> None:
    """A pipe calls select(2) on fileno() before each packet. So fileno() must
    be readable while packets of a batch are left."""
    left, right = veth_factory(), veth_factory()
    sent = [frame(bytes([i]) * 46) for i in range(200)]
    source, seen = SniffSource(iface=left.b), QueueSink()
    for sink in (InjectSink(iface=right.b), seen):
        source > sink  # noqa: B015 - connects them
    engine = PipeEngine(source)
    with RawSocket(right.a) as far_side:
        engine.start()
        try:
            eventually(lambda: source.s is not None, "it did not start")
            send_frames(left.a, sent)
            assert receive(far_side, len(sent)) == sent
        finally:
            engine.stop()
    copies: list[Any] = [seen.recv() for _ in sent]
    assert [packet.original for packet in copies] == sent


def test_sent_packets_carry_their_time(veth: Veth) -> None:
    packet = to_peer() / ARP()
    with L2RawMmsgSocket(iface=veth.a) as sock:
        assert sock.send(packet) == len(packet)
    assert packet.sent_time is not None
