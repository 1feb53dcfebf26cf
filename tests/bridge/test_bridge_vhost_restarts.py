"""Guests that are missing, restarted, or connect twice, and bridges that are
restarted under a guest."""

import signal
import socket
from pathlib import Path

import pytest
from support import WAIT
from support.bridged_guests import frames_of, guest_and
from support.bridging import Running, bridging, stopped, take
from support.calls import eventually
from support.frames import numbered, same_frames
from support.guest_driver import RECEIVE, RINGS, TRANSMIT, Guest
from support.guest_links import VhostUserLink, connect, guest_at
from support.guest_memory import GuestMemory
from support.linux import ip
from support.peers import fd_peer, sending_as

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

TICKS = ("--stats", "0.02")


@pytest.fixture
def guest(short_path: Path) -> Path:
    """The path of a port."""
    return short_path / "guest"


class Again(VhostUserLink):
    """As QEMU when it connects again: rings are enabled before they start, and
    continue where the last back end has stopped."""

    def start_ring(self, index: int, base: int) -> None:
        self.set_enabled(index, True)
        super().start_ring(index, self.guest.queues[index].used_index)


def disconnected(bridge: Running, times: int) -> None:
    """Waits until a front end has disconnected for so many times."""
    words = "the front end has disconnected\n"
    eventually(
        lambda: bridge.text.count(words) == times,
        f"the bridge never says {words!r}",
    )


# A guest that is missing or comes back


def test_frames_are_dropped_while_no_guest_is_connected(
    pair: Veth, sender: RawSocket, guest: Path
) -> None:
    """They are counted, and not delivered late."""
    with bridging(pair.b, f"vhost-user:{guest}", *TICKS) as bridge:
        bridge.says(f"no front end has connected to {guest}; waiting for it\n")
        for i in range(3):
            sender.sendmmsg_all([numbered(i) for i in range(5)])
            bridge.drops(5 * (i + 1))
            with guest_at(guest) as link:
                sender.send(numbered(100))
                same_frames(frames_of(link, 1), [numbered(100)])
            disconnected(bridge, i + 1)
        ab, _ = bridge.end().directions
    assert (ab.sent, ab.reasons) == (3, {"link down": 15})


def test_frames_of_a_socket_are_dropped_while_no_guest_is_connected(
    guest: Path,
) -> None:
    port = f"vhost-user:{guest}"
    with (
        fd_peer(socket.SOCK_DGRAM) as peer,
        bridging(peer.port, port, *TICKS, pass_fds=peer.pass_fds) as bridge,
    ):
        send = sending_as(peer)
        for i in range(5):
            send(numbered(i))
        bridge.drops(5)
        with guest_at(guest) as link:
            send(numbered(100))
            same_frames(frames_of(link, 1), [numbered(100)])
        ab, _ = bridge.end().directions
    assert (ab.received, ab.sent, ab.reasons) == (6, 1, {"link down": 5})


def test_frames_are_dropped_while_the_other_guest_is_missing(
    guest: Path, short_path: Path
) -> None:
    other = f"vhost-user:{short_path}/other"
    with guest_and(other, guest) as (bridge, link):
        link.guest.send_all(map(numbered, range(5)))
        link.finish_sent()
        with guest_at(short_path / "other") as second:
            link.guest.send(numbered(100))
            same_frames(frames_of(second, 1), [numbered(100)])
        _, ba = bridge.end().directions
    assert (ba.received, ba.sent, ba.reasons) == (6, 1, {"link down": 5})


@pytest.mark.parametrize("ring", RINGS)
def test_disabled_ring_drops_frames(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path, ring: int
) -> None:
    """QEMU disables a ring while the link of the guest is down."""
    with guest_and(pair.b, guest, *TICKS) as (bridge, link):
        link.set_enabled(ring, False)
        for i in range(5):
            sender.send(numbered(i))
            link.guest.send(numbered(i))
        if ring == RECEIVE:
            same_frames(take(far, 5), map(numbered, range(5)))
            bridge.drops(5)
        else:
            same_frames(frames_of(link, 5), map(numbered, range(5)))
        link.finish_sent()
        link.set_enabled(ring, True)
        sender.send(numbered(100))
        link.guest.send(numbered(100))
        same_frames(frames_of(link, 1), [numbered(100)])
        same_frames(take(far, 1), [numbered(100)])
        directions = bridge.end().directions
    assert directions[ring].reasons == {"link down": 5}
    assert directions[1 - ring].reasons == {}


def test_guest_that_reboots_gets_its_frames(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    """The front end stays connected, stops the rings, and starts them anew.
    Frames in between are dropped."""
    with guest_and(pair.b, guest, *TICKS) as (bridge, link):
        for i in range(3):
            sender.send(numbered(i))
            link.guest.send(numbered(i))
            same_frames(frames_of(link, 1), [numbered(i)])
            same_frames(take(far, 1), [numbered(i)])
            link.finish_sent()
            for ring in RINGS:
                link.stop_ring(ring)
            sender.send(numbered(100 + i))
            bridge.drops(i + 1)
            link.guest = Guest(link.guest.memory, notify=link.kick)
            link.start()
            link.guest.post([1536] * 100)
        ab, ba = bridge.end().directions
    assert (ab.sent, ab.reasons) == (3, {"link down": 3})
    assert (ba.received, ba.sent) == (3, 3)


def test_frames_that_a_guest_has_queued_before_it_connects_pass(
    pair: Veth, far: RawSocket, guest: Path
) -> None:
    """A guest whose back end was restarted does not kick again."""
    with bridging(pair.b, f"vhost-user:{guest}"), GuestMemory() as memory:
        queued = Guest(memory)
        for i in range(150):
            queued.send(numbered(i), layout=[76])
        with Again(connect(guest), queued) as link:
            same_frames(take(far, 150), map(numbered, range(150)))
            link.finish_sent()
            assert queued.kicks[TRANSMIT] < 150


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_guest_survives_a_restart_of_the_bridge(
    pair: Veth,
    sender: RawSocket,
    far: RawSocket,
    guest: Path,
    number: signal.Signals,
) -> None:
    """Its rings continue. What it has sent meanwhile passes, and its buffers
    are still available. A path that was left behind is replaced."""
    port = f"vhost-user:{guest}"
    with GuestMemory() as memory:
        card = Guest(memory)
        card.post([1536] * 200)
        for i in range(4):
            with bridging(pair.b, port) as bridge:
                with Again(connect(guest), card) as link:
                    if i:
                        same_frames(take(far, 1), [numbered(10 * i)])
                    sender.send(numbered(i))
                    same_frames(frames_of(link, 1), [numbered(i)])
                    link.guest.send(numbered(i))
                    same_frames(take(far, 1), [numbered(i)])
                    link.finish_sent()
                    bridge.process.send_signal(number)
                    bridge.process.wait(WAIT)
                    eventually(
                        lambda link=link: link.is_disconnected,  # type: ignore[misc]
                        "the bridge has ended, but not its connection",
                    )
            assert guest.exists() == (number == signal.SIGKILL)
            card.send(numbered(10 * (i + 1)))
        memory.check()


def test_bridge_that_connects_finds_its_guest_again(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    """It connects as soon as the front end listens, and again after each
    restart of the front end. It does not remove the path."""
    port = f"vhost-user:{guest},connect"
    with bridging(pair.b, port) as bridge, GuestMemory() as memory:
        bridge.says(f"no front end listens at {guest}; waiting for it\n")
        for i in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(str(guest))
                listener.listen()
                listener.settimeout(WAIT)
                sock, _ = listener.accept()
            card = Guest(memory)
            with VhostUserLink(sock, card) as link:
                card.post([1536] * 10)
                sender.send(numbered(i))
                same_frames(frames_of(link, 1), [numbered(i)])
                link.guest.send(numbered(i))
                same_frames(take(far, 1), [numbered(i)])
                assert guest.exists()
            guest.unlink()
        assert bridge.end().code == 0


# A second front end


def test_second_front_end_is_refused(
    pair: Veth, sender: RawSocket, guest: Path
) -> None:
    """The first one does not notice."""
    with guest_and(pair.b, guest) as (bridge, link):
        for _ in range(3):
            with connect(guest) as second:
                second.settimeout(WAIT)
                assert second.recv(1) == b""
        bridge.says(
            f"rawmmsg: vhost-user:{guest}: a second connection was refused,"
            " because a front end is connected\n"
        )
        sender.send(numbered(1))
        same_frames(frames_of(link, 1), [numbered(1)])


def test_front_end_that_was_killed_is_not_the_first_of_two(
    pair: Veth, sender: RawSocket, guest: Path
) -> None:
    """Even if the bridge has not read its end yet."""
    with bridging(pair.b, f"vhost-user:{guest}") as bridge:
        for i in range(3):
            with guest_at(guest) as link:
                sender.send(numbered(i))
                same_frames(frames_of(link, 1), [numbered(i)])
                with stopped(bridge):
                    link.sock.close()
                    sock = connect(guest)
                    sock.close()
        assert "refused" not in bridge.end().text


# The interface


def test_link_of_the_interface_may_go_down(
    pair: Veth, sender: RawSocket, far: RawSocket, guest: Path
) -> None:
    with guest_and(pair.b, guest) as (bridge, link):
        for i in range(3):
            pair.down("b")
            link.guest.send(numbered(10 + i))
            link.finish_sent()
            pair.up("b")
            sender.send(numbered(i))
            same_frames(frames_of(link, 1), [numbered(i)])
            link.guest.send(numbered(i))
            same_frames(take(far, 1), [numbered(i)])
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (3, 3)
    assert (ba.received, ba.sent, ba.reasons) == (6, 3, {"link down": 3})


def test_bridge_ends_when_the_interface_is_deleted(
    veth: Veth, guest: Path
) -> None:
    with guest_and(veth.b, guest) as (bridge, link):
        ip("link", "delete", veth.b)
        outcome = bridge.outcome()
        assert link.is_disconnected
    assert outcome.code == 1
    assert f"{veth.b} has disappeared\n" in outcome.text
    assert not guest.exists()
