"""Hostile front ends: connections that pass messages and descriptors of every
kind, in every piece and order."""

import array
import errno
import random
import socket
from contextlib import suppress
from typing import Final

from vhost_descriptors import Passed
from vhost_guest import Guest
from vhost_messages import Messages, Sent

CONNECTIONS: Final = 3
"""How many are open at once, at most."""


class Peers:
    """All front ends of one server."""

    def __init__(
        self,
        draw: random.Random,
        path: str,
        passed: Passed,
        *,
        lingers: bool = True,
    ) -> None:
        self._lingers = lingers
        self._draw = draw
        self._path = path
        self._passed = passed
        self._messages = Messages(draw, passed)
        self.guests = [Guest(draw, passed.memory, n) for n in range(2)]
        self._open: list[socket.socket] = []

    def step(self) -> None:
        kind = self._draw.randrange(100)
        try:
            if not self._open or kind < 2:
                self._connect()
            else:
                self._use(self._choose(), kind)
        except (BlockingIOError, ConnectionError):
            pass  # the back end has not read it, or has closed it
        except OSError as error:
            # A user other than root may pass only so many at a time.
            if error.errno != errno.ETOOMANYREFS:
                raise

    def _choose(self) -> socket.socket:
        """Nearly always the first one, because the others are refused."""
        return self._draw.choice(
            self._open[: self._draw.choice([*8 * [1], 9])]
        )

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def _use(self, sock: socket.socket, kind: int) -> None:
        draw = self._draw
        if kind < 5:
            self._leave(sock)
        elif kind < 15:
            with suppress(BlockingIOError):
                while sock.recv(1 << 16):
                    pass
        elif kind < 35:
            self._passed.kick()
        elif kind < 55:
            draw.choice(self.guests).step()
        elif kind < 57:
            self.set_up(sock)
        elif kind < 59:
            self._linger(sock)
        else:
            self._send(sock, self._messages.any())

    def _connect(self) -> None:
        draw = self._draw
        if len(self._open) == CONNECTIONS:
            self._open.pop(draw.randrange(CONNECTIONS)).close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        self._open.append(sock)
        with suppress(BlockingIOError):
            sock.connect(self._path)
            if draw.randrange(4):
                self.set_up(sock)

    def _leave(self, sock: socket.socket) -> None:
        match self._draw.randrange(4):
            case 0:
                sock.shutdown(socket.SHUT_RD)
            case 1:
                sock.shutdown(socket.SHUT_WR)
            case _:
                self._open.remove(sock)
                sock.close()

    def set_up(self, sock: socket.socket) -> int:
        """Sends what makes both rings run; returns how many messages."""
        sizes, sent = self._messages.set_up()
        for guest, size in zip(self.guests, sizes, strict=True):
            guest.reset(size)
        for one in sent:
            socket.send_fds(sock, [one.data], one.descriptors)
        return len(sent)

    def _linger(self, sock: socket.socket) -> None:
        if self._draw.randrange(2) or not self._lingers:
            self._passed.forget_lingering()
            return
        with self._passed.lingering() as descriptor:
            sent = self._messages.any()
            self._send(sock, Sent(sent.data, [descriptor]))

    def _send(self, sock: socket.socket, sent: Sent) -> None:
        """In one or several pieces, of which any has the descriptors."""
        draw = self._draw
        data, descriptors = sent
        if draw.randrange(20):
            socket.send_fds(sock, [data], descriptors)
            return
        pieces = self._cut(data)
        with_them = draw.randrange(len(pieces))
        for number, piece in enumerate(pieces):
            given = descriptors if number == with_them else []
            flags = socket.MSG_OOB * (not draw.randrange(10))
            rights = array.array("i", given)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            # Urgent data are one byte.
            sock.sendmsg([piece[:1] if flags else piece], ancillary, flags)

    def _cut(self, data: bytes) -> list[bytes]:
        draw = self._draw
        ends = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        pieces = [data[: ends[0]], data[ends[0] : ends[1]], data[ends[1] :]]
        return [piece for piece in pieces if piece]
