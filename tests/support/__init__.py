"""Helpers that the tests share."""

import sysconfig
from typing import Final

WAIT: Final = 30.0
"""Seconds after which a test gives up on something that must happen: a limit
for a machine under load, not a duration."""

FREE_THREADED: Final = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
