"""Imports: only programs that compile import the compiler, it needs nothing
outside the standard library, and its modules form no import cycle.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from rawmmsg import bpf

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
    ours = {name for name in loaded if name.startswith("rawmmsg.bpf.")}
    needed = ("errors", "opcodes", "program")
    assert ours == {f"rawmmsg.bpf.{name}" for name in needed}, (
        "the compiler is imported only by programs that compile"
    )


# The modules and folders of rawmmsg.bpf. Each imports only from those before
# it, and from its own folder.
ORDER = (
    *("errors", "opcodes", "program", "arithmetic", "cfg", "syntax"),
    *("codegen", "optimize", "assembler", "compiler", "__init__"),
)
FOLDER = Path(bpf.__file__).parent
MODULES = set(FOLDER.rglob("*.py"))


def imported_by(module: Path) -> set[Path]:
    """The modules of rawmmsg.bpf that a module imports anywhere in it."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = module.parents[node.level - 1]
            base = folder / (node.module or "").replace(".", "/")
            found.add(base.with_suffix(".py"))
            found |= {base / f"{alias.name}.py" for alias in node.names}
    return found & MODULES


def place_of(module: Path) -> int:
    first = module.relative_to(FOLDER).parts[0]
    return ORDER.index(first.removesuffix(".py"))


def test_dependencies_point_in_one_direction() -> None:
    for module in MODULES:
        for other in imported_by(module):
            same_folder = module.parent == other.parent != FOLDER
            assert same_folder or place_of(other) < place_of(module), (
                f"{module} must not import {other}"
            )


def test_imports_form_no_cycle() -> None:
    sorter = graphlib.TopologicalSorter(
        {module: imported_by(module) for module in MODULES}
    )
    order = list(sorter.static_order())  # CycleError names the cycle
    assert len(order) == len(MODULES) > 20, "every module was looked at"


def test_compiling_needs_nothing_but_the_standard_library() -> None:
    before = modules_after("pass")
    after = modules_after("import rawmmsg.bpf; rawmmsg.bpf.compile('tcp')")
    tops = {name.partition(".")[0] for name in after - before}
    outside = tops - set(sys.stdlib_module_names) - {"rawmmsg"}
    outside = {name for name in outside if not name.startswith("__")}
    assert outside == set(), "the compiler needs only the standard library"
