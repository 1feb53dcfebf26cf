"""Helpers that the tests share."""

import sysconfig
from typing import Final

WAIT: Final = 30.0
"""Time limit, in seconds, for what must happen, even on a machine under load.
A test that passes never waits that long."""

MUSL: Final = "musl" in str(sysconfig.get_config_var("SOABI"))
"""Whether the C library is musl."""

FREE_THREADED: Final = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
