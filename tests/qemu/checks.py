"""What a host and a guest (lab.py) exchange, and what must hold then."""

import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from counters import Counters, read_counters, since, wrong_checksums
from guest import MAC, PATIENCE, Guest
from lab import Family, Lab
from support.bridging import Outcome
from support.datagrams import TCP, UDP, Datagram

from rawmmsg import RawSocket

TEN_MB: Final = 10 << 20
NO_SUCH_PORT: Final = 9

# <linux/udp.h>
UDP_SEGMENT: Final = 103


def check_echo(lab: Lab, family: Family) -> None:
    """Each side answers pings of the other, with little data and as full
    frames."""
    headers = 8 + (20 if family.version == 4 else 40)
    for size in (56, lab.mtu - headers):
        ping = f"ping -A -c 3 -w {PATIENCE:.0f} -s {size}"
        done = subprocess.run(
            ["busybox", *ping.split(), family.guest],
            capture_output=True,
            text=True,
            check=False,
        )
        printed = lab.guest.run(f"{ping} {family.host}")
        for side, answers in (
            ("host", done.stdout + done.stderr),
            ("guest", printed),
        ):
            assert "3 packets received" in answers, (
                f"{side}: pings with {size} bytes of data over"
                f" IPv{family.version} were lost: {answers}"
            )


def check_tcp(guest: Guest, family: Family, size: int = TEN_MB) -> None:
    """The guest receives so many bytes correctly, and sends them back."""
    data = os.urandom(size)
    check_receiving(guest, family, data)
    check_sending(guest, family, data)


def check_receiving(guest: Guest, family: Family, data: bytes) -> None:
    """The guest receives the data over TCP, from super-frames; it keeps them
    in /data."""
    before = host_counters()
    with socket.create_server((family.host, 0), family=family.kind) as server:
        guest.begin(f"{_nc(server)} | tee /data | sha256sum")
        with accept(server) as connection:
            connection.sendall(data)
        digest = guest.finish().split()[0]
    assert digest == hashlib.sha256(data).hexdigest(), (
        f"IPv{family.version}: the guest did not receive what was sent to it"
    )
    moved = since(before, host_counters())
    assert moved[family.sent] < moved["Tcp.OutSegs"], (
        f"the host sent no super-frames: {moved}"
    )


def check_sending(
    guest: Guest,
    family: Family,
    data: bytes,
    meanwhile: Callable[[], object] = lambda: None,
    source: str = "</data >/dev/null",
) -> None:
    """The guest sends /data, which holds these data, over TCP. The host calls
    `meanwhile` after it has received some of them. `source`: from where nc
    gets what it sends."""
    with socket.create_server((family.host, 0), family=family.kind) as server:
        guest.run(f"{_nc(server)} {source} &")
        with accept(server) as connection:
            received = connection.recv(1)
            meanwhile()
            parts = iter(lambda: connection.recv(1 << 20), b"")
            received += b"".join(parts)
        guest.run("wait")
    # Not a comparison in the assertion: it would print 20 MB.
    is_same = received == data
    assert is_same, (
        f"IPv{family.version}: of {len(data)} bytes that the guest sent,"
        f" {len(received)} arrived, and the first {_same(received, data)} of"
        " them are right"
    )


def _same(one: bytes, other: bytes) -> int:
    """How many bytes are the same, from the first on."""
    pairs = zip(one, other, strict=False)
    different = (i for i, (a, b) in enumerate(pairs) if a != b)
    return next(different, min(len(one), len(other)))


def _nc(server: socket.socket) -> str:
    """The guest's command that connects to the server."""
    server.settimeout(PATIENCE)
    host, port = server.getsockname()[:2]
    return f"nc {host} {port}"


def accept(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.settimeout(PATIENCE)
    return connection


def check_udp_super_frame(guest: Guest, family: Family) -> None:
    """All datagrams of a super-frame reach the guest's UDP, which verifies
    checksums before it looks for a port."""
    size, count = 1000, 40

    def arrives() -> bool:
        before = guest_counters(guest)
        sender.sendto(bytes(size * count), (family.guest, NO_SUCH_PORT))

        def refused() -> int:
            moved = since(before, guest_counters(guest))
            return moved.get(family.datagrams_refused, 0)

        return soon(lambda: refused() == count, PATIENCE / 10)

    with socket.socket(family.kind, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, size)
        # Try again if QEMU was too slow to receive all of them.
        assert any(arrives() for _ in range(10)), (
            f"IPv{family.version}: of the {count} datagrams of a super-frame,"
            " the guest never received all"
        )


def check_no_wrong_checksum(guest: Guest) -> None:
    for side, counters in (
        ("host", host_counters()),
        ("guest", guest_counters(guest)),
    ):
        wrong = wrong_checksums(counters)
        assert {"IpExt.InCsumErrors", "Tcp.InCsumErrors"} <= wrong.keys()
        assert not any(wrong.values()), f"the {side} received {wrong}"


def check_wrong_checksums_are_counted(lab: Lab) -> None:
    """The bridge passes frames unchanged and the guest verifies them.
    Otherwise its counters would prove nothing."""
    before = guest_counters(lab.guest)
    send(lab, [_datagram(protocol)[:-1] + b"\0" for protocol in (TCP, UDP)])

    def moved() -> Counters:
        return wrong_checksums(since(before, guest_counters(lab.guest)))

    both = {"Tcp.InCsumErrors": 1, "Udp.InCsumErrors": 1}
    wait_until(
        lambda: moved() == both,
        lambda: f"the guest counts wrong checksums {moved()}, not {both}",
    )


def send_refused(lab: Lab, count: int) -> None:
    """Sends datagrams to the guest, which counts them as "Udp.NoPorts"."""
    send(lab, [_datagram(UDP)] * count)


def _datagram(protocol: int) -> bytes:
    return MAC + Datagram(b"payload", protocol).build()[len(MAC) :]


def send(lab: Lab, frames: Sequence[bytes]) -> None:
    with RawSocket(lab.interface, protocol=0) as sender:
        sender.sendmmsg_all(frames)


def check_summary(printed: str) -> Outcome:
    """In both directions, every frame received or made by segmentation was
    sent or dropped, and some were sent."""
    outcome = Outcome(0, printed)
    for one in outcome.directions:
        assert one.sent > 0, printed
    return outcome


def host_counters() -> Counters:
    return read_counters(lambda path: Path(path).read_text())


def guest_counters(guest: Guest) -> Counters:
    return read_counters(lambda path: guest.run(f"cat {path}"))


def soon(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Returns whether the condition soon becomes true."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def wait_until(
    condition: Callable[[], bool], problem: Callable[[], str]
) -> None:
    """Waits until the condition is true; fails with the problem."""
    assert soon(condition), problem()
