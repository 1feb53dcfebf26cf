"""The version of the running kernel."""

import os
import re

__all__ = ["kernel_version"]


def kernel_version() -> tuple[int, int]:
    """Returns (0, 0) if the kernel does not say it in the usual form."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
