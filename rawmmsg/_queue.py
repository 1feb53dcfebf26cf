"""The output queue of a socket."""

import fcntl
import struct
import termios

from ._rawmmsg import RawSocket


def bytes_queued(sock: RawSocket) -> int:
    """Returns how much memory is in use by packets that the socket has sent
    and that have not left this machine yet (socket(7): SIOCOUTQ)."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])
