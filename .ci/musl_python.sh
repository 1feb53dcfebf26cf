#!/bin/bash
# Makes the root folder of a Debian system whose /opt/python is a CPython 3.13
# for musl, unless ROOT exists. Takes 5 minutes on 2 cores. Needs root and
# debootstrap.
#
#   .ci/musl_python.sh ROOT
#
# Debian has musl, but no Python for it. libffi (for ctypes), OpenSSL (trio
# imports ssl) and zlib (Scapy and hypothesis import it) are built too.
set -euo pipefail

if [ $# -ne 1 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
here=$(realpath "$(dirname "$0")")
root=$1
[ ! -d "$root" ] || exit 0

# With the programs that the tests run. The musl of trixie is the first in
# Debian that knows DT_RELR, which the libraries in wheels for musl use.
"$here/debian_root.sh" amd64 trixie "$root.unfinished" \
    binutils bzip2 ethtool gcc iperf3 iproute2 iputils-ping libc6-dev \
    linux-libc-dev make musl musl-tools netbase openvswitch-switch perl \
    strace xz-utils
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(
    cd "$work"
    "$here/debian_source.sh" trixie python3.13
    # From trixie on, the source of libffi has no configure script.
    "$here/debian_source.sh" bookworm libffi openssl zlib
    rm -f ./*.asc
)

# The compiler, of which Python keeps the name, for its extensions.
mkdir -p "$root.unfinished/opt/python/bin"
cat >"$root.unfinished/opt/python/bin/cc" <<'END'
#!/bin/sh
# musl-gcc with the kernel's headers, which musl does not have. The name of
# Debian's folder for this machine's libraries would lead configure to glibc.
case " $* " in
    *" --print-multiarch "* | *" -print-multiarch "*) exit ;;
esac
exec musl-gcc "$@" -idirafter /opt/python/kernel
END
chmod +x "$root.unfinished/opt/python/bin/cc"

cat >"$work/build" <<'END'
set -euxo pipefail
prefix=/opt/python
export CC=$prefix/bin/cc CXX=false CXXCPP="$prefix/bin/cc -E -x c"
export PKG_CONFIG_LIBDIR=/nonexistent  # without the libraries for glibc

mkdir -p "$prefix/kernel"
for folder in /usr/include/{asm-generic,linux,x86_64-linux-gnu/asm}; do
    ln -sfn "$folder" "$prefix/kernel/$(basename "$folder")"
done
unpack() {
    mkdir "$1"
    tar -xf "$1"_*.orig.tar.[bgx]z* -C "$1" --strip-components=1
    cd "$1"
}

(
    unpack libffi
    # gcc 14 refuses the code of static trampolines, and flags for the
    # processor of this machine are not wanted.
    ./configure --host=x86_64-linux-musl --prefix="$prefix" --with-pic \
        --disable-shared --disable-docs --disable-multi-os-directory \
        --disable-exec-static-tramp --without-gcc-arch
    make -j"$(nproc)" install
)
(
    unpack zlib
    CFLAGS="-O2 -fPIC" ./configure --prefix="$prefix" --static
    make -j"$(nproc)" install
)
(
    unpack openssl
    ./Configure linux-x86_64 --prefix="$prefix" --libdir=lib \
        no-shared no-tests no-engine no-legacy
    make -j"$(nproc)" build_libs
    make install_dev
)
unpack python3.13
./configure --prefix="$prefix" --disable-test-modules --without-ensurepip \
    --with-openssl="$prefix" CPPFLAGS="-I$prefix/include" \
    LDFLAGS="-L$prefix/lib" LIBFFI_CFLAGS="-I$prefix/include" \
    LIBFFI_LIBS="-L$prefix/lib -lffi"
make -j"$(nproc)"
make install
"$prefix/bin/python3" -c 'import ctypes, ssl, zlib'
END
log=$work/log
"$here/enter.sh" "$root.unfinished" "$work" bash /job/build \
    >"$log" 2>&1 </dev/null || {
    tail -n 40 "$log" >&2
    exit 1
}
mv "$root.unfinished" "$root"
