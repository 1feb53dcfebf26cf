"""A limit on frames per second."""

from time import monotonic

__all__ = ["Limit"]


class Limit:
    """Allows `rate` frames per second on average, and at most a tenth of them
    at once, or as many as one call receives."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._most = self._left = max(1.0, rate / 10)
        self._then = monotonic()

    def allows(self, frames: int) -> bool:
        """Counts frames that are to be forwarded together. Returns whether
        they may be."""
        now = monotonic()
        earned = (now - self._then) * self.rate
        self._left = min(self._most, self._left + earned)
        self._then = now
        if self._left < 1:
            return False
        self._left -= frames
        return True
