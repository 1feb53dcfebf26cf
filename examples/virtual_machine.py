"""Runs a virtual machine in QEMU whose network card is on an interface.

    sudo python examples/virtual_machine.py eth0 -m 1G disk.qcow2

The arguments after the interface are QEMU's. `rawmmsg bridge` moves frames
between the interface and the machine. Its summary comes at the end.
"""

import argparse
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


def bridge(interface: str, folder: Path) -> "subprocess.Popen[bytes]":
    """Starts the bridge, and waits until the machine can send to it."""
    port = f"unix:{folder}/bridge.sock,{folder}/vm.sock"
    command = [sys.executable, "-m", "rawmmsg", "bridge", interface, port]
    with open(folder / "log", "w") as log:  # the machine has the terminal
        running = subprocess.Popen(command, stderr=log)
    while running.poll() is None and not (folder / "bridge.sock").exists():
        time.sleep(0.01)
    return running


def qemu(program: str, options: list[str], folder: Path) -> list[str]:
    """Returns QEMU's command line. Each datagram on its socket is a frame."""
    netdev = (
        f"dgram,id=net,local.type=unix,local.path={folder}/vm.sock"
        f",remote.type=unix,remote.path={folder}/bridge.sock"
    )
    card = "virtio-net-pci,netdev=net"
    return [program, "-netdev", netdev, "-device", card, *options]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a virtual machine.")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("interface")
    parser.add_argument("options", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    with TemporaryDirectory(prefix="vm-") as name:
        command = qemu(args.qemu, args.options, Path(name))
        with bridge(args.interface, Path(name)) as switch:
            if switch.poll() is None:
                print(shlex.join(command), flush=True)
                try:
                    subprocess.call(command)
                finally:
                    switch.send_signal(signal.SIGINT)
        print((Path(name) / "log").read_text(), end="")
    sys.exit(switch.returncode)


if __name__ == "__main__":
    main()
