"""May this process make a private network, as tests and the demo do?"""

import sys
from collections.abc import Iterator
from typing import Final

from ...testing import run_in_namespace
from ..finding import Finding, note, ok

__all__ = ["check"]

NAME: Final = "namespaces"


def check() -> Iterator[Finding]:
    """Makes one, in a child process that ends at once."""
    try:
        # -I -S: the child reads no files of the user.
        run_in_namespace([sys.executable, "-I", "-S", "-c", ""])
    except OSError as error:
        # The part after the semicolon names the setting that forbids it.
        message, _, remedy = str(error.strerror).partition("; ")
        if error.filename is not None:
            message = f"{error.filename} cannot be executed ({message})"
            remedy = "use an interpreter that this user can reach"
        yield note(
            NAME,
            f"{message}: rawmmsg.testing and `rawmmsg demo` do not work",
            remedy or None,
            private_network=False,
            errno=error.errno,
        )
        return
    yield ok(
        NAME,
        "a private network namespace can be made (rawmmsg.testing)",
        private_network=True,
    )
