"""A Linux guest in QEMU (emulated), controlled by a shell."""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from image import MARK

MAC: Final = bytes.fromhex("020000000002")
"""The hardware address of the guest's network card."""

PATIENCE: Final = 60.0
"""Time limit, in seconds, of what takes a few seconds on an idle machine."""


class GuestError(Exception):
    """The guest failed. The message has the output of its console and of
    QEMU."""


class Guest:
    """A guest with one network card on `-netdev` `netdev`; a context manager
    that kills it.

    `inside`: the words in front of QEMU's command line that run it in another
    namespace. QEMU's working directory, and that of its logs, is `folder`.
    """

    def __init__(
        self,
        kernel: Path,
        initramfs: Path,
        netdev: str,
        *,
        mtu: int,
        folder: Path,
        inside: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._folder = folder
        self._heard = b""
        with open(folder / "qemu.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *inside,
                    *_command_line(kernel, initramfs),
                    *_network_card(netdev, mtu),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                pass_fds=pass_fds,
                bufsize=0,
            )
        try:
            self.finish()  # the shell reports that it is ready
        except BaseException:
            self.kill()
            raise

    def run(self, command: str) -> str:
        """Runs a shell command, which must succeed; returns what it prints."""
        self.begin(command)
        return self.finish()

    def begin(self, command: str) -> None:
        """Starts a command of one line; finish() waits for its end."""
        assert self._process.stdin is not None
        with contextlib.suppress(
            BrokenPipeError
        ):  # finish() reports the error
            self._process.stdin.write(f"{command}\n".encode())

    def finish(self) -> str:
        """Waits for the end of the command; returns what it has printed."""
        deadline = time.monotonic() + PATIENCE
        printed, found, status = "", "", ""
        while not found or not status.endswith("\n"):
            self._heard += self._listen(deadline)
            text = self._heard.decode(errors="replace")
            printed, found, status = text.partition(MARK)
        self._heard = b""
        if status.strip() != "0":
            raise self._error(f"status{status.rstrip()} after {printed!r}")
        return printed

    def power_off(self) -> None:
        """Shuts the guest down from inside."""
        self.begin("poweroff -f")
        status = self._process.wait(PATIENCE)
        if status != 0:
            raise self._error(f"QEMU ended with status {status}")

    def kill(self) -> None:
        """Kills QEMU if it still runs."""
        self._process.kill()
        with self._process, contextlib.suppress(BrokenPipeError):
            pass

    def _listen(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        left = max(deadline - time.monotonic(), 0)
        if not select.select([descriptor], [], [], left)[0]:
            raise self._error(f"no answer; until now {self._heard!r}")
        heard = os.read(descriptor, 65536)
        if not heard:
            raise self._error(f"QEMU is gone; until then {self._heard!r}")
        return heard

    def _error(self, what: str) -> GuestError:
        logs = [
            path.read_text(errors="replace")
            for path in (
                self._folder / "console.log",
                self._folder / "qemu.log",
            )
            if path.exists()
        ]
        return GuestError("\n".join([what, *logs]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _command_line(kernel: Path, initramfs: Path) -> list[str]:
    return [
        "qemu-system-x86_64",
        *("-accel", "tcg", "-machine", "pc", "-m", "192"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-kernel", str(kernel / "vmlinuz"), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1"),
        *("-serial", "file:console.log"),
        *("-chardev", "stdio,id=shell,signal=off", "-serial", "chardev:shell"),
    ]


def _network_card(netdev: str, mtu: int) -> list[str]:
    card = f"virtio-net-pci,netdev=net,mac={MAC.hex(':')},host_mtu={mtu}"
    return ["-netdev", netdev, "-device", f"{card},romfile="]
