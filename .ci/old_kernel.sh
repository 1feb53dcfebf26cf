#!/bin/bash
# Runs a command on the kernel of an earlier Debian, in QEMU. The command sees
# the files of this machine, and changes copies of them in memory only.
#
#   .ci/old_kernel.sh RELEASE CACHE COMMAND ...
#
# Needs busybox-static, cpio, curl, kmod, qemu-system-x86 and xz-utils. CACHE
# keeps the kernel.
set -euo pipefail

release=$1 cache=$2
shift 2
here=$(realpath "$(dirname "$0")")
kernel=$(realpath -m "$cache/$release")
drivers=(virtio_pci 9pnet_virtio 9p overlay)

# Prints the path of the newest kernel in the package list of the release.
find_package() {
    curl -fsS "$mirror/dists/$release/main/binary-amd64/Packages.xz" | xz -d |
        sed -nE 's/^Filename: (.*linux-image-[0-9.]+-[0-9]+-amd64_.*)/\1/p' |
        sort -V | tail -n 1
}

if [ ! -e "$kernel" ]; then
    mirror=$("$here/debian_mirror.sh")
    mkdir -p "$cache"
    part=$(mktemp -d "$cache/part.XXXXXX")
    curl -fsS -o "$part/image.deb" "$mirror/$(find_package)"
    dpkg-deb -x "$part/image.deb" "$part"
    rm "$part/image.deb"
    depmod -b "$part" "$(ls "$part/lib/modules")"
    mv "$part" "$kernel"
fi
version=$(ls "$kernel/lib/modules")

work=$(mktemp -d "${TMPDIR:-/tmp}/old-kernel.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/first/{bin,proc,sys,dev,lower,memory,new}
cp /bin/busybox "$work/first/bin/"

# The first program: mounts the files of this machine, with a layer in memory
# above them, and the kernel's own modules.
{
    cat <<'SCRIPT'
#!/bin/busybox sh
set -e
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
SCRIPT
    for driver in "${drivers[@]}"; do
        modprobe -d "$kernel" -S "$version" --show-depends "$driver"
    done | sed -n 's/^insmod //p' | awk '!seen[$1]++ {print $1}' |
        while read -r module; do
            cp "$module" "$work/first/"
            echo "insmod /$(basename "$module")"
        done
    cat <<SCRIPT
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 \\
    files /lower
mount -t tmpfs -o size=75% memory /memory
mkdir /memory/upper /memory/work
mount -t overlay files /new -o lowerdir=/lower \\
    -o upperdir=/memory/upper,workdir=/memory/work
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount --move /dev /new/dev
mount -t tmpfs run /new/run
mkdir -p /new/dev/shm /new/usr/lib/modules/$version
mount -t tmpfs shm /new/dev/shm
mount --bind /new$kernel/lib/modules/$version /new/usr/lib/modules/$version
ip link set lo up
exec switch_root /new /bin/bash $work/second
SCRIPT
} >"$work/first/init"
chmod +x "$work/first/init"
(cd "$work/first" && find . | cpio --quiet -o -H newc) >"$work/initrd"

# The second program: runs the command and switches the machine off.
cat >"$work/second" <<SCRIPT
export HOME=/tmp PATH=$(printf %q "$PATH"):/usr/sbin:/sbin
modprobe tun # makes /dev/net/tun
cd $(printf %q "$PWD")
$(printf '%q ' "$@")
echo "exit status \$?"
echo o >/proc/sysrq-trigger
sleep infinity
SCRIPT

# no_timer_check: on a busy machine, the kernel thinks its timer is broken.
qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4G \
    -nographic -no-reboot -nic none \
    -kernel "$kernel/boot/vmlinuz-$version" -initrd "$work/initrd" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check" \
    -fsdev local,id=files,path=/,security_model=none,readonly=on \
    -device virtio-9p-pci,fsdev=files,mount_tag=files </dev/null |
    tee "$work/output"
grep -q $'^exit status 0\r*$' "$work/output"
