#!/bin/bash
# Runs a command in an emulated arm64 machine, with the kernel that ROOT has
# from Debian. Needs cpio and qemu-system-arm.
#
#   .ci/guest.sh ROOT FOLDER COMMAND [ARGUMENT ...]
#
# The machine has a copy of ROOT in its memory, with FOLDER as /job. Of this
# machine's environment it sees CI. It has no network.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
root=$1 folder=$2
shift 2
kernel=$(echo "$root"/boot/vmlinuz-*)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The command's arguments, quoted for the shell of the guest.
command=$(printf ' %q' "$@")
mkdir "$work/new"
cat >"$work/new/init" <<END
#!/bin/bash
export CI=${CI:-} HOME=/root LANG=C.UTF-8
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
depmod
modprobe tun
ip link set lo up
cd /job
$command </dev/null
echo "-- status \$?"
echo o >/proc/sysrq-trigger
sleep 60
END
chmod +x "$work/new/init"
cp -a "$folder" "$work/new/job"
# pack FOLDER OPTION ...: the files of a folder as an archive for the kernel.
pack() {
    (cd "$1" && find . "${@:2}" -print0 | cpio --null --create --quiet -H newc)
}
{
    pack "$root" \
        \( -path ./boot -o -path ./job -o -path ./usr/share/doc \
        -o -path ./usr/share/locale -o -path ./usr/share/man \) -prune -o
    pack "$work/new"
} >"$work/initramfs"

# One processor: a veth pair keeps the order of frames per processor alone
# (net/core/dev.c:enqueue_to_backlog()), and emulated ones may stand still.
qemu-system-aarch64 -machine virt -cpu cortex-a72 -smp 1 -m 4096 \
    -nodefaults -no-user-config -no-reboot -display none \
    -serial stdio -kernel "$kernel" -initrd "$work/initramfs" \
    -append "console=ttyAMA0 quiet panic=-1" </dev/null |
    tee "$work/console"
# Messages of the kernel may follow the status of the command.
tail -n 5 "$work/console" | grep -q "^-- status 0"
