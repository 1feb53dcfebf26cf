"""Sends numbered frames at a steady rate, and says what rate it was.

    sudo python examples/paced.py eth1 --pps 1000 --count 5000

Ctrl-C ends it. Without --count, it runs until then.
"""

import argparse
import signal
from collections.abc import Iterator
from itertools import count, islice
from threading import Event

from rawmmsg import RawSocket, pacing

# To everybody, from a local address, with an EtherType for experiments.
HEADER = bytes.fromhex("ffffffffffff 020000000001 88b5")


def frames() -> Iterator[bytes]:
    """Makes the frames while they are sent."""
    for number in count():
        yield HEADER + number.to_bytes(8) + bytes(38)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send frames at a rate.")
    parser.add_argument("interface")
    parser.add_argument("--pps", type=float, default=1000)
    parser.add_argument("--count", type=int, help="default: until Ctrl-C")
    args = parser.parse_args()
    stop = Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    with RawSocket(args.interface, protocol=0) as sock:
        result = pacing.send(
            sock, islice(frames(), args.count), pps=args.pps, stop=stop
        )
    if result.refusal:
        raise result.refusal
    print(result.frames, "frames in", round(result.seconds, 2), "s,", end=" ")
    print(round(result.rate), "a second,", result.retries, "retries")


if __name__ == "__main__":
    main()
