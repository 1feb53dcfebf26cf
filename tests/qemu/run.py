"""Makes Linux guests talk through `rawmmsg bridge` and `rawmmsg switch`.

    python tests/qemu/run.py [ARGUMENT OF PYTEST ...]

Tests the bridge against an independent network stack: Debian's kernel and
busybox, emulated (without KVM), on every transport that `rawmmsg bridge` and
QEMU share; QEMU as a front end of vhost-user; QEMU and passt at stream ports;
guests on all of these, on one switch; the commands of docs/virtual-machines
and of the tutorial about a switch, in QEMU and User-mode Linux; and
bench/guests. Takes about 4 minutes, in new network namespaces.

Needs Debian 12 on x86-64, qemu-system-x86, user-mode-linux, passt and
busybox-static, besides what the suite needs. Debian's kernel is downloaded
once, not installed, and kept in $RAWMMSG_QEMU_CACHE (~/.cache/rawmmsg-qemu).

Not a part of the suite, in which no test may be skipped, because QEMU is
hundreds of megabytes.
"""

import shutil
import sys
from pathlib import Path

import image
import pytest

_PACKAGES = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "dpkg-deb": "dpkg",
    "ip": "iproute2",
    "linux.uml": "user-mode-linux",
    "nsenter": "util-linux",
    "passt": "passt",
    "qemu-system-x86_64": "qemu-system-x86",
}


def main() -> int:
    missing = [
        package
        for command, package in _PACKAGES.items()
        if shutil.which(command) is None
    ]
    if missing:
        print(f"error: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 1
    # Before pytest moves into a namespace that leads nowhere.
    image.fetch_kernel()
    tests = [
        str(Path(__file__).with_name(name))
        for name in (
            "real_peer.py",
            "real_front_end.py",
            "real_shared_memory.py",
            "real_stream.py",
            "real_switch.py",
            "real_lab.py",
            "real_commands.py",
            "real_measurement.py",
        )
    ]
    # Emulated guests take many times as long on a busy machine.
    patient = ("-o", "timeout=300")
    return int(pytest.main([*patient, *tests, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
