"""The README's examples do what it says."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.child import tool

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(
    r"(<!-- test: feed -->\n)?```python\n(.*?)```",
    README.read_text(encoding="utf-8"),
    re.DOTALL,
)
IPV4_FRAME = b"\xff" * 6 + b"\x02" * 6 + b"\x08\x00" + bytes(46)


@contextmanager
def feeding(interface: str) -> Iterator[None]:
    """Frames come in from `interface`, some every millisecond."""
    stop = threading.Event()

    def feed() -> None:
        with RawSocket(interface, protocol=0) as sock:
            while not stop.wait(0.001):
                sock.send(IPV4_FRAME)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("fed", "code"),
    [block for block in BLOCKS if "conftest.py" not in block[1]],
)
def test_example_runs_and_prints(
    fed: str,
    code: str,
    veth_factory: Callable[..., Veth],
    capsys: pytest.CaptureFixture[str],
) -> None:
    veth_factory("eth0", "peer0")
    veth_factory("eth1", "peer1")
    program = compile(code, str(README), "exec")
    with RawSocket("peer1") as far_side:
        if fed:
            with feeding("peer0"):
                exec(program, {})
        else:
            exec(program, {})
        if "eth1" in code:
            far_side.settimeout(10)
            assert far_side.recv(2048), "what the example sends arrives"
    assert ("print(" in code) == bool(capsys.readouterr().out)


@pytest.mark.parametrize(
    "code", [block[1] for block in BLOCKS if "conftest.py" in block[1]]
)
def test_pytest_example_passes(tmp_path: Path, code: str) -> None:
    """The README's tests of a user's own, run as that user would."""
    tool("ip")
    files = re.split(r"^# (\w+\.py)\n", code, flags=re.MULTILINE)[1:]
    for name, text in zip(files[::2], files[1::2], strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q"),
            *("-p", "no:cacheprovider", "-p", "no:hypothesispytest"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in run.stdout, run.stdout + run.stderr
