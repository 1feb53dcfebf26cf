"""Names in remedies, which people copy: an interface may be called $(id)."""

import json
from shlex import quote as in_shell

__all__ = ["in_python", "in_shell"]


def in_python(name: str) -> str:
    """Returns the name as a string literal with double quotes."""
    return json.dumps(name, ensure_ascii=False)
