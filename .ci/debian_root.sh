#!/bin/bash
# Makes the root folder of a Debian system of any architecture, unless ROOT
# exists. Needs root and debootstrap.
#
#   .ci/debian_root.sh ARCHITECTURE RELEASE ROOT PACKAGE ...
#
# The packages, with those that they need, are unpacked and not configured.
# That is enough to run programs, and nothing of the new system runs: the
# configuration of another architecture's system takes minutes of emulation.
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
architecture=$1 release=$2 root=$3
shift 3
[ ! -d "$root" ] || exit 0

mirror=$("$(dirname "$0")/debian_mirror.sh")
packages=$(IFS=,; echo "$*")
new=$root.new
rm -rf --one-file-system "$new"
mkdir -p "$(dirname "$root")"
debootstrap --foreign --variant=minbase --arch="$architecture" \
    --include="$packages" "$release" "$new" "$mirror"
for package in "$new"/var/cache/apt/archives/*.deb; do
    # /lib and others are links into /usr, which a folder must not replace.
    dpkg-deb --fsys-tarfile "$package" |
        tar -x --keep-directory-symlink -C "$new"
    rm "$package"
done
# What the configuration of the base system makes.
cp "$new/usr/share/base-passwd/passwd.master" "$new/etc/passwd"
cp "$new/usr/share/base-passwd/group.master" "$new/etc/group"
rm -rf "$new/var/run"
ln -s /run "$new/var/run"
ln -sfn mawk "$new/usr/bin/awk"
# In a container, debootstrap makes a link of it.
rm -rf "$new/proc"
mkdir -p "$new"/{job,mnt,proc}
mv "$new" "$root"
