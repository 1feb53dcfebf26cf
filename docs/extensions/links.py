"""A list of the links that leave these pages, for a person to look at.

Nothing is fetched. The build writes links.txt: each address, with the pages
that it is on.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_pages: defaultdict[str, set[str]] = defaultdict(set)


def _collect(app: Sphinx, doctree: Any, page: str) -> None:
    for node in doctree.findall():
        address = node.get("refuri", "") if hasattr(node, "get") else ""
        if address.startswith(("http:", "https:")):
            _pages[address].add(page)


def _write(app: Sphinx, error: Exception | None) -> None:
    lines = [f"{one}  ({', '.join(sorted(_pages[one]))})" for one in _pages]
    text = "\n".join([*sorted(lines), ""])
    Path(app.outdir, "links.txt").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("doctree-resolved", _collect)
    app.connect("build-finished", _write)
