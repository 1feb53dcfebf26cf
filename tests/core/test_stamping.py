"""Who makes the kernel stamp packets: a switch of the whole machine, which
one socket anywhere turns on for all."""

import socket
import struct
import time

from support.calls import eventually
from support.frames import frame
from support.linux import SO_TIMESTAMPNS

from rawmmsg import PacketBatch, RawSocket


def somebody_stamps() -> bool:
    """Whether packets are stamped that nobody here wants stamped.

    A socket that asks for stamps only when the packet is there already is
    given the time of the arrival where it was noted, and else that of now.
    Good for one answer: having asked, it has turned the switch itself, which
    the kernel turns back a while later.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.sendto(b"stamped?", receiver.getsockname())
        time.sleep(0.1)
        asked = time.time_ns()
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        _, control, _, _ = receiver.recvmsg(64, 64, socket.MSG_DONTWAIT)
    (stamp,) = [
        data
        for level, kind, data in control
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS)
    ]
    seconds, nanoseconds = struct.unpack("@ll", stamp)
    return bool(seconds * 10**9 + nanoseconds < asked)


def test_one_stamping_socket_has_all_packets_stamped() -> None:
    """Why timestamps= is off by default. That a default socket turns nothing
    on cannot be seen so, since any other process may have: for that see the
    system calls."""
    with (
        RawSocket("lo", timestamps="software") as sock,
        RawSocket("lo", protocol=0) as sender,
    ):
        batch = PacketBatch(1)

        def switch_is_on() -> bool:
            """Whether a packet has the time of its arrival, not of its
            reading: the kernel turns the switch from a work queue."""
            sender.send(frame(bytes(46)))
            time.sleep(0.1)
            asked = time.time_ns()
            sock.recvmmsg_into(batch)
            return batch.timestamps_ns[0] < asked

        eventually(switch_is_on, "its own packets are not stamped")
        assert somebody_stamps(), "packets of others are not stamped"
