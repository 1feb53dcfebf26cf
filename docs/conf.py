"""Settings of Sphinx for these pages (`nox -s docs` builds them)."""

import rawmmsg

project = "rawmmsg"
author = "The rawmmsg authors"
copyright = "The rawmmsg authors"
version = release = rawmmsg.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
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

html_theme = "furo"
html_title = f"rawmmsg {release}"

# A reference to what does not exist is an error. Names of the standard library
# are not looked up, because that would need a network.
nitpicky = True
