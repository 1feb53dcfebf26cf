"""How many system calls a sniff makes, counted by strace(1)."""

from collections import Counter
from pathlib import Path

import pytest
from support.system_calls import between, trace

from rawmmsg.testing import Veth

PACKETS = 4096

CODE = """
    from scapy.sendrecv import sniff
    from rawmmsg.scapy import BatchSession, L2RawMmsgListenSocket, RawSniffer

    def through_scapy(session):
        sniff(opened_socket=listener, count={count}, store=False,
              session=session, timeout=30)

    def raw():
        with RawSniffer(opened_socket=listener, count={count}) as frames:
            for frame in frames:
                pass

    listener = L2RawMmsgListenSocket(iface=B)
    run = {run}
    for _ in range({count} // 1024):
        sender.sendmmsg_all([FRAME] * 1024)
    mark("begin")
    run()
    mark("end")
    listener.close()
    sock.setblocking(False)
"""

RUNS = {
    "sniff": "lambda: through_scapy(None)",
    "session": "lambda: through_scapy(BatchSession)",
    "raw": "raw",
}


@pytest.mark.parametrize("run", RUNS)
def test_sniffing_makes_few_system_calls(
    tmp_path: Path, pair: Veth, run: str
) -> None:
    """Scapy's own socket makes three for each packet. None of these asks for
    time stamps."""
    code = CODE.format(count=PACKETS, run=RUNS[run])
    lines = trace(tmp_path, pair, code)
    counts: Counter[str] = between(lines, "begin", "end")
    # Memory that Python allocates for its objects does not count.
    for name in ("mmap", "munmap", "brk", "madvise", "mremap"):
        del counts[name]
    assert counts["recvmmsg"] >= PACKETS // 1024, (
        "the trace does not show the sniff"
    )
    assert counts.total() <= 0.05 * PACKETS, f"{counts}"
    assert not [line for line in lines if line.startswith("epoll_ctl")], (
        "an epoll descriptor although fileno() was not called"
    )
    options = [line for line in lines if line.startswith("setsockopt")]
    assert options, "the trace shows no options at all"
    assert not [line for line in options if "TIMESTAMP" in line]
    assert not [line for line in lines if "SIOCGSTAMP" in line]
