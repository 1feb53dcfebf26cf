"""What is expected of a call that fails."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CLOSED = "the socket was closed"


@contextmanager
def raises(
    number: int, text: str | None = None
) -> Iterator[pytest.ExceptionInfo[OSError]]:
    """An OSError with exactly this errno, and the text of it, or `text`."""
    if text is None:
        text = CLOSED if number == errno.EBADF else os.strerror(number)
    with pytest.raises(OSError, match=text) as caught:
        yield caught
    assert caught.value.errno == number
