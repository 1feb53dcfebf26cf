"""What the tests of ``rawmmsg.bpf`` share: corpus, packets, an oracle, and a
virtual machine that counts.
"""

from __future__ import annotations

import os

_ASKED = os.environ.get("RAWMMSG_BPF_EXAMPLES")
BY_HAND = _ASKED is not None
"""Whether the suite is to look further than it does on every change: other
expressions on each run, more packets for each."""


def examples(usual: int) -> int:
    """How many expressions hypothesis draws: ``RAWMMSG_BPF_EXAMPLES`` by
    hand.
    """
    return int(_ASKED) if _ASKED else usual
