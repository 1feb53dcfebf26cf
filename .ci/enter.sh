#!/bin/bash
# Runs a command in another root folder, with mount and process namespaces of
# its own and this machine's network. Needs root.
#
#   .ci/enter.sh ROOT FOLDER COMMAND [ARGUMENT ...]
#
# The command sees FOLDER as /job, which is its working directory. Of this
# machine's environment it sees CI. A chroot would not do: the kernel allows no
# user namespaces in one.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
# shellcheck disable=SC2016  # variables of the inner shell
exec unshare --mount --pid --fork --kill-child bash -euc '
    root=$1 folder=$2
    shift 2
    mount --bind "$root" "$root"
    mount --bind "$folder" "$root/job"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    cd "$root"
    pivot_root . mnt
    cd /job
    # Before this, PATH names the programs of this machine.
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    umount --lazy /mnt
    env -i CI="${CI:-}" HOME=/root LANG=C.UTF-8 PATH="$PATH" "$@"
    exit  # so that bash does not exec: it is the init that reaps orphans
' enter "$1" "$2" "${@:3}"
