"""The public names of the package, and proof that the reference has them all.

A name is public if the `__all__` of a public module has it; so are the public
attributes of a public class. A name that two modules have, such as
`rawmmsg.TRUNCATED` and `rawmmsg.constants.TRUNCATED`, is documented once: as
that of the first of MODULES.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sphinx.util import logging

import rawmmsg

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

# Constants are documented in their own module.
MODULES = (
    "rawmmsg.constants",
    "rawmmsg",
    *(
        f"rawmmsg.{name}"
        for name in dir(rawmmsg)
        if name not in (*rawmmsg.__all__, "constants")
        and not name.startswith("_")
    ),
)
# Of every structseq type, and of every socket class of Scapy.
_INHERITED = {"n_fields", "n_sequence_fields", "n_unnamed_fields", "desc"}

_logger = logging.getLogger(__name__)


@functools.cache
def public_names() -> dict[str, tuple[str, ...]]:
    """The full name of everything public under its short name. A short name
    can have several, such as `RawSocket.send` and `rawmmsg.pacing.send`."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    seen: list[tuple[str, Any]] = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            value = getattr(module, name)
            if any(name == n and value is v for n, v in seen):
                continue
            seen.append((name, value))
            found[name][f"{module_name}.{name}"] = None
            for member in _members(value):
                found[member][f"{module_name}.{name}.{member}"] = None
    return {name: tuple(full) for name, full in found.items()}


def _members(value: object) -> Iterator[str]:
    if not inspect.isclass(value):
        return
    names = {*vars(value), *vars(value).get("__annotations__", ())}
    yield from sorted(
        name for name in names - _INHERITED if not name.startswith("_")
    )


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warns of each public name that the pages lack, and of each name that
    they have although it is not public."""
    public = {full for names in public_names().values() for full in names}
    domain = env.domains.python_domain
    documented = {
        name
        for name, entry in domain.objects.items()
        if name.startswith("rawmmsg") and not entry.aliased
        if entry.objtype not in ("module", "type")
    }
    for name in sorted(public - documented):
        _logger.warning("the reference lacks %s", name)
    for name in sorted(documented - public):
        if not name.rpartition(".")[2].startswith("_"):
            _logger.warning("the reference has %s, which is not public", name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}
