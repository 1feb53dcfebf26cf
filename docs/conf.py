"""Settings of Sphinx for these pages (`nox -s docs` builds them)."""

import re
import sys
from pathlib import Path

import rawmmsg

sys.path.append(str(Path(__file__).with_name("extensions")))

project = "rawmmsg"
author = "The rawmmsg authors"
copyright = "The rawmmsg authors"
version = release = rawmmsg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "docstrings",
    "stub",
    "mentions",
    "links",
    "public",
    "command",
]
myst_enable_extensions = ["colon_fence", "deflist"]
# Links to headings work as on the forge.
myst_heading_anchors = 4
# [bench](source:bench/README.md) leads to a file of the repository that is not
# one of these pages.
myst_url_schemes = {
    "http": None,
    "https": None,
    "source": {
        "url": "https://github.com/rawmmsg/rawmmsg/blob/main/{{path}}",
        "title": "{{path}}",
    },
}

autodoc_member_order = "bysource"
python_maximum_signature_line_length = 70
manpages_url = (
    "https://man7.org/linux/man-pages/man{section}/{page}.{section}.html"
)

html_theme = "furo"
pygments_dark_style = "github-dark"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": "https://github.com/rawmmsg/rawmmsg/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_favicon = "_static/favicon.svg"
html_title = f"rawmmsg {release}"

# A reference to what does not exist is an error. Only names of the standard
# library and of Scapy are not looked up, because that would need a network.
nitpicky = True
_OTHERS = "collections.abc", "enum", "io", "os", "scapy", "subprocess"
nitpick_ignore_regex = [
    ("py:class", rf"({'|'.join(map(re.escape, _OTHERS))})\.[\w.]+"),
    ("py:class", "AddressFamily|Buffer|SocketKind"),
]
