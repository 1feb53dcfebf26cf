#!/bin/bash
# Builds a free-threaded CPython 3.13 and installs it into DIR, unless DIR has
# one.
#
#   .ci/free_threaded_python.sh DIR          plain, about 3 minutes on 2 cores
#   .ci/free_threaded_python.sh DIR tsan     with ThreadSanitizer, also in the
#                                            extensions that it builds
#
# Debian has no package of such a build, but it has the source. Needs root (for
# apt-get) and Debian 12 or later.
set -euo pipefail

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

[ $# -ge 1 ] || usage
here=$(realpath "$(dirname "$0")")
prefix=$(realpath -m "$1")
kind=${2:-plain}
python=$prefix/bin/python3

report() {
    "$python" -VV
    "$python" -c 'import sys; assert not sys._is_gil_enabled()'
}

configure_options=(
    --prefix="$prefix" --disable-gil --disable-test-modules
    --with-ensurepip=install
)
case $kind in
    plain) ;;
    tsan) configure_options+=(--with-thread-sanitizer) ;;
    *) usage ;;
esac

# This file is made last, so an interrupted build lacks it.
if [ -e "$prefix/.complete" ]; then
    report
    exit
fi

export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq build-essential pkg-config libssl-dev zlib1g-dev \
    libffi-dev libbz2-dev liblzma-dev libsqlite3-dev xz-utils >/dev/null

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"$here/debian_source.sh" trixie python3.13
mkdir source
tar -xf python3.13_*.orig.tar.xz -C source --strip-components=1
cd source
log=$work/log
{
    ./configure "${configure_options[@]}" &&
        make -j"$(nproc)" && make install
} >"$log" 2>&1 </dev/null || {
    tail -n 40 "$log" >&2
    exit 1
}

# Known races of the interpreter itself.
if [ "$kind" = tsan ]; then
    cp Tools/tsan/suppressions_free_threading.txt "$prefix/tsan.supp"
fi
touch "$prefix/.complete"
report
