"""Measurements of packet I/O, run by `python -m bench`; see README.md."""

import sys
from pathlib import Path

# `python -m` puts the checkout in front of installed packages, but the rawmmsg
# in it may not have been compiled.
if sys.path and sys.path[0] == str(Path(__file__).resolve().parent.parent):
    sys.path.append(sys.path.pop(0))
