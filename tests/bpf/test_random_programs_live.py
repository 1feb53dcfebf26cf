"""Random programs on a real packet socket: what they compute from a received
frame and from what is beside it, ``accept_length()`` computes too.
"""

from __future__ import annotations

import random
import select
import socket
import struct
from contextlib import ExitStack
from typing import NamedTuple

from bpfkit import kernel, packets, randomly
from bpfkit.effort import Effort
from bpfkit.effort import effort as effort
from hypothesis import strategies as st
from support import WAIT
from support.linux import ETH_P_ALL

from rawmmsg.bpf import Program
from rawmmsg.bpf import opcodes as op
from rawmmsg.testing import Veth

SOL_PACKET, PACKET_AUXDATA, VLAN_VALID = 263, 8, 0x10
ARPHRD_ETHER = 1
SKF_AD_MARK = 20

SEEDS = st.integers(0, 2**32)
FIELDS = (
    *(op.SKF_AD_PROTOCOL, op.SKF_AD_PKTTYPE, op.SKF_AD_IFINDEX, SKF_AD_MARK),
    *(op.SKF_AD_HATYPE, op.SKF_AD_ALU_XOR_X, op.SKF_AD_VLAN_TAG),
    *(op.SKF_AD_VLAN_TAG_PRESENT, op.SKF_AD_VLAN_TPID),
)


class Arrived(NamedTuple):
    """A frame as a packet socket delivers it."""

    frame: bytes
    tag: tuple[int, int] | None
    packet_type: int


class Receiver:
    """Two packet sockets on one interface, one of them with a filter.

    The kernel passes a frame to the socket that was bound last first. So when
    the socket without a filter has the frame, the other one has seen it.
    """

    def __init__(self, interface: str, stack: ExitStack) -> None:
        self.ifindex = socket.if_nametoindex(interface)
        self.sockets = [
            stack.enter_context(
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            )
            for _ in range(2)
        ]
        for sock in self.sockets:
            sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            sock.bind((interface, ETH_P_ALL))

    def everything(self) -> Arrived:
        """The next frame; waits for it."""
        whole = self.sockets[0]
        assert select.select([whole], [], [], WAIT)[0], "the frame arrives"
        frame, messages, _, address = whole.recvmsg(1 << 16, 256)
        ((_, _, data),) = messages
        status, *_, tci, tpid = struct.unpack("IIIHHHH", data)
        tag = (tci, tpid) if status & VLAN_VALID else None
        return Arrived(frame, tag, address[2])

    def delivered(self) -> bytes | None:
        """What the filter has let through of this frame."""
        try:
            return self.sockets[1].recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None


# With tags and without, all longer than 64 bytes.
FRAMES = [
    frame.ljust(80, b"\xa5")
    for name, frame in sorted(packets.ethernet_frames().items())
    if len(frame) < 1000 and (name.startswith(("vlan", "qinq", "ip")))
][::4]


def test_the_kernel_has_the_same_verdict_on_a_frame(
    pair: Veth, effort: Effort
) -> None:
    with ExitStack() as stack:
        receiver = Receiver(pair.b, stack)
        sender = stack.enter_context(
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        )
        sender.bind((pair.a, 0))

        def check(seed: int) -> None:
            rng = random.Random(seed)
            maker = randomly.Maker(rng, FIELDS, special=True)
            program = Program.from_instructions(maker.program())
            kernel.attach(receiver.sockets[1], program)
            for frame in rng.sample(FRAMES, 5):
                sender.send(frame)
                seen = receiver.everything()
                accepted = program.accept_length(
                    seen.frame,
                    vlan=seen.tag,
                    packet_type=seen.packet_type,
                    ifindex=receiver.ifindex,
                    ancillary={op.SKF_AD_HATYPE: ARPHRD_ETHER},
                )
                foretold = seen.frame[:accepted] if accepted else None
                assert receiver.delivered() == foretold, (
                    f"accept_length() is {accepted}, as in the kernel, for "
                    f"{seen} and\n{program.disassemble()}"
                )

        effort.check(300, check, SEEDS)
