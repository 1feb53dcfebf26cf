"""The attack on a vhost-user back end for a few seconds."""

import subprocess
import sys
from pathlib import Path

from support.child import environment


def test_hostile_front_ends() -> None:
    program = Path(__file__).with_name("vhost_protocol.py")
    done = subprocess.run(
        [sys.executable, program, "--seconds=3"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
