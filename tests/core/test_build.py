"""Where the C module cannot be compiled, the build says what to install."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.child import environment, tool

import rawmmsg

ROOT = Path(__file__).parents[2]

# gcc for which Python.h is missing.
WITHOUT_PYTHON_H = """\
#!/bin/sh
for argument; do
    shift
    case $argument in
    -I*/python3*) ;;
    *) set -- "$@" "$argument" ;;
    esac
done
exec gcc "$@"
"""


def build(folder: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    """Compiles the C module in a copy of the source."""
    tool("gcc")
    stub = Path(rawmmsg.__file__).with_name("_rawmmsg.pyi")
    (folder / "rawmmsg").mkdir()
    shutil.copy(stub, folder / "rawmmsg")
    names = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
    for path in (*map(ROOT.joinpath, names), *ROOT.glob("_rawmmsg*.[ch]")):
        shutil.copy(path, folder)
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext"],
        cwd=folder,
        env=environment() | {"CC": compiler, "CFLAGS": "-O0"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("missing-cc", "there is no C compiler (missing-cc)"),
        ("gcc -nostdinc", "the headers of the C library are missing"),
        (
            "./without-python-h",
            "the headers of Python {}.{} are missing".format(
                *sys.version_info
            ),
        ),
    ],
)
def test_build_says_what_is_missing_and_what_to_install(
    tmp_path: Path, compiler: str, reason: str
) -> None:
    script = tmp_path / "without-python-h"
    script.write_text(WITHOUT_PYTHON_H)
    script.chmod(0o755)
    done = build(tmp_path, compiler)
    assert done.returncode == 1
    message = done.stderr[done.stderr.index("error: a part of rawmmsg") :]
    assert message == (
        f"error: a part of rawmmsg is written in C, and {reason}.\n"
        "Install what compiling needs, then repeat the command:\n"
        "    Debian, Ubuntu: apt-get install gcc libc6-dev python3-dev\n"
        "    Fedora:         dnf install gcc glibc-devel python3-devel\n"
        "    Alpine:         apk add gcc linux-headers musl-dev python3-dev\n"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["-DRawSocket_new=1", "--no-such-flag"])
def test_other_errors_of_the_compiler_stay_as_they_are(
    tmp_path: Path, flag: str
) -> None:
    done = build(tmp_path, f"gcc {flag}")
    assert done.returncode == 1
    assert "returned non-zero exit status" in done.stderr
    assert "Install" not in done.stderr
