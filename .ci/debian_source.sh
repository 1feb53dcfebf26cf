#!/bin/bash
# Downloads the source packages of a Debian release into the current folder.
# Needs root, for apt-get.
#
#   .ci/debian_source.sh RELEASE PACKAGE ...
#
# apt authenticates them. It uses the mirror of this machine, but lists and
# settings of its own, so that those of the machine do not change.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
release=$1
shift

apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt"/{lists/partial,sources.d}
mirror=$("$(dirname "$0")/debian_mirror.sh")
echo "deb-src $mirror $release main" >"$apt/sources.list"
private_apt=(
    -o "Dir::Etc::SourceList=$apt/sources.list"
    -o "Dir::Etc::SourceParts=$apt/sources.d"
    -o "Dir::State::Lists=$apt/lists"
    -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache="
    -o "APT::Sandbox::User=root"
)
apt-get "${private_apt[@]}" -qq update
apt-get "${private_apt[@]}" -qq source --download-only "$@"
