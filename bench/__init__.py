"""Measurements of packet I/O, run by `python -m bench`.

One file per measurement, listed in registry.py; framework.py has how a side is
declared and how sides take turns. Every turn asserts that no frame was lost or
changed. The limit is a C program with the same system calls; the C sides are
in c/ and compiled when they run.
"""

import sys
from pathlib import Path

# `python -m` puts the checkout before what is installed, and its rawmmsg need
# not have been compiled.
if sys.path and sys.path[0] == str(Path(__file__).resolve().parent.parent):
    sys.path.append(sys.path.pop(0))
