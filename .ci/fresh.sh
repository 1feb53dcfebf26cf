#!/bin/bash
# README.md's and CONTRIBUTING.md's commands on a newly installed Debian, as
# root:
#
#   .ci/fresh.sh RELEASE CHECKOUT CACHE
#
# The new machine is a folder in which `debootstrap --variant=minbase` has
# installed RELEASE ("bookworm").  The commands of the two pages run there word
# for word, in a copy of CHECKOUT: first those of README.md, with only the
# packages that README.md names, then those of CONTRIBUTING.md.  The folder
# CACHE keeps what debootstrap has installed.
#
# Packages come from the repository and the index that this machine uses.
# Needs Debian 12, root, debootstrap, and pip on PATH.
set -euo pipefail

if [ $# -ne 3 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
release=$1 checkout=$2 cache=$3

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
chmod 755 "$work"
machine=$work/machine

# ---- The commands ----------------------------------------------------------

# shell_block PAGE WORDS: prints the first block of shell commands on the page
# that contains the words.
shell_block() {
    awk -v words="$2" '
        /^```/ {
            if (shell && index(block, words)) { printf "%s", block; exit }
            shell = $0 == "```sh"; block = ""; next
        }
        shell { block = block $0 "\n" }
    ' "$checkout/$1"
}

packages=$(shell_block README.md "apt-get install")
demo=$(shell_block README.md "rawmmsg demo")
test_packages=$(shell_block CONTRIBUTING.md "apt-get install")
tests=$(shell_block CONTRIBUTING.md pytest)
for block in packages demo test_packages tests; do
    if [ -z "${!block}" ]; then
        echo "error: README.md or CONTRIBUTING.md lacks the $block" >&2
        exit 1
    fi
done

# ---- The machine -----------------------------------------------------------

base=$cache/$release
if [ ! -d "$base" ]; then
    mirror=$("$(dirname "$0")/debian_mirror.sh")
    mkdir -p "$cache"
    rm -rf "$base.new"
    debootstrap --variant=minbase "$release" "$base.new" "$mirror"
    mv "$base.new" "$base"
fi
cp -a "$base" "$machine"
cp -a "$checkout" "$machine/root/rawmmsg"

# The new machine gets this machine's settings for network, apt and pip.
# `pip config list` prints lines such as
#   global.index-url='...'
#   :env:.index-url='...'
# The second comes from an environment variable and overrides the first.
cp -L /etc/hosts /etc/resolv.conf "$machine/etc"
apt_settings=$machine/etc/apt/apt.conf.d/90machine
{
    apt-config dump | grep -E '^Acquire::(https?|Retries|Check-[A-Za-z-]+)\b' ||
        true
    echo 'APT::Get::Assume-Yes "true"; quiet "2";'
} >"$apt_settings"
pip config list | sort -r >"$work/pip_settings"
mapfile -t settings < <(
    env | grep -E '^([a-z]+_proxy|[A-Z]+_PROXY|SSL_CERT_FILE)=' || true
    while read -r line; do
        key=${line%%=*} value=${line#*=}
        key=${key#*.}
        key=${key//-/_}
        value=${value#[\'\"]}
        value=${value%[\'\"]}
        echo "PIP_${key^^}=${value//\\n/ }"
    done <"$work/pip_settings"
)

# Gives the new machine the files and folders that the settings name: files as
# copies, because a package may replace them, and folders as mounts (in
# `enter`).  The pages of a local package index link to files beside it.
folders=()
lend() {
    local path
    folders=()
    while read -r path; do
        if [ -f "$path" ]; then
            install -D -m 644 "$path" "$machine$path"
        elif [ -d "$path" ]; then
            mkdir -p "$machine$path"
            folders+=("$path")
        fi
    done < <(
        { printf '%s\n' "${settings[@]}"; cat "$apt_settings"; } |
            sed -E 's,file://([^ ]*)/[^/ ]+,\1,g' |
            grep -oE '[= "]/[^ ";]+' | cut -c 2- | sort -u
    )
}

# enter COMMANDS: runs commands on the new machine, which has its own mount and
# process namespaces and shares this machine's network.  A chroot would not do:
# the kernel allows no user namespaces in one.
enter() {
    # shellcheck disable=SC2016  # variables of the inner shell
    unshare --mount --pid --fork --kill-child bash -euc '
        machine=$1 commands=$2 folders=$3
        mount --bind "$machine" "$machine"
        mount -t proc proc "$machine/proc"
        mount -t sysfs sysfs "$machine/sys"
        mount --rbind /dev "$machine/dev"
        for folder in $folders; do
            mount --bind "$folder" "$machine$folder"
            mount -o remount,bind,ro "$machine$folder"
        done
        cd "$machine"
        pivot_root . mnt
        cd /
        umount --lazy /mnt
        shift 3
        env -i HOME=/root \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            "$@" bash -euxc "$commands"
        exit  # so that bash does not exec: it is the init that reaps orphans
    ' enter "$machine" "$1" "${folders[*]}" "${settings[@]}"
}

lend
enter "export DEBIAN_FRONTEND=noninteractive
apt-get update
$packages"
lend
# Installing Open vSwitch would start it, in this machine's network.
printf '#!/bin/sh\nexit 101\n' >"$machine/usr/sbin/policy-rc.d"
chmod +x "$machine/usr/sbin/policy-rc.d"
enter "export CI=true DEBIAN_FRONTEND=noninteractive
cd ~/rawmmsg
$demo
$test_packages
$tests"
