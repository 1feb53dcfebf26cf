"""Runs a virtual machine in QEMU whose network card is on an interface.

    sudo python examples/virtual_machine.py eth0 -m 1G disk.qcow2

The arguments after the interface are QEMU's. `rawmmsg bridge` moves frames
between the interface and the machine, until the machine is switched off.
"""

import argparse
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


def start_bridge(interface: str, folder: Path) -> "subprocess.Popen[bytes]":
    """Starts the bridge, and waits until the machine can send to it."""
    port = f"unix:{folder}/bridge.sock,{folder}/vm.sock"
    command = [sys.executable, "-m", "rawmmsg", "bridge", interface, port]
    bridge = subprocess.Popen(command)
    while not (folder / "bridge.sock").exists():
        if bridge.poll() is not None:  # it has said what is wrong
            sys.exit(bridge.returncode)
        time.sleep(0.01)
    return bridge


def qemu_command(program: str, options: list[str], folder: Path) -> list[str]:
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
        command = qemu_command(args.qemu, args.options, Path(name))
        print(shlex.join(command), flush=True)
        with start_bridge(args.interface, Path(name)) as bridge:
            try:
                sys.exit(subprocess.call(command))
            finally:
                bridge.send_signal(signal.SIGINT)  # it prints its summary


if __name__ == "__main__":
    main()
