"""Which sockets make the kernel timestamp packets. The kernel has one switch
for the whole machine: one socket turns it on for all."""

import socket
import struct
import time

from support.calls import eventually
from support.frames import frame
from support.linux import SO_TIMESTAMPNS

from rawmmsg import PacketBatch, RawSocket


def packets_are_timestamped() -> bool:
    r"""Whether another socket on this machine has timestamping turned on.

    A socket that asks for timestamps when the packet has already arrived gets
    the time of arrival if it was recorded, or else the current time. This
    works only once, because asking turns the switch on. The kernel turns it
    off some time later.
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


def test_one_timestamping_socket_makes_the_kernel_timestamp_all_packets() -> (
    None
):
    """This is why timestamps= is off by default. Whether a default socket
    turns the switch on cannot be tested here, because another process may have
    turned it on; test_system_calls.py tests that."""
    with (
        RawSocket("lo", timestamps="software") as sock,
        RawSocket("lo", protocol=0) as sender,
    ):
        batch = PacketBatch(1)

        def switch_is_on() -> bool:
            """Whether a packet has the time of its arrival, not that of
            reading it. The kernel turns the switch on later, in a work
            queue."""
            sender.send(frame(bytes(46)))
            time.sleep(0.1)
            asked = time.time_ns()
            sock.recvmmsg_into(batch)
            return batch.timestamps_ns[0] < asked

        eventually(switch_is_on, "its own packets are not stamped")
        assert packets_are_timestamped(), (
            "packets of other sockets have no timestamp"
        )
