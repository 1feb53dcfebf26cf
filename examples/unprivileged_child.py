"""Opens a socket as root, and reads it in a child that has no privilege.

    sudo python examples/unprivileged_child.py eth0 'udp port 53' --user nobody

The child inherits the descriptor. It has no capability, so it cannot open
another packet socket, and it cannot change the filter. Ctrl-C ends both.
"""

import argparse
import os
import pwd
import subprocess
import sys
from contextlib import suppress

from rawmmsg import PacketBatch, RawSocket


def read(descriptor: int) -> None:  # in the child
    print("the child is user", os.getuid(), flush=True)
    batch = PacketBatch()
    with RawSocket(fileno=descriptor) as sock, suppress(KeyboardInterrupt):
        while True:
            sock.recvmmsg_into(batch)
            for frame in batch:
                print(len(frame), "bytes", flush=True)


def main() -> None:  # in the parent
    parser = argparse.ArgumentParser(description="Drop privileges.")
    parser.add_argument("interface")
    parser.add_argument("filter")
    parser.add_argument("--user", help="of the child")
    args = parser.parse_args()
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if args.user is not None:
        try:
            user = pwd.getpwnam(args.user)
        except KeyError:
            parser.error(f"there is no user {args.user}")
        ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
        drop += [*ids, "--clear-groups"]
    with RawSocket(args.interface, filter=args.filter) as sock:
        sock.lock_filter()  # nobody can change it, not even root
        descriptor = sock.fileno()
        command = [*drop, sys.executable, __file__, "--child", str(descriptor)]
        with (
            subprocess.Popen(command, pass_fds=[descriptor]) as child,
            suppress(KeyboardInterrupt),  # the child gets Ctrl-C too
        ):
            child.wait()
    sys.exit(child.returncode)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        read(int(sys.argv[2]))
    else:
        main()
