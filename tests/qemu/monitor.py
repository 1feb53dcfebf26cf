"""QEMU's monitor: commands of its machine protocol (QMP), a JSON object a
line."""

import json
import socket
from pathlib import Path
from typing import Any, Final

OPTIONS: Final = ("-qmp", "unix:monitor,server=on,wait=off")
"""QEMU's options; the monitor is then at the path `monitor` in its working
directory."""


def execute(
    path: Path, command: str, patience: float, **arguments: object
) -> Any:
    """Runs a command of the monitor at the path; returns its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience)
        sock.connect(str(path))
        with sock.makefile("rw", encoding="utf-8") as stream:
            stream.readline()  # the greeting
            answer = None
            for name, words in (
                ("qmp_capabilities", {}),
                (command, arguments),
            ):
                json.dump({"execute": name, "arguments": words}, stream)
                stream.flush()
                answer = _answer(stream.readline)
            return answer


def _answer(readline: Any) -> Any:
    """The answer to a command, after any events."""
    while True:
        message = json.loads(readline())
        if "return" in message:
            return message["return"]
        assert "event" in message, f"QEMU's monitor answered {message}"
