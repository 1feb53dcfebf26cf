#!/bin/bash
# README.md's and CONTRIBUTING.md's commands on a newly installed Debian, as
# root:
#
#   .ci/fresh.sh RELEASE CHECKOUT CACHE
#
# The machine is a folder with what `debootstrap --variant=minbase` installs
# of RELEASE ("bookworm").  There, in a copy of CHECKOUT, the commands of the
# two pages run word for word: first those of README.md, with no more packages
# than README.md names, then those of CONTRIBUTING.md.  What debootstrap has
# installed is kept in the folder CACHE.
#
# Packages come from the repository and the index that this machine uses.
# Needs Debian 12, root, debootstrap and a pip.
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

# Network, apt and pip are set up as on this machine.  `pip config list` prints
#   global.index-url='...'
#   :env:.index-url='...'
# of which the second comes from a variable, and has the last word.
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

# Gives the machine those files and folders of this one that the settings
# name: files as copies, because a package may bring its own, and folders as
# mounts (by `enter`).  The pages of a local index link to files beside it.
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

# enter COMMANDS: runs them there, in mount and process namespaces of their
# own and this machine's network.  Not in a chroot: user namespaces cannot be
# made in one.
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
        exit  # so that bash stays, as the init that reaps orphans
    ' enter "$machine" "$1" "${folders[*]}" "${settings[@]}"
}

lend
enter "export DEBIAN_FRONTEND=noninteractive
apt-get update
$packages"
lend
enter "export CI=true DEBIAN_FRONTEND=noninteractive
cd ~/rawmmsg
$demo
$test_packages
$tests"
