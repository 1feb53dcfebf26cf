"""What a process gives up once its sockets are open."""

import os
import pwd
import re
from dataclasses import dataclass
from typing import Self

from .._rawmmsg import _drop_capabilities

__all__ = ["User", "give_up"]


@dataclass(frozen=True)
class User:
    """A user that the process can become."""

    name: str
    uid: int
    gid: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Converts USER, a name or a number. Raises ValueError."""
        try:
            if re.fullmatch(r"[0-9]{1,9}", text):
                entry = pwd.getpwuid(int(text))
            else:
                entry = pwd.getpwnam(text)
        except KeyError:
            raise ValueError(
                f"{text!r}: this machine has no such user"
            ) from None
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)


def give_up(user: User | None) -> None:
    """Becomes the user, if another one is given, and gives up all
    capabilities, for good. Raises OSError.

    The process must not have started threads.
    """
    if user is not None and user.uid != os.geteuid():
        os.initgroups(user.name, user.gid)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    _drop_capabilities()
