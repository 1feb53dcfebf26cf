"""Sends packets at a given rate, in packets or megabits per second.

    from rawmmsg import RawSocket, pacing

    with RawSocket("eth1", protocol=0) as sock:
        result = pacing.send(sock, frames, pps=10_000, loop=100)
    print(result.frames, "frames in", round(result.seconds, 2), "s")

Each packet has a time at which it is due, counted from the start of the call.
So the rate is exact even if single sleeps return late, unless the machine is
too slow for it.
"""

# Every frame has a position on an axis of its own: packets, bits or seconds of
# a recording. A Pacer says when a position is due, an Outlet sends frames past
# full queues, and send_loads() joins the two:
#
#     wait until the next frame is due  ->  send, in one call, all that are due
#
# A MergingSender merges the frames of such a call. Everything else still
# counts frames.

from .sending import SendResult, StopEvent, send

__all__ = ["SendResult", "StopEvent", "send"]
