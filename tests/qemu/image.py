"""What the guest boots, made from Debian's packages: a kernel, the modules for
its network card and for VLANs, and an initramfs with busybox. Nothing is
installed."""

import gzip
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

# The smallest of Debian's kernels. This meta-package depends on the newest
# one.
_PACKAGE: Final = "linux-image-cloud-amd64"
_MODULES: Final = ("virtio_pci", "virtio_net", "8021q")

# Of the package user-mode-linux: a folder for its version.
_UML_MODULES: Final = Path("/usr/lib/uml/modules")

# The first serial port is the kernel's console. At the second a shell (not an
# interactive one, which would echo) takes commands, a line each, and says MARK
# and a status when it is ready for the next.
MARK: Final = "-- status"
_INIT: Final = f"""\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
status=0
for module in $(cat /modules/order); do
    insmod /modules/$module || status=$?
done
echo {MARK} $status
while read -r command; do
    eval "$command" </dev/null
    echo {MARK} $?
done
"""


def cache() -> Path:
    """The folder that keeps the kernel: $RAWMMSG_QEMU_CACHE."""
    default = Path.home() / ".cache" / "rawmmsg-qemu"
    return Path(os.environ.get("RAWMMSG_QEMU_CACHE") or default).absolute()


def kernel() -> Path:
    """The folder with the cached kernel, `vmlinuz`, and its modules."""
    kernels = _cached()
    if not kernels:
        raise FileNotFoundError(
            f"no kernel in {cache()}: run tests/qemu/run.py"
        )
    return kernels[-1]


def _cached() -> list[Path]:
    """The cached kernels that have all modules. An earlier version of this
    program may have kept fewer."""
    return [
        folder
        for folder in sorted(cache().glob("linux-image-*"))
        if all((folder / f"{name}.ko").exists() for name in _MODULES)
    ]


def fetch_kernel() -> None:
    """Downloads Debian's kernel (27 MB) unless it is cached. Any version
    works; delete the folder to get the newest."""
    if _cached():
        return
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix="new-") as folder:
        _fetch(Path(folder))


def _fetch(folder: Path) -> None:
    name = _dependency(_PACKAGE)
    # apt's own user may not be allowed to write there.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
    subprocess.run([*command, "download", name], cwd=folder, check=True)
    (package,) = folder.glob("*.deb")
    tree, kept = folder / "tree", folder / "kept"
    subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    kept.mkdir()
    (vmlinuz,) = (tree / "boot").glob("vmlinuz-*")
    shutil.copy(vmlinuz, kept / "vmlinuz")
    for module in _load_order(tree.glob("lib/modules/**/*.ko")):
        shutil.copy(module, kept)
    # Atomic, so that two runs can share the cache.
    if cache() / name not in _cached():
        shutil.rmtree(cache() / name, ignore_errors=True)
    try:
        kept.rename(cache() / name)
    except OSError:
        if cache() / name not in _cached():
            raise


def _dependency(package: str) -> str:
    """The kernel package that the meta-package depends on now."""
    command = ["apt-cache", "depends", package]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=True
    )
    found = re.search(r"Depends: (linux-image-\S+)", answer.stdout)
    if found is None:
        raise LookupError(f"{package} depends on no kernel: {answer.stdout!r}")
    return found[1]


def _load_order(
    files: Iterable[Path], names: Sequence[str] = _MODULES
) -> list[Path]:
    """The modules with these names and those that they depend on, each after
    its dependencies. The packages do not contain depmod(8)'s list."""
    known = {path.stem.replace("-", "_"): path for path in files}
    order: list[Path] = []

    def add(name: str) -> None:
        path = known[name.replace("-", "_")]
        if path in order:
            return
        found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        assert found is not None, f"{path} does not name its dependencies"
        for needed in filter(None, found[1].decode().split(",")):
            add(needed)
        order.append(path)

    for name in names:
        add(name)
    return order


def uml_modules() -> list[Path]:
    """The modules that Debian's User-mode Linux has to load for the tests, in
    order."""
    return _load_order(_UML_MODULES.glob("*/**/*.ko"), ["ipv6"])


def make_initramfs(
    folder: Path,
    programs: Iterable[Path] = (),
    modules: Iterable[Path] | None = None,
) -> Path:
    """Writes the guest's initramfs into `folder`. `programs`, linked
    statically, are additional commands. `modules` are loaded in this order;
    None: those for kernel()."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    root = folder / "root"
    for name in ("bin", "dev", "modules", "proc", "sys"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    for program in programs:
        shutil.copy(program, root / "bin")
    if modules is None:
        modules = _load_order(kernel().glob("*.ko"))
    order = list(modules)
    for module in order:
        shutil.copy(module, root / "modules")
    names = "".join(f"{module.name}\n" for module in order)
    (root / "modules" / "order").write_text(names)
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    files = [str(path.relative_to(root)) for path in sorted(root.rglob("*"))]
    archive = subprocess.run(
        [busybox, "cpio", "-o", "-H", "newc"],
        input="".join(f"{name}\n" for name in files).encode(),
        cwd=root,
        capture_output=True,
        check=True,
    )
    initramfs = folder / "initramfs.gz"
    initramfs.write_bytes(gzip.compress(archive.stdout, 1))
    return initramfs
