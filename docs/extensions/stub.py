"""The C types as Python classes, made from the stub, for autodoc.

Only the stub knows the types of their arguments. Its private names for long
types appear under names that the page of sockets explains.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from sphinx import addnodes

import rawmmsg

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_STUB = Path(rawmmsg.__file__).with_name("_rawmmsg.pyi")
_ALIASES = {
    "_Address": "Address",
    "_Column": "Sequence[int] | Buffer",
    "_Fanout": "Fanout",
    "_FanoutMode": "~rawmmsg.constants.FanoutMode | str",
    "_LinkAddress": "LinkAddress",
    "_Packet": "scapy.packet.Packet | Buffer",
    "_Packets": "Packets",
    "_PeerAddress": "PeerAddress",
}
# In the signatures of Python modules.
_ALIAS = re.compile(r"\b_(?:Packets?|FanoutMode)\b")


def replace_types() -> None:
    """Replaces the types of the package by classes with the same docstrings.
    Their annotations stay strings."""
    kinds = [
        kind
        for kind in ast.parse(_STUB.read_text(encoding="utf-8")).body
        if isinstance(kind, ast.ClassDef) and kind.name in rawmmsg.__all__
    ]
    for kind in kinds:
        kind.bases = []
        kind.body = list(_merged(kind.body))
        _Renamer(kind.name).visit(kind)
    module = ast.fix_missing_locations(ast.Module([*kinds], []))
    flags = annotations.compiler_flag  # of `from __future__ import` above
    names: dict[str, Any] = {
        "__name__": "rawmmsg",
        "final": final,
        "Final": Final,
    }
    exec(compile(module, str(_STUB), "exec", flags), names)
    for kind in kinds:
        setattr(rawmmsg, kind.name, names[kind.name])


class _Renamer(ast.NodeTransformer):
    def __init__(self, kind: str) -> None:
        self._names = _ALIASES | {"Self": kind}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._names.get(node.id, node.id), node.ctx)


def _merged(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Replaces the overloads of a method by one that covers all of them."""
    for _, group in groupby(body, lambda item: getattr(item, "name", item)):
        items = list(group)
        overloads = [
            item
            for item in items
            if isinstance(item, ast.FunctionDef)
            and "overload" in map(ast.unparse, item.decorator_list)
        ]
        yield from [_union(overloads)] if overloads else items


def _union(overloads: list[ast.FunctionDef]) -> ast.FunctionDef:
    longest = max(overloads, key=lambda function: len(_taken(function)))
    for i, argument in enumerate(_taken(longest)):
        there = [_taken(f)[i] for f in overloads if i < len(_taken(f))]
        argument.annotation = _either(a.annotation for a in there)
        if len(there) < len(overloads):  # the default is that of setup.py
            longest.args.defaults.append(ast.Constant(0))
    longest.returns = _either(function.returns for function in overloads)
    longest.body = overloads[0].body  # the docstring
    longest.decorator_list = []
    return longest


def _taken(function: ast.FunctionDef) -> list[ast.arg]:
    return function.args.posonlyargs


def _either(types: Iterable[ast.expr | None]) -> ast.expr | None:
    texts = dict.fromkeys(ast.unparse(one) for one in types if one)
    return ast.parse(" | ".join(texts), mode="eval").body if texts else None


def _rename(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    arguments: str | None,
    returned: str,
) -> tuple[str, str] | None:
    if isinstance(obj, type) and (
        issubclass(obj, Enum) or getattr(obj, "_is_protocol", False)
    ):
        return "", ""
    if arguments is None:
        return None
    return _ALIAS.sub(lambda alias: _ALIASES[alias[0]], arguments), returned


def _unlink_builtins(app: Sphinx, doctree: Any) -> None:
    """Otherwise the type `bytes` would lead to SendResult.bytes."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node["reftype"] == "class" and hasattr(builtins, node["reftarget"]):
            node.replace_self(node.children)


def setup(app: Sphinx) -> dict[str, bool]:
    replace_types()
    app.connect("doctree-read", _unlink_builtins)
    app.connect("autodoc-process-signature", _rename)
    return {"parallel_read_safe": True}
