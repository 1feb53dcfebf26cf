"""Text for a terminal or a pipe, written without waiting."""

import os
import select
from typing import Final

__all__ = ["Output"]

# If poll(2) says that a pipe is writable, it has room for PIPE_BUF bytes
# (fs/pipe.c:pipe_poll()). A terminal may have less.
_PIECE: Final = 512

# Seconds in which finish() waits for the reader.
_PATIENCE: Final = 1.0


class Output:
    """Writes to a descriptor as much as its reader takes, so that a slow
    reader keeps no frames waiting. Call flush() from time to time."""

    def __init__(self, descriptor: int, encoding: str = "utf-8") -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._rest = b""

    def put(self, text: str) -> bool:
        """Writes the text, or leaves it out if the reader has not taken the
        text before. Returns whether it is written, or will be."""
        if not self.flush() or not self._poll.poll(0):
            return False
        self._rest = text.encode(self._encoding, "backslashreplace")
        self.flush()
        return True

    def flush(self) -> bool:
        """Writes what is left, as far as there is room. Returns whether
        nothing is left."""
        return self._flush(0)

    def finish(self, text: str = "") -> None:
        """Writes what is left and the text. Waits a little for the reader."""
        self._rest += text.encode(self._encoding, "backslashreplace")
        self._flush(int(_PATIENCE * 1000))

    def _flush(self, wait_ms: int) -> bool:
        while self._rest and self._poll.poll(wait_ms):
            try:
                written = os.write(self._descriptor, self._piece())
            except BlockingIOError:
                break
            except OSError:  # the reader has gone, or a disk is full
                written = len(self._rest)
            self._rest = self._rest[written:]
        return not self._rest

    def _piece(self) -> bytes:
        """Whole lines, if they are short: other text may come between two
        pieces."""
        piece = self._rest[:_PIECE]
        return piece[: piece.rfind(b"\n") + 1] or piece
