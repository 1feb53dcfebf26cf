"""Runs User-mode Linux with a network card that is on an interface.

    sudo python examples/user_mode_linux.py eth0 mem=256M root=/dev/ubda

The arguments after the interface are those of linux.uml, without the network.
Bridge and guest are the two ends of a pair of sockets, which has no path.
"""

import argparse
import socket
import subprocess
import sys


def bridge(interface: str, end: int) -> "subprocess.Popen[bytes]":
    """Starts the bridge. It ends when the guest does."""
    command = [sys.executable, "-m", "rawmmsg", "bridge", interface]
    return subprocess.Popen([*command, f"fd:{end}"], pass_fds=[end])


def guest(
    program: str, options: list[str], end: int
) -> "subprocess.Popen[bytes]":
    """Starts the guest. Each message on its socket is a frame."""
    card = f"vec0:transport=fd,fd={end}"
    return subprocess.Popen([program, *options, card], pass_fds=[end])


def main() -> None:
    parser = argparse.ArgumentParser(description="Run User-mode Linux.")
    parser.add_argument("--uml", default="linux.uml")
    parser.add_argument("interface")
    parser.add_argument("options", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        switch = bridge(args.interface, ours.fileno())
        machine = guest(args.uml, args.options, theirs.fileno())
    # Only the two programs have the sockets now, so each sees the other end.
    machine.wait()
    switch.wait()


if __name__ == "__main__":
    main()
