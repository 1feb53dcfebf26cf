"""The fuzzer for a few seconds: a round with threads, and a round that
forks."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.child import environment

from rawmmsg.testing import Veth


@pytest.mark.parametrize("seed", [1, 2])
def test_random_calls(veth: Veth, seed: int) -> None:
    program = Path(__file__).with_name("calls.py")
    done = subprocess.run(
        [sys.executable, program, f"--seed={seed}", "--seconds=3"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
