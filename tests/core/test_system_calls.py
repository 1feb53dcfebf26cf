"""The system calls that rawmmsg makes, as strace(1) shows them."""

import re
from collections import Counter
from pathlib import Path

import pytest
from support import MUSL
from support.system_calls import between, trace

from rawmmsg.testing import Veth

BATCHES = 1000

# Calls of the memory allocators of C and Python, which are made now and then.
MEMORY = {"brk", "mmap", "munmap", "madvise", "mremap", "mprotect"}


def without_memory(counts: Counter[str]) -> Counter[str]:
    """The counts without those of MEMORY, which must be few (sanitizers make
    more of them). With musl, every free() may give memory back."""
    assert MUSL or sum(counts[name] for name in MEMORY) < BATCHES / 2, (
        f"memory is allocated in every round: {counts}"
    )
    return Counter(
        {name: count for name, count in counts.items() if name not in MEMORY}
    )


@pytest.mark.parametrize("given", ["batch", "list"])
def test_a_batch_is_one_system_call_in_each_direction(
    tmp_path: Path, pair: Veth, given: str
) -> None:
    """1,000 batches of 64 packets, all of them queued: no call per packet, and
    no other call per batch."""
    code = f"""
        out = PacketBatch()
        out.extend([FRAME] * 64)
        packets = out if {given!r} == "batch" else [FRAME] * 64
        batch = PacketBatch()
        mark("begin")
        for _ in range({BATCHES}):
            sent = sender.sendmmsg(packets)
            assert sent == 64
            wait_for(std, 64)
            received = 0
            while received < 64:
                received += sock.recvmmsg_into(batch)
        mark("end")
    """
    lines = trace(tmp_path, pair, code, "-e", "raw=sendmmsg,recvmmsg")
    counts = without_memory(between(lines, "begin", "end"))
    assert counts["sendmmsg"] == BATCHES
    # The kernel counts the memory of a packet just before it queues it, so a
    # receive may miss the last packet of a batch.
    assert BATCHES <= counts["recvmmsg"] <= BATCHES * 1.01
    assert set(counts) == {"sendmmsg", "recvmmsg"}, "there are other calls"


def test_calls_for_one_packet_are_one_system_call_each(
    tmp_path: Path, pair: Veth
) -> None:
    code = """
        buffer = bytearray(2048)
        mark("begin")
        for _ in range(100):
            sender.send(FRAME)
            wait_for(std, 1)
            sock.recv(2048)
            sender.send(FRAME)
            wait_for(std, 1)
            sock.recv_into(buffer)
        mark("end")
    """
    lines = trace(tmp_path, pair, code, "-e", "raw=sendmmsg,recvmmsg")
    counts = without_memory(between(lines, "begin", "end"))
    assert counts["sendmmsg"] == 200
    assert 200 <= counts["recvmmsg"] <= 202
    assert set(counts) - {"ppoll"} == {"sendmmsg", "recvmmsg"}


def test_receive_tries_before_it_waits(tmp_path: Path, pair: Veth) -> None:
    code = """
        sock.settimeout(0.01)
        mark("begin")
        try:
            sock.recvmmsg_into(PacketBatch(1))
        except TimeoutError:
            pass
        mark("end")
        sock.setblocking(False)
        mark("begin non-blocking")
        try:
            sock.recvmmsg_into(PacketBatch(1))
        except BlockingIOError:
            pass
        mark("end of it")
    """
    lines = trace(tmp_path, pair, code)
    waiting = without_memory(between(lines, 'begin"', 'end"'))
    assert waiting["ppoll"] >= 1
    assert waiting["recvmmsg"] == waiting["ppoll"] + 1
    about_the_wait = {
        "ioctl",
        "getsockname",
    }  # whether the interface still exists
    assert set(waiting) - about_the_wait == {"recvmmsg", "ppoll"}
    at_once = without_memory(between(lines, "begin non-b", "end of it"))
    assert at_once == {"recvmmsg": 1}


STAMPING = re.compile(
    r"SO_TIMESTAMP|SO_TIMESTAMPING|SIOCGSTAMP|SIOCSHWTSTAMP|PACKET_TIMESTAMP"
    # As numbers, because older versions of strace lack the newest names.
    r"|SOL_SOCKET, 0x(1d|23|25|3f|40|41),|0x89(06|07|b0)"
)

EVERYTHING = """
    def use(tested):
        batch = PacketBatch()
        tested.settimeout(30)
        sender.send(FRAME)
        tested.recvmmsg_into(batch)
        sender.send(FRAME)
        tested.recv(2048)
        sender.send(FRAME)
        tested.recv_into(bytearray(2048))
        tested.setblocking(False)
        try:
            while True:
                tested.recvmmsg_into(batch)
        except BlockingIOError:
            pass
        tested.attach_filter(accept())
        tested.detach_filter()
        tested.statistics()
        tested.getsockname()
        tested.mtu
        tested.close()

    use(RawSocket(B))
    use(RawSocket())
    use(RawSocket(B, vlan=False, addresses=True, promisc=True))
    use(RawSocket(B, type=socket.SOCK_DGRAM))
    adopted = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    adopted.bind((B, 3))
    use(RawSocket(fileno=adopted.detach(), vlan=True, filter=accept()))
"""


def test_no_timestamping_option_is_set_by_default(
    tmp_path: Path, pair: Veth
) -> None:
    lines = trace(
        tmp_path, pair, EVERYTHING, "-e", "trace=setsockopt,getsockopt,ioctl"
    )
    assert [line for line in lines if "SO_RCVBUF" in line], (
        "the trace is empty"
    )
    assert [line for line in lines if STAMPING.search(line)] == []


def test_software_timestamps_set_one_option(
    tmp_path: Path, pair: Veth
) -> None:
    """This shows that the test above would see it."""
    lines = trace(
        tmp_path,
        pair,
        'RawSocket(B, timestamps="software").close()',
        "-e",
        "trace=setsockopt,getsockopt,ioctl",
    )
    (line,) = [line for line in lines if STAMPING.search(line)]
    assert re.match(r"setsockopt\(.*SO_TIMESTAMPING(_OLD)?, \[24\]", line)


def test_constructor_binds_last(tmp_path: Path, pair: Veth) -> None:
    """Socket with protocol 0, options, filter, membership, bind, SO_ERROR. In
    this order, no unwanted packet is queued."""
    code = """
        mark("begin")
        tested = RawSocket(
            B, promisc=True, timestamps="software", ignore_outgoing=True,
            filter=accept(),
        )
        mark("end")
        tested.close()
    """
    lines = trace(tmp_path, pair, code)
    (first,) = [i for i, line in enumerate(lines) if "/mark/begin" in line]
    (last,) = [i for i, line in enumerate(lines) if "/mark/end" in line]
    made = [
        line
        for line in lines[first + 1 : last]
        if line.startswith(("socket(", "setsockopt(", "bind(", "getsockopt("))
    ]
    created, *options, filtered, joined, bound, checked = made
    assert re.match(
        r"socket\(AF_PACKET, SOCK_RAW\|SOCK_CLOEXEC, (htons\()?0\b", created
    )
    assert all(option.startswith("setsockopt(") for option in options)
    assert "SO_ATTACH_FILTER" in filtered
    assert "PACKET_ADD_MEMBERSHIP" in joined
    assert bound.startswith("bind(")
    assert "SO_ERROR" in checked


def test_new_filter_is_attached_to_an_empty_queue(
    tmp_path: Path, pair: Veth
) -> None:
    """The old filter is read, so that it can be restored, and the new one is
    tried. Then a filter rejects everything, the queue is drained, and the new
    filter is attached."""
    code = """
        sender.sendmmsg([FRAME] * 3)
        wait_for(std, 3)
        two = program((LD_IMM, 0, 0, 1), (RET, 0, 0, 9))
        mark("begin")
        sock.attach_filter(two)
        mark("end")
    """
    lines = trace(tmp_path, pair, code)
    (first,) = [i for i, line in enumerate(lines) if "/mark/begin" in line]
    (last,) = [i for i, line in enumerate(lines) if "/mark/end" in line]
    old, tried, rejecting, *reads, final = [
        line
        for line in lines[first + 1 : last]
        if line.partition("(")[0] not in MEMORY
    ]
    assert "SO_GET_FILTER" in old
    assert "SO_ATTACH_FILTER" in tried
    assert "len=2" in tried
    assert "SO_ATTACH_FILTER" in rejecting
    assert "len=1" in rejecting
    assert all(line.startswith("recvmmsg(") for line in reads)
    assert "EAGAIN" in reads[-1], "the queue was not drained"
    assert "SO_ATTACH_FILTER" in final
    assert "len=2" in final
