"""What a terminal shows while measurements run."""

import sys
import time
from typing import Final, TextIO


class Progress:
    """One line on a terminal, written over again; silent elsewhere."""

    _INTERVAL: Final = 0.2  # seconds: to write must not cost the measurement

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty()
        self._began = time.monotonic()
        self._written = 0.0
        self._measurement = ""
        self._step = ""

    def measurement(self, name: str, number: int, of: int) -> None:
        """The next measurement begins."""
        self._measurement = f"{name} ({number} of {of})"
        self.step("")

    def step(self, text: str) -> None:
        """What is measured now."""
        self._step = text
        self._write("")

    def turn(self, number: int, of: int) -> None:
        """How far it is; called between turns, as often as one likes."""
        if time.monotonic() - self._written > self._INTERVAL:
            self._write(f"turn {number} of {of}")

    def clear(self) -> None:
        """Leaves an empty line for what is printed next."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _write(self, turn: str) -> None:
        self._written = time.monotonic()
        if not self._shown:
            return
        minutes, seconds = divmod(int(self._written - self._began), 60)
        parts = [f"{minutes}:{seconds:02}", self._measurement]
        parts += [text for text in (self._step, turn) if text]
        # 79 columns: a line that wraps could not be written over.
        self._stream.write(f"\r\x1b[K{'  '.join(parts)[:79]}")
        self._stream.flush()
