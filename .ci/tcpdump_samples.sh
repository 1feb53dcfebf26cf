#!/bin/bash
# Makes FOLDER with the recordings of tcpdump's tests, if it does not exist.
# They are in Debian's source package. Needs root, for apt-get.
#
#   .ci/tcpdump_samples.sh FOLDER
set -euo pipefail

if [ $# -ne 1 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
folder=$1
if [ -d "$folder" ]; then
    exit
fi

here=$(realpath "$(dirname "$0")")
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
cd "$source"
"$here/debian_source.sh" bookworm tcpdump
mkdir samples
tar -xzf tcpdump_*.orig.tar.gz --strip-components 2 --directory samples \
    --wildcards '*/tests/*.pcap*'
chmod 755 samples
mkdir -p "$(dirname "$folder")"
mv samples "$folder"
