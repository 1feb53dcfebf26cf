"""The attacks on vhost-user for a few seconds."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.child import environment


@pytest.mark.parametrize("name", ["vhost_protocol.py", "vhost_bridge.py"])
def test_hostile_front_ends(name: str) -> None:
    program = Path(__file__).with_name(name)
    done = subprocess.run(
        [sys.executable, program, "--seconds=5"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
