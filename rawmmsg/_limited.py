"""Messages to the user that a hostile peer can cause."""

from collections.abc import Callable
from time import monotonic
from typing import Final

_SENTENCES: Final = 10
_PERIOD: Final = 10.0


class Limited:
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
