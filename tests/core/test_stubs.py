"""The stub describes the module exactly."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

import rawmmsg
from rawmmsg import _rawmmsg

STUB = Path(rawmmsg.__file__).with_name("_rawmmsg.pyi")
TREE = ast.parse(STUB.read_text(encoding="utf-8"))
CLASSES = {
    node.name: node
    for node in TREE.body
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
}


def members(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    """Methods and properties by name; of an overloaded method, the last
    overload."""
    return {
        item.name: item
        for item in node.body
        if isinstance(item, ast.FunctionDef)
    }


MEMBERS = [
    (kind, name)
    for kind, node in CLASSES.items()
    for name in members(node)
    if not name.startswith("_")
]
METHODS = [
    (kind, name)
    for kind, name in MEMBERS
    if callable(getattr(getattr(rawmmsg, kind), name))
]


def test_stub_has_the_names_of_the_module() -> None:
    public = {name for name in vars(_rawmmsg) if not name.startswith("_")}
    assert public == set(CLASSES)


def test_package_exports_the_names_of_the_module() -> None:
    for name in CLASSES:
        assert name in rawmmsg.__all__
        assert getattr(rawmmsg, name) is getattr(_rawmmsg, name)
    assert set(rawmmsg.__all__) <= set(dir(rawmmsg))


@pytest.mark.parametrize("kind", CLASSES)
def test_stub_has_the_members_of_each_type(kind: str) -> None:
    runtime: type = getattr(rawmmsg, kind)
    public = {name for name in vars(runtime) if not name.startswith("_")}
    # The attributes of every named tuple.
    public -= {"n_fields", "n_sequence_fields", "n_unnamed_fields"}
    assert public == {n for k, n in MEMBERS if k == kind}


@pytest.mark.parametrize("kind", CLASSES)
def test_types_name_the_package_as_their_module(kind: str) -> None:
    runtime: type = getattr(rawmmsg, kind)
    assert (runtime.__module__, runtime.__qualname__) == ("rawmmsg", kind)


def test_docstring_of_the_module_is_that_of_the_stub() -> None:
    assert _rawmmsg.__doc__ == ast.get_docstring(TREE)


@pytest.mark.parametrize("kind", CLASSES)
def test_docstring_of_a_type_is_that_of_the_stub(kind: str) -> None:
    promised = ast.get_docstring(CLASSES[kind])
    assert promised, "the stub has no docstring"
    assert getattr(rawmmsg, kind).__doc__ == promised


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_docstring_of_a_member_is_that_of_the_stub(
    kind: str, name: str
) -> None:
    promised = [
        ast.get_docstring(item)
        for item in CLASSES[kind].body
        if isinstance(item, ast.FunctionDef) and item.name == name
    ]
    assert promised[0], "the stub has no docstring"
    assert getattr(getattr(rawmmsg, kind), name).__doc__ == promised[0]


def parameters(arguments: ast.arguments) -> list[tuple[str, Any]]:
    """The names without self or cls, and how each may be given."""
    kinds = inspect.Parameter
    listed = [
        *((a.arg, kinds.POSITIONAL_ONLY) for a in arguments.posonlyargs),
        *((a.arg, kinds.POSITIONAL_OR_KEYWORD) for a in arguments.args),
        *((a.arg, kinds.KEYWORD_ONLY) for a in arguments.kwonlyargs),
    ]
    return listed[1:]


def signature_of(function: Any) -> list[tuple[str, Any]]:
    return [
        (parameter.name, parameter.kind)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]


@pytest.mark.parametrize("kind", ["PacketBatch", "RawSocket"])
def test_constructor_has_the_signature_of_the_stub(kind: str) -> None:
    stated = parameters(members(CLASSES[kind])["__new__"].args)
    assert signature_of(getattr(rawmmsg, kind)) == stated


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_method_has_the_signature_of_the_stub(kind: str, name: str) -> None:
    method = getattr(getattr(rawmmsg, kind), name)
    stated = parameters(members(CLASSES[kind])[name].args)
    if name in ("getsockopt", "setsockopt"):
        # The stub's overloads show which arguments can be combined.
        stated = {
            "getsockopt": [*stated[:2], ("buflen", stated[0][1])],
            "setsockopt": [*stated[:3], ("optlen", stated[0][1])],
        }[name]
    assert signature_of(method) == stated
