"""The extension's file, and what importing the package does."""

import importlib.machinery
import shutil
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import pytest
from support import FREE_THREADED
from support.child import run_python, tool

import rawmmsg
from rawmmsg import _rawmmsg


def symbols(path: str) -> set[str]:
    """The undefined or exported symbols of the file."""
    done = subprocess.run(
        [tool("readelf"), "--dyn-syms", "--wide", path],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = (line.split() for line in done.stdout.splitlines())
    return {row[7].partition("@")[0] for row in rows if len(row) > 7}


def test_extension_uses_syscall_for_batches() -> None:
    """musl's sendmmsg() is a loop of sendmsg(). AddressSanitizer checks what
    libc's recvmmsg() writes, but not what syscall(2) does."""
    names = symbols(_rawmmsg.__file__)
    assert "PyInit__rawmmsg" in names
    sanitized = any(name.startswith("__asan_") for name in names)
    for name in ("recvmmsg", "sendmmsg"):
        assert (name in names) == sanitized, name
    assert "syscall" in names or sanitized


def test_extension_exports_only_its_init_function() -> None:
    done = subprocess.run(
        [tool("readelf"), "--dyn-syms", "--wide", _rawmmsg.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    exported = {
        row[7]
        for row in rows
        if len(row) > 7 and row[4] == "GLOBAL" and row[6].isdigit()
    }
    assert exported == {"PyInit__rawmmsg"}


def test_file_name_matches_the_api_used() -> None:
    """The Limited API has the buffer protocol and METH_FASTCALL since 3.11,
    and everything that the extension needs since 3.12. Free-threaded Python
    has no Limited API before 3.15."""
    name = Path(_rawmmsg.__file__).name
    if sys.version_info >= (3, 12) and not FREE_THREADED:
        assert name == "_rawmmsg.abi3.so"
    else:
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        assert name == f"_rawmmsg{suffix}"
    assert name.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


def test_import_loads_few_modules() -> None:
    """Not typing, numpy, Scapy, asyncio or ctypes. Other submodules are loaded
    at their first use."""
    done = run_python("""
        import sys
        before = set(sys.modules)
        import rawmmsg
        print(*sorted(set(sys.modules) - before))
    """)
    loaded = set(done.split())
    assert {"rawmmsg", "rawmmsg._rawmmsg"} <= loaded
    assert loaded <= {
        *("rawmmsg", "rawmmsg._rawmmsg", "rawmmsg._options"),
        *("rawmmsg.constants", "rawmmsg.fanout", "importlib"),
        *("importlib._bootstrap", "importlib._bootstrap_external", "types"),
        *("warnings", "operator", "_operator", "__future__", "contextlib"),
        # Imported by enum.
        *("enum", "functools", "_functools", "collections", "_collections"),
        "collections.abc",  # an alias in later releases of 3.13
        "_types",  # imported by types from 3.14 on
        *("itertools", "keyword", "reprlib"),
    }


def test_checkout_that_is_not_compiled_says_so(tmp_path: Path) -> None:
    """Python finds it in the current folder before what is installed."""
    shutil.copytree(
        Path(rawmmsg.__file__).parent,
        tmp_path / "rawmmsg",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import rawmmsg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{tmp_path}/rawmmsg has no module compiled" in done.stderr
    assert "start Python in another folder" in done.stderr


def test_dir_lists_what_is_public() -> None:
    public = {name for name in dir(rawmmsg) if not name.startswith("_")}
    submodules = {"aio", "bpf", "bridge", "constants", "fanout"}
    submodules |= {"pacing", "pcap"}
    extras = {"ptf", "scapy", "testing"}
    assert public == {*rawmmsg.__all__, *submodules, *extras}


def test_submodules_are_loaded_at_their_first_use() -> None:
    assert isinstance(rawmmsg.testing, types.ModuleType)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rawmmsg.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from rawmmsg import nothing  # noqa: F401


# As if only rawmmsg were installed.
ALONE = """
    import sys
    for name in ("scapy", "ptf", "pytest", "tqdm", "numpy"):
        assert name not in sys.modules
        sys.modules[name] = None
    import inspect
    import pydoc
    import rlcompleter
    import rawmmsg
"""


def test_package_can_be_inspected_without_scapy() -> None:
    """With help(), by completion and by name; missing modules do not
    appear."""
    done = run_python(f"""{ALONE}
    page = pydoc.plain(pydoc.render_doc(rawmmsg))
    assert page.startswith("Python Library Documentation: package rawmmsg")
    assert "Memory for a batch of packets" in page
    members = dict(inspect.getmembers(rawmmsg))
    assert {{"aio", "bpf", "fanout", "ptf", "testing"}} <= set(members)
    assert "scapy" not in members
    assert not hasattr(rawmmsg, "scapy")
    names = rlcompleter.Completer(globals()).attr_matches("rawmmsg.")
    assert "rawmmsg.RawSocket(" in names
    from rawmmsg import *
    try:
        rawmmsg.scapy
    except AttributeError as error:
        print(error)
    """)
    assert "pip install 'rawmmsg[scapy]'" in done


@pytest.mark.parametrize(
    "statement",
    [
        "import rawmmsg.scapy",
        "from rawmmsg import scapy",
        "from rawmmsg.scapy import install",
        "import rawmmsg.scapy.sockets",
    ],
)
def test_import_without_scapy_names_the_remedy(statement: str) -> None:
    done = run_python(f"""{ALONE}
    try:
        {statement}
    except ModuleNotFoundError as error:
        print(error.name, error)
    """)
    assert done == (
        "scapy rawmmsg.scapy needs Scapy: pip install 'rawmmsg[scapy]'\n"
    )


def test_every_other_module_can_be_imported_alone() -> None:
    """Except the pytest plugin, which only pytest imports. tqdm and numpy are
    imported where they are used."""
    done = run_python(f"""{ALONE}
    import importlib
    import pkgutil
    others = {{"rawmmsg.scapy", "rawmmsg.testing.plugin"}}
    for module in pkgutil.walk_packages(rawmmsg.__path__, "rawmmsg."):
        if module.name not in others:
            importlib.import_module(module.name)
            print(module.name)
    """)
    names = set(done.split())
    assert {"rawmmsg.__main__", "rawmmsg.bpf", "rawmmsg.testing"} <= names


def test_import_does_not_enable_the_gil() -> None:
    """On a free-threaded Python."""
    done = run_python("""
        import sys
        import rawmmsg
        print(getattr(sys, "_is_gil_enabled", lambda: True)())
    """)
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert done == f"{not free_threaded}\n"
    here = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert here != free_threaded, "another module enabled the GIL"
