"""The programs in examples/ do what their docstrings promise."""

import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import pytest
from support import FREE_THREADED, WAIT
from support.bridging import Network, Outcome, take
from support.calls import eventually
from support.child import tool
from support.datagrams import Datagram, add, checksum, data
from support.examples import FOLDER, example, until_open, until_read
from support.frames import (
    LOCAL_EXPERIMENTAL,
    SOURCE,
    frame,
    number_of,
    numbered,
    numbered_frames,
    pending,
    receive,
    same_frames,
    send,
)
from support.linux import hardware_address, ip
from support.namespaces import has_user

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import Veth

PROGRAMS: Final = sorted(FOLDER.glob("*.py"))
OTHER: Final = bytes.fromhex("020000000002")
HOST: Final = "192.0.2.1"

# Uses the sockets of its option -netdev as QEMU does.
MACHINE: Final = f"""\
#!{sys.executable}
import socket, sys
from support.frames import numbered

words = sys.argv[sys.argv.index("-netdev") + 1].split(",")
netdev = dict(word.split("=") for word in words if "=" in word)
assert words[0] == "dgram" and netdev["id"] == "net"
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.bind(netdev["local.path"])
    sock.settimeout(0.05)
    answer = b""
    while not answer:
        sock.sendto(numbered(1), netdev["remote.path"])
        try:
            answer = sock.recv(70_000)
        except TimeoutError:
            pass
    print("received", answer.hex())
"""

# Uses the socket of its option vec0: as linux.uml does.
USER_MODE: Final = f"""\
#!{sys.executable}
import socket, sys
from support.frames import numbered

assert sys.argv[1] == "mem=64M"
transport, number = sys.argv[2].removeprefix("vec0:").split(",fd=")
assert transport == "transport=fd"
with socket.socket(fileno=int(number)) as sock:
    sock.send(numbered(1))
    print("received", sock.recv(70_000).hex())
"""


# All of them


@pytest.mark.no_network
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_program_is_short_and_says_how_to_run_it(program: Path) -> None:
    text = program.read_text(encoding="utf-8")
    assert 20 <= len(text.splitlines()) <= 60
    _, promise, usage, *_ = re.split(r'"""|\n\n', text)
    assert promise.endswith(".") and "\n" not in promise
    assert usage.startswith(f"    sudo python examples/{program.name} ")


@pytest.mark.no_network
def test_readme_lists_every_program() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+\.py)\]\(\1\) \|", text, re.MULTILINE)
    assert sorted(listed) == [program.name for program in PROGRAMS]
    assert len(listed) == 13


# Receiving


def test_dump_prints_what_passes_the_filter(veth: Veth) -> None:
    before = time.time()
    arp = frame(bytes(46), ethertype=0x0806)
    tagged = frame(bytes.fromhex("602a 88b5") + bytes(46), ethertype=0x8100)
    with example("dump.py", veth.b, "arp or vlan") as running:
        until_open(veth.b)
        send(veth.a, arp, frame(bytes(46)), tagged)
        shown = running.lines(2)
        send(veth.b, arp)
        shown += running.lines(1)
        rest = running.interrupted()
    addresses = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff"
    assert [line[15:] for line in shown] == [
        f" in  {addresses} 0x0806 length 60",
        f" in  {addresses} vlan 42 0x88b5 length 64",
        f" out {addresses} 0x0806 length 60",
    ]
    clocks = {
        time.strftime("%H:%M:%S", time.localtime(second))
        for second in range(int(before), int(time.time()) + 1)
    }
    assert {line[:8] for line in shown} <= clocks
    assert rest == "3 frames received\n0 frames dropped by the kernel\n"


def test_worker_pool_counts_bytes_by_sender(veth: Veth) -> None:
    few = [numbered(i, 1514, src=OTHER) for i in range(10)]
    many = numbered_frames(2000, 100)
    with example("worker_pool.py", veth.b) as running:
        assert running.lines(1)[0].startswith("counting")
        send(veth.a, *many, *few)
        until_read(veth.b)
        counts = running.interrupted()
    assert counts == (
        "02:00:00:00:00:01 200000 bytes\n02:00:00:00:00:02 15140 bytes\n"
    )


def test_worker_pool_counts_what_waits_when_it_is_stopped(veth: Veth) -> None:
    """More than its eight batches hold."""
    frames = numbered_frames(2000, 100)
    with (
        example("worker_pool.py", veth.b) as running,
        RawSocket(veth.b) as witness,
    ):
        assert running.lines(1)[0].startswith("counting")
        running.process.send_signal(signal.SIGSTOP)
        send(veth.a, *frames)
        assert len(receive(witness, 2000)) == 2000
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGCONT)
        assert running.rest() == "02:00:00:00:00:01 200000 bytes\n"


def test_fanout_shares_the_frames_among_threads(veth: Veth) -> None:
    arguments = (veth.b, "--threads", "3", "--mode", "lb")
    with example("fanout.py", *arguments) as running:
        (first,) = running.lines(1)
        send(veth.a, *numbered_frames(3000))
        until_read(veth.b)
        rest = running.interrupted().splitlines()
    assert first == f"counting {'without' if FREE_THREADED else 'with'} GIL"
    assert rest == [
        *(f"thread {i}: 1000 frames, 64000 bytes" for i in range(3)),
        "0 frames dropped by the kernel",
    ]


# Forwarding


def test_forward_moves_frames_both_ways_and_never_back(
    network: Network,
) -> None:
    ab, ba = numbered_frames(300), numbered_frames(200, 1514)
    with (
        example("forward.py", *network.ports) as running,
        RawSocket(network.left.a, ignore_outgoing=True) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
    ):
        until_open(*network.ports)
        left.sendmmsg_all(ab)
        right.sendmmsg_all(ba)
        same_frames(receive(right, 300), ab)
        same_frames(receive(left, 200), ba)
        assert pending(left) == pending(right) == []
        a, b = network.ports
        summary = f"{a} to {b} 300 frames\n{b} to {a} 200 frames\n"
        assert running.interrupted() == summary


def test_forward_keeps_super_frames_in_one_piece(network: Network) -> None:
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, Datagram(data(30_000)), 1400)
    with (
        example("forward.py", *network.ports) as running,
        RawSocket(network.left.a, protocol=0, vnet_hdr=True) as left,
        RawSocket(network.right.a, vnet_hdr=True) as right,
    ):
        until_open(*network.ports)
        left.sendmmsg_all(batch)
        same_frames(take(right, 1), batch.tolist())
        running.interrupted()


def test_vlan_rewrite_joins_two_vlans(network: Network) -> None:
    """Other frames do not pass; the priority and the payload stay."""

    def tagged(tci: int) -> bytes:
        return frame(
            tci.to_bytes(2) + LOCAL_EXPERIMENTAL.to_bytes(2) + data(50),
            ethertype=0x8100,
        )

    a, b = network.ports
    with (
        example("vlan_rewrite.py", a, "5", b, "1234") as running,
        RawSocket(network.left.a, ignore_outgoing=True) as left,
        RawSocket(network.right.a, ignore_outgoing=True) as right,
    ):
        until_open(a, b)
        for near in (left, right):
            near.sendmmsg_all([frame(data(50)), tagged(6), tagged(0x65D2)])
        left.sendmmsg_all([tagged(0x6005), tagged(5)])
        right.sendmmsg_all([tagged(0xF4D2)])
        same_frames(receive(right, 2), [tagged(0x64D2), tagged(1234)])
        same_frames(receive(left, 1), [tagged(0xF005)])
        assert pending(left) == pending(right) == []
        assert running.interrupted() == ""


def test_vlan_rewrite_keeps_super_frames_in_one_piece(
    network: Network,
) -> None:
    batch = PacketBatch(1, SUPER_FRAME)
    add(batch, Datagram(data(30_000), tags=(0x8100,)), 1400)
    vlan = int.from_bytes(batch[0][14:16]) & 0xFFF
    a, b = network.ports
    with (
        example("vlan_rewrite.py", a, str(vlan), b, str(vlan + 1)) as running,
        RawSocket(network.left.a, protocol=0, vnet_hdr=True) as left,
        RawSocket(network.right.a, vnet_hdr=True) as right,
    ):
        until_open(a, b)
        left.sendmmsg_all(batch)
        batch[0][15] += 1
        same_frames(take(right, 1), batch.tolist())
        running.interrupted()


def test_virtual_machine_talks_through_the_bridge(
    veth: Veth, short_path: Path
) -> None:
    """In the place of QEMU, a program that uses the sockets as QEMU does."""
    qemu = short_path / "qemu"
    qemu.write_text(MACHINE)
    qemu.chmod(0o755)
    with (
        example(
            "virtual_machine.py", "--qemu", str(qemu), veth.b, "-m", "1G"
        ) as running,
        RawSocket(veth.a, ignore_outgoing=True) as far,
    ):
        # The machine sends the frame 1 until it is answered.
        assert number_of(receive(far, 1)[0]) == 1
        far.send(numbered(2))
        printed = running.rest()
    assert re.match(r"\S+/qemu -netdev dgram,.* -m 1G\n", printed)
    assert f"received {numbered(2).hex()}\n" in printed
    to_machine, to_interface = Outcome(0, printed).directions
    assert to_machine.name.startswith(f"{veth.b} > unix:")
    assert to_machine.sent == 1
    assert to_interface.sent > 0


def test_virtual_machine_needs_a_bridge(veth: Veth) -> None:
    with example("virtual_machine.py", "none0", "-m", "1G") as running:
        printed, _ = running.process.communicate(timeout=WAIT)
    assert running.process.returncode == 1
    assert "none0: " in printed.splitlines()[-1]
    assert "Traceback" not in printed


def test_user_mode_linux_talks_through_the_bridge(
    veth: Veth, tmp_path: Path
) -> None:
    """In the place of linux.uml, a program that uses the socket as it
    does."""
    program = tmp_path / "uml"
    program.write_text(USER_MODE)
    program.chmod(0o755)
    with (
        RawSocket(veth.a, ignore_outgoing=True) as far,
        example(
            "user_mode_linux.py", "--uml", str(program), veth.b, "mem=64M"
        ) as running,
    ):
        assert number_of(receive(far, 1)[0]) == 1
        far.send(numbered(2))
        printed = running.rest()
    assert f"received {numbered(2).hex()}\n" in printed
    assert "fd:3: the peer has closed" in printed


# Sending


def test_generate_sends_datagrams_that_the_kernel_accepts(veth: Veth) -> None:
    """Each of them reaches UDP, which refuses it because of its port."""
    tool("ip")
    ip("address", "add", f"{HOST}/24", "dev", veth.b)
    before = datagrams()
    with RawSocket(veth.b, filter="udp dst port 9") as receiver:
        with example("generate.py", veth.a, HOST, "--count", "2500") as one:
            printed = one.rest()
        frames = receive(receiver, 2500)
        assert pending(receiver) == []
    assert [int.from_bytes(one[42:50]) for one in frames] == [*range(2500)]
    assert {len(one) for one in frames} == {60}
    assert all(checksum(one[14:34]) == 0 for one in frames)
    assert len({one[34:36] for one in frames}) == 2500, "ports"
    eventually(
        lambda: datagrams() - before == 2500, "UDP did not get every datagram"
    )
    assert printed.startswith("2500 frames in ")


def datagrams() -> int:
    """How many datagrams came for ports on which nobody listens."""
    text = Path("/proc/thread-self/net/snmp").read_text()
    found = re.search(r"^Udp: \d+ (\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("ports", [1, 16, 100])
def test_merge_sends_datagrams_that_cutting_gives_back(
    veth: Veth, ports: int
) -> None:
    with RawSocket(veth.b, filter="udp dst port 9", vnet_hdr=True) as receiver:
        arguments = (veth.a, HOST, "--count", "2500", "--ports", str(ports))
        with example("merge.py", *arguments) as running:
            printed = running.rest()
        arrived, frames = cut(receiver, 2500)
        assert pending(receiver) == []
    assert printed.startswith(f"2500 datagrams in {frames} frames, ")
    assert frames <= {1: 40, 16: 48, 100: 300}[ports]
    numbers = [int.from_bytes(one[42:50]) for one in arrived]
    assert sorted(numbers) == [*range(2500)]
    for first in range(ports):
        own = [number for number in numbers if number % ports == first]
        assert own == [*range(first, 2500, ports)], "order within a port"
    for number, one in zip(numbers, arrived, strict=True):
        assert len(one) == 64
        assert int.from_bytes(one[18:20]) == number // ports
        assert int.from_bytes(one[34:36]) == 32768 + number % ports
        assert checksum(one[14:34]) == 0
        assert one[40:42] != b"\0\0"
        assert checksum(one[26:34] + b"\0\x11" + one[38:40] + one[34:]) == 0


def cut(sock: RawSocket, count: int) -> tuple[list[bytes], int]:
    """Waits for `count` segments, and returns them and how many frames brought
    them."""
    sock.settimeout(WAIT)
    batch, segments = PacketBatch(64, SUPER_FRAME), PacketBatch(64)
    arrived: list[bytes] = []
    frames = 0
    while len(arrived) < count:
        frames += sock.recvmmsg_into(batch)
        frame, segment = 0, 0
        while frame < len(batch):
            frame, segment = batch.segment_into(segments, frame, segment)
            arrived += segments.tolist()
    return arrived, frames


def test_merge_sends_datagrams_that_arrive_one_by_one(veth: Veth) -> None:
    tool("ip")
    ip("address", "add", f"{HOST}/24", "dev", veth.b)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((HOST, 9))
        receiver.settimeout(WAIT)
        with example("merge.py", veth.a, HOST, "--count", "100") as running:
            running.rest()
        arrived = [receiver.recv(2048) for _ in range(100)]
    assert {len(one) for one in arrived} == {22}
    numbers = sorted(int.from_bytes(one[:8]) for one in arrived)
    assert numbers == [*range(100)]


def test_paced_keeps_the_rate(veth: Veth) -> None:
    with RawSocket(veth.b) as receiver:
        arguments = (veth.a, "--pps", "2000", "--count", "1000")
        with example("paced.py", *arguments) as running:
            printed = running.rest()
        frames = receive(receiver, 1000)
        assert pending(receiver) == []
    assert [int.from_bytes(one[14:22]) for one in frames] == [*range(1000)]
    found = re.fullmatch(
        r"1000 frames in ([\d.]+) s, (\d+) a second, \d+ retries\n", printed
    )
    assert found is not None, printed
    # As fast as asked for; on a machine under load it may take longer.
    assert float(found[1]) >= 0.49
    assert int(found[2]) <= 2050


def test_paced_ends_with_ctrl_c_and_counts_what_it_sent(veth: Veth) -> None:
    with RawSocket(veth.b) as receiver:
        with example("paced.py", veth.a, "--pps", "500") as running:
            frames = receive(receiver, 20)
            printed = running.interrupted()
        frames += pending(receiver)
    assert printed.startswith(f"{len(frames)} frames in ")


# Answering


def test_arp_responder_answers_the_kernel(veth: Veth) -> None:
    """The kernel asks for an address and believes the answer."""
    tool("ip")
    ip("address", "add", f"{HOST}/24", "dev", veth.a)
    hardware = hardware_address(veth.b).hex(":")
    with (
        example("arp_responder.py", veth.b, "192.0.2.7", "192.0.2.8") as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        until_open(veth.b)
        for address in ("192.0.2.7", "192.0.2.8"):
            sender.sendto(b"", (address, 9))
            assert one.lines(1) == [f"{HOST} asks"]
            until_neighbour(veth.a, f"{address} lladdr {hardware} REACHABLE")
        assert one.interrupted() == ""


def until_neighbour(interface: str, line: str) -> None:
    eventually(
        lambda: line in ip("neighbour", "show", "dev", interface),
        f"the kernel does not learn {line}",
    )


def test_arp_responder_answers_nothing_else(veth: Veth) -> None:
    ours, other = IPv4Address("192.0.2.7"), IPv4Address("192.0.2.9")
    request = arp_request(ours)
    others = [
        arp_request(other),
        request[:20] + b"\0\2" + request[22:],  # an answer
        request[:40],  # cut short
        request[:12] + bytes.fromhex("8100 0005") + request[12:],
        frame(bytes(46)),
    ]
    with (
        example("arp_responder.py", veth.b, str(ours)) as running,
        RawSocket(veth.a, ignore_outgoing=True) as asker,
    ):
        until_open(veth.b)
        asker.sendmmsg_all([*others, request])
        answers = receive(asker, 1)
        assert running.lines(1) == ["0.0.0.0 asks"]
        assert running.interrupted() == ""
        answers += pending(asker)
    hardware = hardware_address(veth.b)
    same_frames(
        answers,
        [
            SOURCE
            + hardware
            + bytes.fromhex("0806 0001 0800 0604 0002")
            + hardware
            + ours.packed
            + SOURCE
            + bytes(4)
            + request[42:]
        ],
    )


def arp_request(address: IPv4Address) -> bytes:
    """A probe (RFC 5227): the sender has no address yet."""
    start = bytes.fromhex("0001 0800 0604 0001") + SOURCE + bytes(4)
    payload = start + bytes(6) + address.packed + bytes(18)
    return frame(payload, ethertype=0x0806)


# Privileges


def nobody_can_run(name: str) -> bool:
    """Whether the user nobody exists here (a user namespace of a plain user
    has no other users), and can read this Python and the example (which may
    lie below /root)."""
    user = pwd.getpwnam("nobody")
    if not has_user(user.pw_uid):
        return False
    command = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
    command += ["--clear-groups", sys.executable, "-c"]
    command += ["import sys, rawmmsg; open(sys.argv[1])", str(FOLDER / name)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def test_unprivileged_child_reads_what_the_filter_accepts(
    veth: Veth,
) -> None:
    users = {"root": os.getuid()}
    if nobody_can_run("unprivileged_child.py"):
        users["nobody"] = pwd.getpwnam("nobody").pw_uid
    for user, number in users.items():
        options = () if user == "root" else ("--user", user)
        arguments = (veth.b, "ether proto 0x88b5", *options)
        with example("unprivileged_child.py", *arguments) as running:
            assert running.lines(1) == [f"the child is user {number}"]
            (child,) = running.children()
            status = Path(f"/proc/{child}/status").read_text()
            for kind in ("Prm", "Eff", "Bnd"):
                assert f"Cap{kind}:\t{0:016x}\n" in status, status
            send(veth.a, frame(bytes(46), ethertype=0x0800), numbered(1, 99))
            assert running.lines(1) == ["99 bytes"]
            assert running.interrupted() == ""


def test_unprivileged_child_that_fails_is_a_failure(veth: Veth) -> None:
    with example("unprivileged_child.py", veth.b, "arp") as running:
        assert running.lines(1)[0].startswith("the child is user")
        ip("link", "set", veth.b, "down")
        assert running.process.wait(WAIT) == 1


@pytest.mark.no_network
def test_unprivileged_child_names_a_user_that_does_not_exist() -> None:
    arguments = ("lo", "arp", "--user", "nobody-here")
    with example("unprivileged_child.py", *arguments) as running:
        assert running.process.wait(WAIT) == 2
        assert running.lines(2)[1].endswith("there is no user nobody-here")


def test_fault_injector_drops_delays_and_damages(network: Network) -> None:
    a, b = network.ports
    with (
        RawSocket(network.left.a, ignore_outgoing=True) as sender,
        RawSocket(network.right.a, ignore_outgoing=True) as receiver,
        example(
            "fault_injector.py",
            *("--drop", "10", "--delay", "10", "--damage", "10"),
            *(f"interface:{a},plain", f"interface:{b},plain"),
        ) as running,
    ):
        until_open(a, b)
        sender.sendmmsg_all([numbered(i, src=SOURCE) for i in range(400)])
        seen: list[bytes] = []
        numbers: list[int] = []

        def all_faults() -> bool:
            seen.extend(pending(receiver))
            numbers[:] = [number_of(one) for one in seen if is_intact(one)]
            is_damaged = len(numbers) < len(seen)
            return is_damaged and numbers != sorted(numbers)

        eventually(all_faults, "no frame is damaged, or none is late")
        printed = running.interrupted()
    found = re.search(rf"{a} (\d+) frames {{'hook': (\d+)}}", printed)
    assert found is not None, printed
    # Those that were late count as received, and as dropped, once more.
    assert int(found[1]) - int(found[2]) >= len(seen)
    assert len(seen) < 400


def is_intact(packet: bytes) -> bool:
    try:
        number_of(packet)
    except AssertionError:
        return False
    return True
