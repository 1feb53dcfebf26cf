"""A Linux guest in QEMU (emulated) or User-mode Linux, controlled by a
shell."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import monitor
from image import MARK

MAC: Final = bytes.fromhex("020000000002")
"""The hardware address of the guest's network card."""

MEMORY: Final = 192
"""The guest's memory in MiB."""

NO_BOOT_ROM: Final = ("-global", "virtio-net-pci.romfile=")
"""The guest does not boot from its network card, and QEMU's files for that may
not be installed."""

PATIENCE: Final = 60.0
"""Time limit, in seconds, of what takes a few seconds on an idle machine."""

NUDGE: Final = 2.0
"""User-mode Linux sometimes misses that its console can be read, until more is
written there. It gets a blank if it has been silent for so many seconds: the
shell ignores blanks before a command."""


class GuestError(Exception):
    """The guest failed. The message has the output of its console and of
    the program that runs it."""


def qemu_options(kernel: Path, initramfs: Path) -> list[str]:
    """All but the network card."""
    return [
        *("-accel", "tcg", "-machine", "pc", "-m", str(MEMORY)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-kernel", str(kernel / "vmlinuz"), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1"),
        *("-serial", "file:console.log"),
        *("-chardev", "stdio,id=shell,signal=off", "-serial", "chardev:shell"),
        *monitor.OPTIONS,
    ]


def uml_options(_: Path, initramfs: Path) -> list[str]:
    """All but the network card. User-mode Linux is its own kernel."""
    return [
        *(f"mem={MEMORY}M", f"initrd={initramfs}", "panic=-1", "quiet"),
        *("con=null", "con0=null", "ssl=null", "ssl1=fd:0,fd:1"),
        f"uml_dir={initramfs.parent}",
    ]


class Guest:
    """A guest whose network card is `network` (words of the command line, such
    as network_card()); a context manager that kills it.

    `program`: the words that run QEMU, or User-mode Linux, whose other options
    `options` makes. Its working directory, and that of its logs, is `folder`.
    """

    def __init__(
        self,
        kernel: Path,
        initramfs: Path,
        network: Sequence[str],
        *,
        folder: Path,
        program: Sequence[str] = ("qemu-system-x86_64",),
        options: Callable[[Path, Path], list[str]] = qemu_options,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._folder = folder
        self._heard = b""
        self._nudge = NUDGE if options is uml_options else PATIENCE
        with open(folder / "qemu.log", "ab") as log:
            self._process = subprocess.Popen(
                [*program, *options(kernel, initramfs), *network],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                pass_fds=pass_fds,
                bufsize=0,
                start_new_session=True,
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
        self._write(f"{command}\n".encode())

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(
            BrokenPipeError
        ):  # finish() reports the error
            self._process.stdin.write(data)

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

    def wait_for(self, words: str) -> None:
        """Waits until the command has printed the words."""
        deadline = time.monotonic() + PATIENCE
        while words.encode() not in self._heard:
            self._heard += self._listen(deadline)

    def reboot(self) -> None:
        """Boots the guest again, in the same QEMU. It has no addresses
        then."""
        # QEMU ends if the kernel restarts the machine, as it does after a
        # panic, except when a test wants it.
        self._set_action("reset")
        self.run("reboot -f")  # the shell reports that it is ready again
        self._set_action("shutdown")

    def _set_action(self, reboot: str) -> None:
        self._monitor("set-action", reboot=reboot)

    def set_link(self, up: bool) -> None:
        """Plugs the network cable in, or out."""
        self._monitor("set_link", name="net", up=up)

    def _monitor(self, command: str, **arguments: object) -> None:
        path = self._folder / "monitor"
        monitor.execute(path, command, PATIENCE, **arguments)

    def power_off(self) -> None:
        """Shuts the guest down from inside."""
        self.begin("poweroff -f")
        status = self._process.wait(PATIENCE)
        if status != 0:
            raise self._error(f"the guest ended with status {status}")

    def kill(self) -> None:
        """Kills it if it still runs, and what runs it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process, contextlib.suppress(BrokenPipeError):
            pass

    def _listen(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while not _is_readable(
            descriptor, min(deadline - time.monotonic(), self._nudge)
        ):
            if time.monotonic() >= deadline:
                raise self._error(f"no answer; until now {self._heard!r}")
            self._write(b" ")
        heard = os.read(descriptor, 65536)
        if not heard:
            raise self._error(f"the guest is gone; until then {self._heard!r}")
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


def network_card(
    netdev: str, mtu: int, mac: bytes = MAC, more: str = ""
) -> list[str]:
    """A network card on `-netdev` `netdev`, with `more` properties."""
    card = f"virtio-net-pci,netdev=net,mac={mac.hex(':')},host_mtu={mtu}"
    return ["-netdev", netdev, "-device", card + more, *NO_BOOT_ROM]


def shared_memory_card(
    path: str, mtu: int, mac: bytes = MAC, *, listens: bool = False
) -> list[str]:
    """A network card whose frames another process takes out of the guest's
    memory, and puts there (vhost-user). Either that process or QEMU (if it
    `listens`) listens at the path."""
    side = "server=on" if listens else "reconnect=1"
    memory = f"memory-backend-memfd,id=mem,size={MEMORY}M,share=on"
    # Emulated, and with MSI-X, QEMU 7.2 crashes with vhost-user.
    no_msix = ",vectors=0"
    return [
        *("-machine", "q35,memory-backend=mem", "-object", memory),
        *("-chardev", f"socket,id=card,path={path},{side}"),
        *network_card("vhost-user,id=net,chardev=card", mtu, mac, no_msix),
    ]


def _is_readable(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], max(seconds, 0))[0])
