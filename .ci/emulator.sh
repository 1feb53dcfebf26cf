#!/bin/bash
# Makes the kernel run the programs of another architecture in qemu-user-static
# until the machine restarts. Needs root.
#
#   .ci/emulator.sh aarch64|s390x
set -euo pipefail

settings=/usr/lib/binfmt.d/qemu-$1.conf
if [ ! -e "$settings" ]; then
    echo "error: no emulator: apt-get install qemu-user-static" >&2
    exit 1
fi
registry=/proc/sys/fs/binfmt_misc
[ -e "$registry/register" ] || mount -t binfmt_misc binfmt_misc "$registry"
[ -e "$registry/qemu-$1" ] || cat "$settings" >"$registry/register"
