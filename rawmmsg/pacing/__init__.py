"""Sends packets at a pace: a number of packets or megabits per second.

    from rawmmsg import RawSocket, pacing

    with RawSocket("eth1", protocol=0) as sock:
        result = pacing.send(sock, frames, pps=10_000, loop=100)
    print(result.frames, "frames in", round(result.seconds, 2), "s")

Time is compared with where the frames should be, never added up from sleeps,
so the rate is exact however late each sleep returns, unless the machine is too
slow for it.
"""

# Every frame has a position on an axis of its own: packets, bits or seconds of
# a recording. A Pacer says when a position is due, an Outlet sends frames past
# full queues, and send_loads() joins the two:
#
#     wait until the next frame is due  ->  send, in one call, all that are due

from .sending import SendResult, StopEvent, send

__all__ = ["SendResult", "StopEvent", "send"]
