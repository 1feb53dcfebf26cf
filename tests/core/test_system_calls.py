"""Which system calls are made, as strace(1) sees them."""

import re
from collections import Counter
from pathlib import Path

import pytest
from support.system_calls import between, trace

from rawmmsg.testing import Veth

BATCHES = 1000

# How the memory allocators of C and Python may get and give back memory, now
# and then.
MEMORY = {"brk", "mmap", "munmap", "madvise", "mremap", "mprotect"}


def without_memory(counts: Counter[str]) -> Counter[str]:
    """The counts without those of MEMORY, which must be few (sanitizers ask
    for more of it than others)."""
    assert sum(counts[name] for name in MEMORY) < BATCHES / 2, (
        f"memory is allocated again and again: {counts}"
    )
    return Counter(
        {name: count for name, count in counts.items() if name not in MEMORY}
    )


@pytest.mark.parametrize("given", ["batch", "list"])
def test_a_batch_is_one_system_call_each_way(
    tmp_path: Path, pair: Veth, given: str
) -> None:
    """1,000 batches of 64: nothing per packet, and nothing else per batch
    where packets wait."""
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
    # A packet is weighed a moment before it is in the queue, so that at times
    # the last one of a batch can be missed.
    assert BATCHES <= counts["recvmmsg"] <= BATCHES * 1.01
    assert set(counts) == {"sendmmsg", "recvmmsg"}, "other calls are made"


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


def test_nothing_waits_until_the_queue_was_found_empty(
    tmp_path: Path, pair: Veth
) -> None:
    """A receive tries first, then polls."""
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
    about_the_wait = {"ioctl", "getsockname"}  # is the interface still there?
    assert set(waiting) - about_the_wait == {"recvmmsg", "ppoll"}
    at_once = without_memory(between(lines, "begin non-b", "end of it"))
    assert at_once == {"recvmmsg": 1}


STAMPING = re.compile(
    r"SO_TIMESTAMP|SO_TIMESTAMPING|SIOCGSTAMP|SIOCSHWTSTAMP|PACKET_TIMESTAMP"
    # Their numbers, for a strace that lacks the newest names.
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
        tested.attach_filter(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
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
    accept = struct.pack("HBBI", 6, 0, 0, 0xFFFF)
    use(RawSocket(fileno=adopted.detach(), vlan=True, filter=accept))
"""


def test_no_stamping_option_is_ever_touched_by_default(
    tmp_path: Path, pair: Veth
) -> None:
    lines = trace(
        tmp_path, pair, EVERYTHING, "-e", "trace=setsockopt,getsockopt,ioctl"
    )
    assert [line for line in lines if "SO_RCVBUF" in line], "nothing is seen"
    assert [line for line in lines if STAMPING.search(line)] == []


def test_software_timestamps_set_one_option(
    tmp_path: Path, pair: Veth
) -> None:
    """Which shows that the test above would see it."""
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
    """socket(protocol 0), options, filter, membership, bind, SO_ERROR: the
    order that lets nothing in which is not wanted."""
    code = """
        mark("begin")
        tested = RawSocket(
            B, promisc=True, timestamps="software", ignore_outgoing=True,
            filter=struct.pack("HBBI", 6, 0, 0, 0xFFFF),
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


def test_new_filter_goes_on_an_empty_queue(tmp_path: Path, pair: Veth) -> None:
    """The old one is read, so that it can be put back, and the new one tried;
    then everything is rejected, and what waits is read away before the new one
    goes on for good."""
    code = """
        sender.sendmmsg([FRAME] * 3)
        wait_for(std, 3)
        two = struct.pack("HBBI", 0, 0, 0, 1) + struct.pack("HBBI", 6, 0, 0, 9)
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
    assert "EAGAIN" in reads[-1], "it was not read to the end"
    assert "SO_ATTACH_FILTER" in final
    assert "len=2" in final
