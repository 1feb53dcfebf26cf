"""The directive `command`, which shows a command from its parser:

    :::{command} bridge
    :::

It shows the usage, the arguments, the options and the text at the end of
`rawmmsg bridge --help`, in which a line such as "Exit status:" is a title.
Without a name, it shows the command `rawmmsg` itself. A page refers to an
option by {option}`rawmmsg bridge --mode`.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

from rawmmsg.cli import build_parser

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Shells would not take the quotation marks that Sphinx makes of these.
_QUOTED = re.compile(r"(?<!\w)'[^']+'(?!\w)")
_PAGE = re.compile(r"\b[a-z][\w-]+\([1-8]\)")
_TITLE = re.compile(r"^([A-Z][a-z]+(?: [a-z]+)?):$", re.MULTILINE)


class Command(SphinxDirective):
    optional_arguments = 1

    def run(self) -> list[Any]:
        parser = build_parser()
        commands = _subcommands(parser)
        if self.arguments:
            parser = commands.choices[self.arguments[0]]
        return self.parse_text_to_nodes("\n".join(_markdown(parser)))


def _subcommands(parser: argparse.ArgumentParser) -> Any:
    return next(
        action
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )


def _markdown(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield _marked(parser.description or "")
    yield from ("", "```text", parser.format_usage().rstrip(), "```", "")
    # The options below belong to this command.
    yield from (f"```{{program}} {parser.prog}", "```", "")
    expand = parser._get_formatter()._expand_help
    for action in parser._get_positional_actions():
        if not isinstance(action, argparse._SubParsersAction):
            text = _marked(expand(action))
            yield from (f"`{action.metavar}`", f": {text}", "")
    for action in parser._get_optional_actions():
        if "--help" not in action.option_strings:
            yield f"```{{option}} {_invocation(action)}"
            yield from (_marked(expand(action)), "```", "")
    yield _TITLE.sub(r"```{rubric} \1\n```", parser.epilog or "")


def _marked(text: str) -> str:
    text = _QUOTED.sub(r"`\g<0>`", text)
    return _PAGE.sub(r"{manpage}`\g<0>`", text)


def _invocation(action: argparse.Action) -> str:
    """The option with its value, as in the usage."""
    value = action.metavar or ""
    if action.choices and not value:
        value = f"{{{','.join(map(str, action.choices))}}}"
    return ", ".join(
        f"{name} {value}".strip() for name in action.option_strings
    )


def setup(app: Sphinx) -> dict[str, bool]:
    os.environ["COLUMNS"] = "79"  # where argparse breaks the usage
    app.add_directive("command", Command)
    return {"parallel_read_safe": True}
