"""The extension, its ABI and its docstrings; all else is in pyproject.toml.

What help() says of the C types is written once, in the stub: the build makes
a header of C strings from it.
"""

import ast
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# One wheel serves 3.12 and every later release.  3.11 lacks what the types
# need of the Limited API, and a free-threaded build up to 3.14 has none: they
# get wheels of their own.
LIMITED_API = sys.version_info >= (3, 12) and not sysconfig.get_config_var(
    "Py_GIL_DISABLED"
)

STUB = "rawmmsg/_rawmmsg.pyi"
DOCSTRINGS = "_rawmmsg_docstrings.h"

# Lines of C that a compiler takes only if something is installed, in an order
# in which each needs those before it.
PROBES = {
    "#include <stdio.h>": "the headers of the C library are missing",
    "#include <linux/if_packet.h>": "the headers of Linux are missing",
    "#include <Python.h>": "the headers of Python {}.{} are missing",
}
INSTALL = """\
a part of rawmmsg is written in C, and {reason}.
Install what compiling needs, then repeat the command:
    Debian, Ubuntu: apt-get install gcc libc6-dev python3-dev
    Fedora:         dnf install gcc glibc-devel python3-devel
    Alpine:         apk add gcc linux-headers musl-dev python3-dev"""


class BuildExtension(build_ext):
    """Makes the header of docstrings first; says what is not installed."""

    def build_extension(self, extension: Extension) -> None:
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        header = header_of(Path(STUB).read_text(encoding="utf-8"))
        (folder / DOCSTRINGS).write_text(header, encoding="utf-8")
        extension.include_dirs.append(str(folder))
        try:
            super().build_extension(extension)
        except CompileError:
            reason = self.what_is_missing()
            if reason is None:
                raise
            raise CompileError(INSTALL.format(reason=reason)) from None

    def what_is_missing(self) -> str | None:
        """Returns None if all that compiling needs is installed."""
        compiler = self.compiler.compiler_so[0]
        if shutil.which(compiler) is None:
            return f"there is no C compiler ({compiler})"
        if not self.compiles("int probe;"):
            return None  # for another reason, which the compiler has said
        for line, reason in PROBES.items():
            if not self.compiles(line):
                return reason.format(*sys.version_info)
        return None

    def compiles(self, line: str) -> bool:
        """Returns whether the compiler takes a line of C."""
        source = Path(self.build_temp, "probe.c")
        source.write_text(f"{line}\n", encoding="utf-8")
        try:
            self.compiler.compile([str(source)])
        except CompileError:
            return False
        return True


def header_of(stub: str) -> str:
    """A macro for each docstring of the stub: TYPE_doc, TYPE_MEMBER_doc."""
    tree = ast.parse(stub)
    docs = {"rawmmsg_doc": ast.get_docstring(tree)}
    for kind in tree.body:
        if not isinstance(kind, ast.ClassDef) or kind.name.startswith("_"):
            continue
        members: dict[str, list[ast.FunctionDef]] = {}
        for item in kind.body:
            if isinstance(item, ast.FunctionDef):
                members.setdefault(item.name, []).append(item)
        signature = ""
        if "__new__" in members:
            signature = signature_of(kind.name, members.pop("__new__"))
        docs[f"{kind.name}_doc"] = signature + ast.get_docstring(kind)
        for name, overloads in members.items():
            doc = next(filter(None, map(ast.get_docstring, overloads)), None)
            if doc is None:
                continue
            if not any(is_property(function) for function in overloads):
                doc = signature_of(name, overloads) + doc
            docs[f"{kind.name}_{name}_doc"] = doc
    macros = (
        f"#define {name} \\\n{quote(doc)}\n" for name, doc in docs.items()
    )
    return f"/* Made from {STUB} by setup.py. */\n\n" + "\n".join(macros)


def is_property(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(d) == "property" for d in function.decorator_list)


def signature_of(name: str, overloads: list[ast.FunctionDef]) -> str:
    """What CPython takes from the start of a docstring for inspect: of the
    overload with the most parameters.

    A parameter that another overload lacks is optional, and 0 if not given.
    """
    longest = max(overloads, key=lambda f: len(f.args.posonlyargs))
    shortest = min(len(f.args.posonlyargs) for f in overloads)
    taken = longest.args
    for argument in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs):
        argument.annotation = None
    if taken.vararg:
        taken.vararg.annotation = None
    if not taken.posonlyargs:
        taken.posonlyargs.append(taken.args.pop(0))
    optional = len(taken.posonlyargs) - shortest
    if len(overloads) > 1 and optional > 0:
        taken.defaults = [ast.Constant(0)] * optional
    # A constructor has no `self` to be bound to.
    first = "" if taken.posonlyargs[0].arg == "cls" else "$"
    text = first + ast.unparse(taken)
    if not first:
        text = text.removeprefix("cls, /").removeprefix(", ")
    return f"{name}({text})\n--\n\n"


def quote(text: str) -> str:
    """The text as a C string, in the value of a macro."""
    # ?? begins a trigraph.
    escaped = re.sub(r'[\\"?]', r"\\\g<0>", text)
    lines = [f'    "{line}"' for line in escaped.split("\n")]
    return '\\n" \\\n'.join(line.removesuffix('"') for line in lines) + '"'


setup(
    cmdclass={"build_ext": BuildExtension},
    ext_modules=[
        Extension(
            "rawmmsg._rawmmsg",
            sources=[
                "_rawmmsg.c",
                "_rawmmsg_batch.c",
                "_rawmmsg_guest.c",
                "_rawmmsg_switch.c",
                "_rawmmsg_columns.c",
                "_rawmmsg_recording.c",
                "_rawmmsg_pcap.c",
                "_rawmmsg_offload.c",
                "_rawmmsg_filter.c",
                "_rawmmsg_virtqueue.c",
            ],
            depends=[
                "_rawmmsg.h",
                "_rawmmsg_offload.h",
                "_rawmmsg_filter.h",
                "_rawmmsg_virtqueue.h",
                "_rawmmsg_pcap.h",
                STUB,
            ],
            define_macros=(
                [("Py_LIMITED_API", "0x030c0000")] if LIMITED_API else []
            ),
            extra_compile_args=["-std=c11", "-fvisibility=hidden"],
            py_limited_api=LIMITED_API,
        )
    ],
    options=(
        {"bdist_wheel": {"py_limited_api": "cp312"}} if LIMITED_API else {}
    ),
)
