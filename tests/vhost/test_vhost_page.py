"""docs/virtual-machines/vhost-user.md agrees with the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from support.blocks import ROOT

import rawmmsg
from rawmmsg.vhost import Feature, ProtocolFeature

pytestmark = pytest.mark.no_network

PAGE: Final = ROOT / "docs/virtual-machines/vhost-user.md"
PACKAGE: Final = Path(rawmmsg.__file__).parent


def section(title: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^## {title}\n(.*?)^## ", text, re.M | re.S)
    assert found, f"there is no section {title}"
    return found[1]


def texts() -> Iterator[str]:
    """The strings in the code. A value in an f-string is PATH."""
    for file in [
        *(PACKAGE / "vhost").glob("*.py"),
        PACKAGE / "bridge/ports/vhost.py",
    ]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value)
                    if isinstance(part, ast.Constant)
                    else "PATH"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(
                node.value, str
            ):
                yield node.value


def test_every_message_exists() -> None:
    messages = re.findall(r"^\| `(.*?)` \|", section("Messages"), re.M)
    assert len(messages) > 5
    known = list(texts())
    for message in messages:
        assert any(message in text for text in known), message


def test_every_feature_is_explained() -> None:
    names = {*Feature.__members__, *ProtocolFeature.__members__}
    names.remove("PROTOCOL_FEATURES")
    offered, _, others = section("Features").partition("These are not offered")
    assert names_in(offered) == names
    assert not names & names_in(others)


def names_in(text: str) -> set[str]:
    return set(re.findall(r"`([A-Z][A-Z0-9_]+)`", text))
