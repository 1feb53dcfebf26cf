"""Docstrings of the house style, as reStructuredText for autodoc.

They are plain text, written for help(). This module finds in them

    name   text         a table of names: it becomes a definition list
    (four spaces)       an indented paragraph: code
    `name`, name(), X=  code, with a link if it is a public name
    packet(7)           a page of the manual
    net/core/dev.c:f()  the source of a fact about the kernel: code
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from textwrap import dedent
from typing import TYPE_CHECKING

from public import MODULES, public_names

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_NAME = r"[\w.]+(?:\(\w*\))?"
_NAMES = re.compile(rf"{_NAME}(?:, {_NAME})*")
_ENTRY = re.compile(rf"{_NAMES.pattern}  +(?=[^\s#])")
_MARKED = re.compile(
    r"``(?P<literal>.+?)``"
    r"|`(?P<quoted>[^`]+)`"
    r"|(?P<source>\b[\w-]+(?:/[\w-]+)*\.[ch]\b(?::\w+(?:\(\))?)?)"
    r"|(?P<manual>\b[a-z][\w-]*\([1-8]\))"
    r"|(?P<call>\b[a-zA-Z_][\w.]*\((?!s\))[^()]*\))"
    r"|(?P<item>\b[a-z_][\w.]*\[\w+\])"
    r"|(?P<option>\b[a-z_]+=(?:True|False|None|\d+)?)"
    r"|(?P<name>\b(?:rawmmsg\.[\w.]*\w|[A-Z]\w+|[a-z]+(?:_[a-z]+)+)\b)"
    r"|(?P<special>[\\*_|])"
)


def _process(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    lines: list[str],
) -> None:
    try:
        parameters = set(inspect.signature(obj).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # it has no signature
        parameters = set()

    def mark(found: re.Match[str]) -> str:
        return _mark(found, name, parameters)

    lines[:] = _blocks(lines, lambda text: _MARKED.sub(mark, text))


def _blocks(lines: list[str], inline: Callable[[str], str]) -> Iterator[str]:
    """Yields the lines of the paragraphs, each followed by a blank line."""
    # A note to pytest in the docstring of a plugin.
    text = "\n".join(lines).replace("PYTEST_DONT_REWRITE", "").strip("\n")
    for kind, group in groupby(re.split(r"\n\s*\n", text), _kind):
        paragraphs = [dedent(paragraph).splitlines() for paragraph in group]
        if kind == "code":
            code = dedent("\n\n".join(map("\n".join, paragraphs)))
            yield f".. code-block:: {_language(code)}"
            yield ""
            yield from (f"   {line}" for line in code.splitlines())
            yield ""
            continue
        for paragraph in paragraphs:
            if kind == "table":
                yield from _table(paragraph, inline)
            else:
                yield inline(" ".join(paragraph))
                yield ""


def _kind(paragraph: str) -> str:
    if _column(dedent(paragraph).splitlines()):
        return "table"
    return "code" if paragraph.startswith("    ") else "text"


def _column(paragraph: list[str]) -> int:
    """Where the texts of a table begin; 0 if it is not one."""
    longer = [line for line in paragraph[1:] if line.startswith("    ")]
    if entry := _ENTRY.match(paragraph[0]):
        column = entry.end()
    elif longer and _NAMES.fullmatch(paragraph[0]):
        column = len(longer[0]) - len(longer[0].lstrip())
    else:
        return 0
    names = [_split(line, column)[0] for line in paragraph]
    if all(not name or _NAMES.fullmatch(name) for name in names):
        return column
    return 0


def _table(
    paragraph: list[str], inline: Callable[[str], str]
) -> Iterator[str]:
    column = _column(paragraph)
    entries: list[tuple[str, list[str]]] = []
    for line in paragraph:
        names, text = _split(line, column)
        if names:
            entries.append((names, []))
        entries[-1][1].append(text)
    for names, texts in entries:
        yield ", ".join(inline(f"`{name}`") for name in names.split(", "))
        yield f"   {inline(' '.join(filter(None, texts)))}"
        yield ""


def _split(line: str, column: int) -> tuple[str, str]:
    """Returns the names and the text of a line, one of which may be empty."""
    if line[column - 1 : column].strip():  # long names, the text is below
        return line, ""
    return line[:column].strip(), line[column:].strip()


def _language(code: str) -> str:
    try:
        ast.parse(code)
    except SyntaxError:
        return "text"
    return "python"


def _mark(found: re.Match[str], place: str, parameters: set[str]) -> str:
    """Returns what the docstring of `place` means, in reStructuredText."""
    kind, text = found.lastgroup, found[found.lastgroup or 0]
    if kind == "special":
        return f"\\{text}"
    if kind == "manual":
        return f":manpage:`{text}`"
    name = text.removesuffix("()")
    if kind != "literal" and name not in parameters:
        target = _target(name, place)
        if target == place:
            return f"``{text}``"
        if target is not None:
            return f":py:obj:`{text} <{target}>`"
    if kind == "name":
        return re.sub(r"[\\*_|]", r"\\\g<0>", text)
    return f"``{text}``"


def _target(name: str, place: str) -> str | None:
    """Returns the full name of what `place` calls `name`: of its own class,
    of the one around it, of its module, or the only one of that name."""
    if name == "packets_sent" and "Statistics" not in place:
        return None  # the attribute of an error
    candidates = public_names().get(name.rpartition(".")[2], ())
    if "." in name:
        candidates = tuple(one for one in candidates if one.endswith(name))
    elif name[0].isupper():  # not the member of an enumeration
        in_modules = [
            one for one in candidates if one.rpartition(".")[0] in MODULES
        ]
        return next(iter(in_modules), None)
    while "." in place:
        if f"{place}.{name}" in candidates:
            return f"{place}.{name}"
        place = place.rpartition(".")[0]
    if len(candidates) != 1 or hasattr(builtins, name):
        return None
    return candidates[0]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
