"""Faults: the bridge continues, or ends and says why, and every frame is
counted."""

import fcntl
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from support import WAIT
from support.bridging import (
    Network,
    Outcome,
    Running,
    bridging,
    take,
)
from support.calls import eventually
from support.child import run_python
from support.datagrams import UDP, Datagram, add, data
from support.frames import flood, numbered, same_frames
from support.linux import drop_frames_of, ip, tc, tx_dropped

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth

# <linux/if_tun.h>, <linux/virtio_net.h>
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
GSO_UDP = 3
NO_HEADER = bytes(10)

ROUNDS = 50

FLOOD = [numbered(i, 200) for i in range(64)]


def passes(start: str, end: str) -> bool:
    """Whether a frame from one interface soon arrives at the other."""
    packet = numbered(time.monotonic_ns())
    with (
        RawSocket(start, protocol=0) as sender,
        RawSocket(end, ignore_outgoing=True) as receiver,
    ):
        sender.send(packet)
        receiver.settimeout(0.2)
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            try:
                if receiver.recv(2048) == packet:
                    return True
            except TimeoutError:
                pass
    return False


def works(network: Network, bridge: Running) -> None:
    """Waits until frames pass in both directions again."""
    for start, end in (
        (network.left.a, network.right.a),
        (network.right.a, network.left.a),
    ):
        eventually(
            partial(passes, start, end),
            f"no frame passes any more: {bridge.text}",
        )
    assert bridge.process.poll() is None


def ends_well(bridge: Running) -> Outcome:
    outcome = bridge.end()
    assert outcome.code == 0, outcome.text
    assert outcome.directions
    return outcome


# Packets that an offload header cannot express


@contextmanager
def tap_with_headers() -> Iterator[tuple[int, str]]:
    """A tap interface whose frames begin with an offload header: its
    descriptor and name."""
    with open("/dev/net/tun", "r+b", buffering=0) as file:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        asked = struct.pack("16sH22x", b"tap%d", flags)
        answer = fcntl.ioctl(file, TUNSETIFF, asked)
        name = answer[:16].rstrip(b"\0").decode()
        ip("link", "set", name, "addrgenmode", "none")
        ip("link", "set", name, "up")
        yield file.fileno(), name


@pytest.mark.usefixtures("tap")
def test_inexpressible_frame_does_not_affect_the_other_direction(
    network: Network,
) -> None:
    """A guest behind a tap may send UDP for IP fragmentation (GSO_UDP). The
    kernel reports EINVAL once, to the next call, even if that is a send."""
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, Datagram(data(5_000), protocol=UDP), 1_400)
    start, offset = batch.checksum_starts, batch.checksum_offsets
    assert start is not None
    assert offset is not None
    header = struct.pack("BBHHHH", 1, GSO_UDP, 42, 1_400, start[0], offset[0])
    unknown = header + batch.tolist()[0]
    packets = [numbered(i) for i in range(3)]
    first, *rest = (NO_HEADER + packet for packet in packets)
    with (
        tap_with_headers() as (number, name),
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        bridging(name, network.right.b) as bridge,
    ):
        for _ in range(ROUNDS):
            bridge.process.send_signal(signal.SIGSTOP)
            for written in (first, unknown, *rest):
                os.write(number, written)
            right.sendmmsg_all(packets)
            bridge.process.send_signal(signal.SIGCONT)
            same_frames(take(right, 3), packets)
            back = [os.read(number, 2048) for _ in packets]
            same_frames((one[len(NO_HEADER) :] for one in back), packets)
        ab, ba = ends_well(bridge).directions
    assert (ab.received, ab.dropped, ab.kernel) == (3 * ROUNDS, 0, ROUNDS)
    assert (ba.received, ba.sent) == (3 * ROUNDS, 3 * ROUNDS)


# Links that go down


@pytest.mark.parametrize("end", ["near", "far"])
def test_bridge_continues_with_a_link_that_flaps(
    network: Network, end: str, flap_seconds: float
) -> None:
    """Under load. The near end is the bridge's own interface."""
    name = network.right.b if end == "near" else network.right.a
    with bridging(*network.ports) as bridge:
        with flood(network.left.a, FLOOD):
            until = time.monotonic() + flap_seconds
            while time.monotonic() < until:
                ip("link", "set", name, "down")
                time.sleep(0.1)
                ip("link", "set", name, "up")
                time.sleep(0.1)
        network.right.up()
        works(network, bridge)
        ab, _ = ends_well(bridge).directions
    assert ab.received > 0
    assert set(ab.reasons) <= {"link down", "queue full"}


def test_bridge_continues_when_both_links_flap(network: Network) -> None:
    with bridging(*network.ports) as bridge:
        for _ in range(5):
            network.left.down("b")
            network.right.down("b")
            network.left.up("b")
            network.right.up("b")
        works(network, bridge)
        ends_well(bridge)


def test_bridge_waits_for_a_link_that_is_down_at_the_start(
    network: Network,
) -> None:
    """And says so."""
    network.right.down("b")
    with bridging(*network.ports) as bridge:
        bridge.says(f"rawmmsg: {network.right.b} is down; waiting for it\n")
        assert network.left.b not in bridge.text.partition("\n")[2]
        with RawSocket(network.left.a, protocol=0) as left:
            left.sendmmsg_all(FLOOD)
        network.right.up("b")
        works(network, bridge)
        bridge.says(f"rawmmsg: {network.right.b} is ready\n")
        ab, _ = ends_well(bridge).directions
    assert ab.reasons == {"link down": 64}


def test_bridge_says_that_it_waits_for_a_carrier(
    network: Network,
) -> None:
    network.left.down("a")
    with bridging(*network.ports) as bridge:
        bridge.says(f"{network.left.b} has no carrier; waiting for it\n")
        network.left.up("a")
        works(network, bridge)
        ends_well(bridge)


# Deleted interfaces


@pytest.mark.parametrize("first_down", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_bridge_ends_when_an_interface_is_deleted(
    network: Network, side: str, first_down: bool
) -> None:
    """It names the interface; with load or without, at once or after a
    while."""
    gone: Veth = getattr(network, side)
    if first_down:
        gone.down("b")
    with bridging(*network.ports) as bridge:
        gone.delete()
        outcome = bridge.outcome()
    assert outcome.code == 1
    assert f"rawmmsg: {gone.b} has disappeared\n" in outcome.text
    assert outcome.directions


def test_bridge_ends_when_an_interface_is_deleted_under_load(
    network: Network,
) -> None:
    with bridging(*network.ports) as bridge:
        with flood(network.left.a, FLOOD):
            network.right.delete()
            outcome = bridge.outcome()
    assert outcome.code == 1
    assert f"{network.right.b} has disappeared" in outcome.text
    assert outcome.directions[0].received > 0


def test_new_interface_of_the_same_name_is_not_used(
    network: Network, veth_factory: Callable[..., Veth]
) -> None:
    """The program that made it can start a bridge again."""
    with bridging(*network.ports) as bridge:
        network.right.delete()
        veth_factory(network.right.a, network.right.b)
        assert bridge.outcome().code == 1
    with bridging(*network.ports) as bridge:
        works(network, bridge)
        ends_well(bridge)


# One side is blocked


@contextmanager
def blocked_peer() -> Iterator[tuple[socket.socket, int]]:
    """A peer that does not read, with room for a few frames: its socket and
    the bridge's descriptor."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield ours, theirs.fileno()


def test_blocked_side_does_not_stall_the_other_direction(
    network: Network,
) -> None:
    """Frames for it are retried, then dropped. It gets new ones once it reads
    again."""
    with (
        blocked_peer() as (peer, number),
        RawSocket(network.left.a, ignore_outgoing=True) as far,
        bridging(network.left.b, f"fd:{number}", pass_fds=(number,)) as bridge,
    ):
        with flood(network.left.a, FLOOD):
            for i in range(300):
                peer.send(numbered(i, 300))
                time.sleep(0.001)
            packets = take(far, 300)
        same_frames(packets, [numbered(i, 300) for i in range(300)])
        eventually(
            lambda: reads_again(peer, network.left.a),
            "it does not get frames again",
        )
        ab, ba = ends_well(bridge).directions
    assert set(ab.reasons) == {"queue full"}
    assert (ba.received, ba.dropped) == (300, 0)


def reads_again(peer: socket.socket, start: str) -> bool:
    """Empties the peer's queue; returns whether a new frame arrives."""
    peer.setblocking(False)
    packet = numbered(time.monotonic_ns())
    with RawSocket(start, protocol=0) as sender:
        while select.select([peer], [], [], 0)[0]:
            peer.recv(2048)
        sender.send(packet)
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            if select.select([peer], [], [], 0.01)[0]:
                if peer.recv(2048) == packet:
                    return True
    return False


@pytest.mark.parametrize("rate", ["100bit", "100kbit"])
def test_full_queue_does_not_stall_the_other_direction(
    network: Network, rate: str
) -> None:
    """tc-tbf(8) with room for 3,000 bytes returns ENOBUFS. If the queue drains
    at all, frames wait for it in the kernel."""
    tc(
        *("qdisc", "replace", "dev", network.right.b, "root"),
        *("tbf", "burst", "2000", "rate", rate, "limit", "3000"),
    )
    packets = [numbered(i, 300) for i in range(300)]
    with bridging(*network.ports) as bridge:
        with (
            RawSocket(network.left.a, ignore_outgoing=True) as far,
            RawSocket(network.right.a, protocol=0) as right,
            flood(network.left.a, FLOOD),
        ):
            for packet in packets:
                right.send(packet)
                time.sleep(0.0005)
            same_frames(take(far, 300), packets)
        tc("qdisc", "delete", "dev", network.right.b, "root")
        works(network, bridge)
        ab, ba = ends_well(bridge).directions
    if rate == "100bit":
        assert set(ab.reasons) == {"queue full"}
    assert ba.dropped == 0


def test_frame_is_retried_before_it_is_dropped(network: Network) -> None:
    """A queue that drains within the time limit loses nothing."""
    tc(
        *("qdisc", "replace", "dev", network.right.b, "root"),
        *("tbf", "burst", "2000", "rate", "20mbit", "limit", "3000"),
    )
    packets = [numbered(i, 1000) for i in range(100)]
    with (
        RawSocket(network.left.a, protocol=0) as left,
        RawSocket(network.right.a) as right,
        bridging(*network.ports) as bridge,
    ):
        left.sendmmsg_all(packets)
        same_frames(take(right, 100), packets)
        assert ends_well(bridge).directions[0].dropped == 0


# Frames that the kernel refuses with ENOBUFS when they are sent

DROPPED_SIZE = 700


def far_mtu(network: Network) -> int:
    """Makes the frames too long for the far end of the pair."""
    for name in (network.left.a, *network.ports):
        ip("link", "set", name, "mtu", "9000")
    return 3_000


def egress_filter(network: Network) -> int:
    drop_frames_of(network.right.b, DROPPED_SIZE)
    return DROPPED_SIZE


REFUSALS = pytest.mark.parametrize("refuse", [far_mtu, egress_filter])


@REFUSALS
@pytest.mark.parametrize("shape", ["spread", "in a row", "runs"])
def test_refused_frame_does_not_affect_others(
    network: Network, refuse: Callable[[Network], int], shape: str
) -> None:
    """100 of 3,000 frames, at any position in a batch."""
    size = refuse(network)
    bad = {
        "spread": range(5, 3_000, 30),
        "in a row": range(1_000, 1_100),
        "runs": [i + j for i in range(7, 3_000, 300) for j in range(10)],
    }[shape]
    refused = set(bad)
    packets = [numbered(i, size if i in refused else 200) for i in range(3000)]
    wanted = [one for i, one in enumerate(packets) if i not in refused]
    with (
        RawSocket(network.left.a, protocol=0) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        bridging(*network.ports) as bridge,
    ):
        for i in range(0, 3_000, 100):
            left.sendmmsg_all(packets[i : i + 100])
        same_frames(take(right, len(wanted)), wanted)
        ab, _ = ends_well(bridge).directions
    assert (ab.received, ab.sent, ab.kernel) == (3_000, 2_900, 0)
    # There may be more refused frames in a row than tries before the queue
    # counts as full.
    allowed = {"refused", "queue full"} if shape != "spread" else {"refused"}
    assert set(ab.reasons) <= allowed


@REFUSALS
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_single_refused_frame_is_counted_as_refused(
    network: Network, refuse: Callable[[Network], int], pause: float
) -> None:
    """The frame that proves it comes next, soon or much later."""
    size = refuse(network)
    with (
        RawSocket(network.left.a, protocol=0) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        bridging(*network.ports) as bridge,
    ):
        for i in range(5):
            left.send(numbered(i, size))
            time.sleep(pause)
            left.send(numbered(i))
            same_frames(take(right, 1), [numbered(i)])
        ab, _ = ends_well(bridge).directions
    assert (ab.sent, ab.reasons) == (5, {"refused": 5})


@REFUSALS
def test_refused_frames_cost_little_time(
    network: Network, refuse: Callable[[Network], int]
) -> None:
    """At most a few milliseconds each. If the bridge waited as for a full
    queue, 2,000 of them would take 100 s."""
    size = refuse(network)
    with (
        RawSocket(network.left.a, protocol=0) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        bridging(*network.ports) as bridge,
    ):
        began = time.monotonic()
        for i in range(2_000):
            left.sendmmsg_all([numbered(i, size), numbered(i)])
            same_frames(take(right, 1), [numbered(i)])
        took = time.monotonic() - began
        ab, _ = ends_well(bridge).directions
    assert ab.reasons == {"refused": 2_000}
    assert took < 2_000 * 0.005


@REFUSALS
def test_each_dropped_frame_is_counted_under_its_reason(
    network: Network, refuse: Callable[[Network], int]
) -> None:
    """Frames after a refused one are tried while its reason is unknown, and
    may be tried again."""
    size = refuse(network)
    longer = 9_500
    ip("link", "set", network.left.a, "mtu", "9500")
    ip("link", "set", network.left.b, "mtu", "9500")
    kinds = [size, size, longer, size, longer, 100]
    packets = [numbered(i, kinds[i % 6]) for i in range(600)]
    with (
        RawSocket(network.left.a, protocol=0) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        bridging(*network.ports) as bridge,
    ):
        for i in range(0, 600, 60):
            left.sendmmsg_all(packets[i : i + 60])
        same_frames(take(right, 100), [p for p in packets if len(p) == 100])
        ab, _ = ends_well(bridge).directions
    assert (ab.received, ab.sent) == (600, 100)
    assert ab.reasons == {"refused": 300, "too long": 200}


def test_refused_frame_and_full_queue_are_distinguished(
    network: Network,
) -> None:
    """A queue (tc-tbf(8)) that drains within the time limit loses nothing. The
    bridge does not wait for frames that a filter drops before the queue."""
    size = egress_filter(network)
    tc(
        *("qdisc", "replace", "dev", network.right.b, "root"),
        *("tbf", "burst", "2000", "rate", "20mbit", "limit", "3000"),
    )
    packets = [numbered(i, 1000 if i % 10 else size) for i in range(100)]
    wanted = [one for one in packets if len(one) != size]
    with (
        RawSocket(network.left.a, protocol=0) as left,
        RawSocket(network.right.a) as right,
        bridging(*network.ports) as bridge,
    ):
        left.sendmmsg_all(packets)
        same_frames(take(right, 90), wanted)
        ab, _ = ends_well(bridge).directions
    assert ab.reasons == {"refused": 10}


def test_bridge_waits_for_a_full_tap_without_a_queue(
    network: Network, tap: tuple[int, str]
) -> None:
    """With the qdisc "noqueue", the kernel returns ENOBUFS if the reader of a
    tap is too slow. With the default qdisc, it drops the frame silently."""
    number, name = tap
    tc("qdisc", "replace", "dev", name, "root", "noqueue")
    ip("link", "set", name, "txqueuelen", "20")
    packets = [numbered(i) for i in range(200)]
    with (
        RawSocket(network.left.a, protocol=0) as left,
        bridging(network.left.b, name) as bridge,
    ):
        left.sendmmsg_all(packets)
        same_frames((os.read(number, 2048) for _ in packets), packets)
        dropped = tx_dropped(name)
        left.sendmmsg_all(packets)  # nobody reads the tap
        eventually(
            lambda: tx_dropped(name) >= dropped + 100,
            "the frames do not come",
        )
        ab, _ = ends_well(bridge).directions
    assert ab.sent == 220
    assert set(ab.reasons) == {"queue full"}


def test_memory_does_not_grow_while_a_side_is_blocked(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side floods it."""
    # AddressSanitizer keeps freed memory, up to 256 MB.
    options = os.environ.get("ASAN_OPTIONS", "")
    monkeypatch.setenv("ASAN_OPTIONS", f"{options}:quarantine_size_mb=1")

    def resident() -> int:
        with open(f"/proc/{bridge.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with (
        blocked_peer() as (_, number),
        bridging(network.left.b, f"fd:{number}", pass_fds=(number,)) as bridge,
    ):
        with flood(network.left.a, FLOOD):
            time.sleep(0.3)
            before = resident()
            time.sleep(1.0)
            assert resident() < before + (4 << 20)
        ends_well(bridge)


# Signals


@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_stopped_process_continues(network: Network, pause: float) -> None:
    with (
        RawSocket(network.right.a, ignore_outgoing=True) as right,
        RawSocket(network.left.a, protocol=0) as left,
        bridging(*network.ports) as bridge,
    ):
        sent = 0
        for _ in range(5):
            bridge.process.send_signal(signal.SIGSTOP)
            for _ in range(20):
                left.send(numbered(sent))
                sent += 1
            time.sleep(pause)
            bridge.process.send_signal(signal.SIGCONT)
        same_frames(take(right, sent), map(numbered, range(sent)))
        ends_well(bridge)


def test_stopped_process_ends_when_it_continues(network: Network) -> None:
    with bridging(*network.ports) as bridge:
        bridge.process.send_signal(signal.SIGSTOP)
        bridge.process.send_signal(signal.SIGTERM)
        bridge.process.send_signal(signal.SIGCONT)
        assert bridge.outcome().code == 0


def test_signal_is_never_lost(network: Network) -> None:
    """Even before the loop begins."""
    for delay in range(0, 300, 25):
        with Running(*network.ports) as bridge:
            if delay == 0:
                bridge.says("bridging")
            else:
                time.sleep(delay / 1000)
            bridge.process.send_signal(signal.SIGTERM)
            code = bridge.process.wait(WAIT)
        # The signal may come before the program handles it.
        assert code in (0, -signal.SIGTERM)


def test_signal_during_setup_is_not_lost(
    network: Network,
) -> None:
    """It comes as soon as it no longer kills the process."""
    run_python(f"""
        import os
        import signal

        from rawmmsg.cli import main

        install = signal.signal

        def install_and_send(number, handler):
            before = install(number, handler)
            if before == signal.SIG_DFL:
                os.kill(os.getpid(), number)
            return before

        signal.signal = install_and_send
        assert main(["bridge", "-q", *{network.ports}]) == 0
    """)


def test_signal_ends_the_bridge_while_one_side_is_blocked(
    network: Network,
) -> None:
    with (
        blocked_peer() as (_, number),
        bridging(network.left.b, f"fd:{number}", pass_fds=(number,)) as bridge,
    ):
        with RawSocket(network.left.a, protocol=0) as left:
            left.sendmmsg_all(FLOOD)
        ab, _ = ends_well(bridge).directions
    assert ab.received <= 64
