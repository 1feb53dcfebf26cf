"""What is imported when: the compiler costs those who compile, and it needs
nothing outside the standard library.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.no_network


def modules_after(statement: str) -> set[str]:
    """The modules loaded by a fresh interpreter after a statement."""
    code = f"import sys; {statement}; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_does_not_import_the_compiler() -> None:
    loaded = modules_after("import rawmmsg")
    assert "rawmmsg" in loaded, "the package is imported"
    assert "rawmmsg.bpf" not in loaded, "its compiler is not"


def test_a_program_needs_no_compiler() -> None:
    loaded = modules_after("import rawmmsg.bpf; rawmmsg.bpf.Program")
    compiler = {"parser", "lexer", "codegen", "optimizer", "compiler"}
    names = {f"rawmmsg.bpf.{name}" for name in compiler}
    assert loaded & names == set(), (
        "who has a program already does not import the compiler"
    )


def test_compiling_needs_nothing_but_the_standard_library() -> None:
    before = modules_after("pass")
    after = modules_after("import rawmmsg.bpf; rawmmsg.bpf.compile('tcp')")
    tops = {name.partition(".")[0] for name in after - before}
    outside = tops - set(sys.stdlib_module_names) - {"rawmmsg"}
    outside = {name for name in outside if not name.startswith("__")}
    assert outside == set(), "the compiler needs only the standard library"
