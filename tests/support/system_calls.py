"""The system calls that Python code makes, as strace(1) sees them."""

import textwrap
from collections import Counter
from pathlib import Path
from typing import Final

from rawmmsg.testing import Veth
from support.child import run_python, tool

_PRELUDE: Final = """
    import os, socket, struct
    from rawmmsg import PacketBatch, RawSocket
    from support.frames import PACKET as FRAME
    from support.programs import LD_IMM, RET, accept, program

    A, B = {a!r}, {b!r}

    def mark(name):
        '''Shows up among the system calls.'''
        os.access(f"/mark/{{name}}", os.F_OK)

    def wait_for(std, count):
        '''Until `count` packets wait, of which none weighs less than the
        first. The call that asks (SO_MEMINFO) is the test's own.'''
        while True:
            used = struct.unpack_from("I", std.getsockopt(1, 55, 64))[0]
            if used >= count * weight:
                return

    sender = RawSocket(A, protocol=0)
    sock = RawSocket(B)
    sock.settimeout(30)
    std = socket.socket(fileno=os.dup(sock.fileno()))
    weight = 1
    sender.send(FRAME)
    wait_for(std, 1)
    weight = struct.unpack_from("I", std.getsockopt(1, 55, 64))[0]
    sock.recv(100)
"""

_POSTLUDE: Final = """
    std.close()
    sock.close()
    sender.close()
"""


def trace(directory: Path, pair: Veth, code: str, *options: str) -> list[str]:
    """The system calls of the code, one a line, in all its threads."""
    log = directory / "strace"
    parts = (_PRELUDE.format(a=pair.a, b=pair.b), code, _POSTLUDE)
    run_python(
        "".join(textwrap.dedent(part) for part in parts),
        *(tool("strace"), "-f", "-qq", "-s", "64", "-o", str(log), *options),
    )
    lines = log.read_text(errors="replace").splitlines()
    return [line.split(maxsplit=1)[1] for line in lines]


def between(lines: list[str], begin: str, end: str) -> Counter[str]:
    """Counts the calls between two marks, except those that the test itself
    makes."""
    (first,) = [i for i, line in enumerate(lines) if f"/mark/{begin}" in line]
    (last,) = [i for i, line in enumerate(lines) if f"/mark/{end}" in line]
    return Counter(
        line.partition("(")[0]
        for line in lines[first + 1 : last]
        if "SO_MEMINFO" not in line
    )
