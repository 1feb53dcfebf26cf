"""How much of what a socket has sent still waits on this machine."""

import fcntl
import struct
import termios

from ._rawmmsg import RawSocket


def bytes_queued(sock: RawSocket) -> int:
    """Memory of the packets that the socket has sent and that have not left
    yet (socket(7): SIOCOUTQ)."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])
