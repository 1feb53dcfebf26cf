"""Is there a socket whose filter rejects every packet?"""

from collections.abc import Iterator
from typing import Final

from ...bpf import Program, opcodes
from ..finding import Finding, note, ok, problem
from ..kernel.processes import owners
from ..kernel.sockets import PacketSocket
from ..sample import Sample
from .privileges import administers_network

__all__ = ["check", "rejects_everything"]

NAME: Final = "filters"


def check(before: Sample, after: Sample) -> Iterator[Finding]:
    """A socket may reject everything for a moment, while it changes its
    filter, so both samples must show it."""
    if not administers_network():
        yield note(
            NAME,
            "the filters of sockets were not looked at: this needs"
            " CAP_NET_ADMIN",
            "run as root",
        )
        return
    earlier = {sock.inode for sock in _rejecting(before)}
    rejecting = [sock for sock in _rejecting(after) if sock.inode in earlier]
    names = owners({sock.inode for sock in rejecting})
    for sock in rejecting:
        name = names.get(sock.inode, f"inode {sock.inode}")
        yield problem(
            NAME,
            f"the filter of a packet socket rejects every packet: {name}",
            "attach another filter; to see one: rawmmsg filter EXPRESSION",
            socket=sock.inode,
        )
    if not rejecting:
        count = sum(sock.filter is not None for sock in after.sockets)
        yield ok(
            NAME,
            "no packet socket rejects every packet"
            f" (sockets: {len(after.sockets)}, with a filter: {count})",
            sockets=len(after.sockets),
            filters=count,
        )


def _rejecting(sample: Sample) -> list[PacketSocket]:
    return [
        sock
        for sock in sample.sockets
        if sock.protocol  # else it receives nothing anyway
        and sock.filter is not None
        and rejects_everything(sock.filter)
    ]


def rejects_everything(program: Program) -> bool:
    """Returns whether every path through the program ends with `ret #0`."""
    instructions = program.instructions
    reached = {0}
    # Jumps only go forward, so one pass is enough.
    for index, (code, jt, jf, k) in enumerate(instructions):
        if index not in reached:
            continue
        kind = code & 0x07  # linux/bpf_common.h:BPF_CLASS()
        if kind == opcodes.BPF_RET:
            if code != opcodes.BPF_RET | opcodes.BPF_K or k != 0:
                return False
        elif code == opcodes.BPF_JMP | opcodes.BPF_JA:
            reached.add(index + 1 + k)
        elif kind == opcodes.BPF_JMP:
            reached |= {index + 1 + jt, index + 1 + jf}
        else:
            reached.add(index + 1)
    return True
