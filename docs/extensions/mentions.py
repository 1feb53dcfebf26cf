"""Links from `code` in the pages: to the reference, and to manual pages.

Only what can mean nothing else becomes a link: `RawSocket`, `GSO_NONE`,
`sendmmsg_all()`, `pacing.send()`, `packet(7)`, but not `send()` or `append()`.
"""

from __future__ import annotations

import builtins
import re
import socket
from typing import TYPE_CHECKING, Any

from docutils import nodes
from public import MODULES, public_names
from sphinx import addnodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_NAME = re.compile(r"(?P<path>(?:\w+\.)*(?P<name>\w+))(?P<call>\(\))?")
_PAGE = re.compile(r"(?P<page>[a-z][\w.-]*)\((?P<section>[2-8])\)")
_CLASSES = ("rawmmsg.RawSocket", "rawmmsg.PacketBatch")
_ELSEWHERE = (builtins, list, socket, socket.socket)


def _link(app: Sphinx, doctree: Any) -> None:
    page = app.env.current_document.docname
    for node in list(doctree.findall(nodes.literal)):
        text = node.astext()
        if node.get("classes") or isinstance(
            node.parent, nodes.reference | nodes.title | addnodes.pending_xref
        ):
            continue
        link: Any = None
        if found := _PAGE.fullmatch(text):
            address = app.config.manpages_url.format(**found.groupdict())
            link = nodes.reference(refuri=address)
        elif target := _target(text):
            link = addnodes.pending_xref(
                refdomain="py", reftype="obj", reftarget=target, refdoc=page
            )
        if link is not None:
            node.replace_self(link)
            link += node


def _target(text: str) -> str | None:
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    name, path = found["name"], found["path"].removeprefix("rawmmsg.")
    if f"rawmmsg.{path}" in public_names().get(name, ()):
        return f"rawmmsg.{path}"
    if any(hasattr(other, name) for other in _ELSEWHERE):
        return None
    candidates = [
        full
        for full in public_names().get(name, ())
        if full.rpartition(".")[0] in (*MODULES, *_CLASSES)
    ]
    # In lower case it can be a word or an argument.
    if not candidates or (name.islower() and not found["call"]):
        return None
    return candidates[0]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", _link)
    return {"parallel_read_safe": True}
