"""Helpers that the tests share."""

from typing import Final

WAIT: Final = 30.0
"""Seconds after which a test gives up on something that must happen: a limit
for a machine under load, not a duration."""
