"""Front ends that come and go: one at a time has a session."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

from .connection import Connection
from .descriptors import Closer
from .rings import Rings
from .session import Session

__all__ = ["ConnectingServer", "ListeningServer", "Server"]

# A hostile front end can connect again and again.
_SENTENCES: Final = 10
_PERIOD: Final = 10.0


class Server(ABC):
    """A vhost-user back end for one network card. No call waits.

    `report` is called with problems; as the attribute, it limits how many.
    `notice` is called with what else the user may want to know; by default it
    is `report`.
    """

    def __init__(
        self,
        rings: Rings,
        report: Callable[[str], None],
        *,
        notice: Callable[[str], None] | None = None,
        trust_memory: bool = False,
    ) -> None:
        self._rings = rings
        self.report = _Limited(report)
        self._notice = self.report if notice is None else _Limited(notice)
        self._trust_memory = trust_memory
        self._closer = Closer()
        self.session: Session | None = None

    @property
    def readers(self) -> dict[int, Callable[[], bool]]:
        """What to call when a descriptor is readable or has any other event.
        The call returns whether this dictionary has changed.

        It is safe to make a call for an event of a descriptor that has been
        closed since, and whose number has been given to another one.
        """
        session = self.session
        if session is None:
            return {}
        readers: dict[int, Callable[[], bool]] = {
            descriptor: partial(self._kicked, index)
            for descriptor, index in session.kicks.items()
        }
        readers[session.fileno()] = self._serve
        return readers

    def tend(self) -> bool:
        """Call it a few times each second. Returns whether `readers` has
        changed."""
        return self.session is not None and self.session.tend()

    @abstractmethod
    def missing(self) -> str:
        """Returns why no guest is connected, if none is."""

    def close(self) -> None:
        """Ends the session. Opens no other."""
        self._end()

    def _begin(self, sock: socket.socket) -> None:
        self.session = Session(
            Connection(sock, self._closer),
            self._rings,
            self.report,
            trust_memory=self._trust_memory,
        )
        self._notice("a front end has connected")

    def _serve(self) -> bool:
        session = self.session
        if session is None:
            return False
        before = session.kicks
        if not session.serve():
            self._end()
            return True
        return session.kicks != before

    def _kicked(self, index: int) -> bool:
        return self.session is not None and self.session.kicked(index)

    def _end(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.close()
            self._notice("the front end has disconnected")


class ListeningServer(Server):
    """Front ends connect to us. The caller makes and unlinks `listener`."""

    def __init__(
        self,
        listener: socket.socket,
        rings: Rings,
        report: Callable[[str], None],
        *,
        notice: Callable[[str], None] | None = None,
        trust_memory: bool = False,
    ) -> None:
        super().__init__(
            rings,
            report,
            notice=notice,
            trust_memory=trust_memory,
        )
        listener.setblocking(False)
        self._listener = listener
        self._accepts = True

    @property
    def readers(self) -> dict[int, Callable[[], bool]]:
        readers = super().readers
        if self._accepts:
            readers[self._listener.fileno()] = self._accept
        return readers

    def tend(self) -> bool:
        changed = super().tend() or not self._accepts
        self._accepts = True
        return changed

    def missing(self) -> str:
        return f"no front end has connected to {self._listener.getsockname()}"

    def close(self) -> None:
        """Closes the listener, too, without waiting: peers may have passed
        descriptors over connections that were not accepted yet."""
        super().close()
        self._accepts = False
        if self._listener.fileno() >= 0:
            self._closer.close([self._listener.detach()])

    def _accept(self) -> bool:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # it has gone again
            return False
        except OSError as error:
            # Too many open files, for example. The listener stays readable.
            self.report(f"a connection was refused: {error.strerror}")
            self._accepts = False
            return True
        if self.session is not None and self.session.has_hung_up:
            # A front end that was restarted: it is not the second one, even
            # if messages of the first one are still in the queue.
            self._end()
        if self.session is not None:
            self._refuse(sock)
            self.report(
                "a second connection was refused, because a front end is"
                " connected"
            )
            return False
        if self._closer.is_full:
            self._refuse(sock)
            self.report(
                "a connection was refused, because earlier front ends passed"
                " descriptors that cannot be closed yet"
            )
            return False
        self._begin(sock)
        return True

    def _refuse(self, sock: socket.socket) -> None:
        """Closes a connection without waiting, although the peer may have
        passed descriptors already."""
        Connection(sock, self._closer).close()


class ConnectingServer(Server):
    """We connect to a front end that listens at `path`, again and again."""

    def __init__(
        self,
        path: str,
        rings: Rings,
        report: Callable[[str], None],
        *,
        notice: Callable[[str], None] | None = None,
        trust_memory: bool = False,
    ) -> None:
        super().__init__(
            rings,
            report,
            notice=notice,
            trust_memory=trust_memory,
        )
        self._path = path
        self._connect()

    def missing(self) -> str:
        return f"no front end listens at {self._path}"

    def tend(self) -> bool:
        changed = super().tend()
        return changed or (self.session is None and self._connect())

    def _connect(self) -> bool:
        """Returns whether it has connected."""
        if self._closer.is_full:
            return False
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
        except OSError:
            # Nobody has opened it yet, or its queue is full (EAGAIN).
            sock.close()
            return False
        self._begin(sock)
        return True


class _Limited:
    """Passes on some sentences in each period, and how many it left out."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._until = 0.0
        self._room = 0
        self._left_out = 0

    def __call__(self, text: str) -> None:
        now = monotonic()
        if now >= self._until:
            self._until = now + _PERIOD
            self._room = _SENTENCES
        if not self._room:
            self._left_out += 1
            return
        self._room -= 1
        if self._left_out:
            text += f" ({self._left_out} messages before it were left out)"
            self._left_out = 0
        self._report(text)
