"""Makes the manual pages and the completion of shells from the parsers.

    .ci/manual.py FOLDER    # writes FOLDER/man, FOLDER/bash-completion, ...

The text of `--help` is the source of a manual page. The text at its end has
sections, each after a line such as "Exit status:", and paragraphs. Lines that
begin with four spaces are a table with two columns, or commands.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import shtab
from argparse_manpage.manpage import Manpage

from rawmmsg import __version__
from rawmmsg.cli import build_parser

Parser = argparse.ArgumentParser

COMPLETIONS: Final = {
    "bash": "bash-completion/completions/rawmmsg",
    "fish": "fish/vendor_completions.d/rawmmsg.fish",
    "zsh": "zsh/site-functions/_rawmmsg",
}

# Arguments that are the name of an interface.
INTERFACES: Final = {"A", "B", "IFACE", "INTERFACE", "PORT"}
INTERFACE_NAMES: Final = shtab.cmd("ls /sys/class/net")

TITLE: Final = re.compile(r"([A-Z][a-z]+(?: [a-z]+)?):")
ROW: Final = re.compile(r"    (\S+(?: \S+)*)  +(\S.*)")
MORE_OF_ROW: Final = re.compile(r" {6,}(\S.*)")
PAGE: Final = re.compile(r"\b([a-z][\w-]+)\((\d)\)")


def main(folder: Path) -> None:
    # argparse breaks lines at the width of the terminal.
    os.environ["COLUMNS"] = "80"
    for name, text in {**pages(), **completions()}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


# Completion


def completions() -> dict[str, str]:
    """The completion for each shell, by the name of the file."""
    parser = build_parser()
    commands = subcommands(parser)
    for action in commands._choices_actions:
        # Shells show the first line of the description otherwise.
        commands.choices[action.dest].description = action.help
    for command in commands.choices.values():
        for action in command._actions:
            if action.metavar in INTERFACES:
                setattr(action, "complete", INTERFACE_NAMES)  # noqa: B010
    return {
        file: shtab.complete(parser, shell).rstrip() + "\n"
        for shell, file in COMPLETIONS.items()
    }


# Manual pages


def pages() -> dict[str, str]:
    """The manual page of each command, by the name of its file."""
    parser = build_parser()
    commands = subcommands(parser)
    about = {action.dest: action.help for action in commands._choices_actions}
    # The page of `rawmmsg` lists the commands; each has a page of its own.
    commands.help = argparse.SUPPRESS
    rows = [
        (f"rawmmsg\\-{name}(1)", text or "") for name, text in about.items()
    ]
    names = {"rawmmsg", *(f"rawmmsg-{name}" for name in about)}
    result = {
        "man/man1/rawmmsg.1": page(
            parser,
            "tools for sending and receiving raw packets in batches",
            names,
            "\n".join(table(rows)),
        )
    }
    for name, command in commands.choices.items():
        command.prog = f"rawmmsg-{name}"
        result[f"man/man1/rawmmsg-{name}.1"] = page(
            command, about[name] or "", names
        )
    return result


def subcommands(parser: Parser) -> Any:
    """The action that has the parsers of the subcommands as its choices."""
    return next(
        action
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )


def page(
    parser: Parser, about: str, names: set[str], commands: str = ""
) -> str:
    """One manual page. `names` are those of all pages, for SEE ALSO."""
    epilog, parser.epilog = parser.epilog or "", None
    parser._positionals.title = "arguments"
    made = Manpage(parser)
    made.date = ""
    made.source = f"rawmmsg {__version__}"
    made.manual = "rawmmsg"
    made.description = about
    made.synopsis = [
        made.synopsis[0].replace("-", " "),
        *map(escaped, made.synopsis[1:]),
    ]
    if commands:
        made.synopsis += ["COMMAND", "..."]
        made.add_section("commands", "=", commands)
    for title, lines in sections(epilog):
        made.add_section(title, "=", "\n".join(lines))
    others = {(name, "1") for name in names - {parser.prog}}
    for text in (
        parser.description,
        epilog,
        *(action.help for action in parser._actions),
    ):
        others |= set(PAGE.findall(text or ""))
    made.add_section("see also", "=", references(sorted(others)))
    return str(made)


def references(others: list[tuple[str, str]]) -> str:
    lines = [f".BR {escaped(name)} ({number})," for name, number in others]
    return "\n".join(lines).removesuffix(",")


def sections(epilog: str) -> Iterator[tuple[str, list[str]]]:
    """The title and the lines of each section, as roff. NOTES are what stands
    before the first title."""
    title = "notes"
    lines: list[str] = []
    for block in filter(None, epilog.strip("\n").split("\n\n")):
        if found := TITLE.fullmatch(block):
            if lines:
                yield title, lines
            title, lines = found[1], []
        else:
            lines += roff(block.split("\n"), first=not lines)
    if lines:
        yield title, lines


def roff(block: list[str], first: bool) -> Iterator[str]:
    """A paragraph, a table or commands."""
    if not block[0].startswith("    "):
        if not first:
            yield ".PP"
        yield from map(escaped, block)
        return
    rows: list[tuple[str, str]] = []
    for line in block:
        if found := ROW.fullmatch(line):
            rows.append((escaped(found[1]), escaped(found[2])))
        elif rows and (more := MORE_OF_ROW.fullmatch(line)):
            rows[-1] = (rows[-1][0], f"{rows[-1][1]}\n{escaped(more[1])}")
        else:
            yield from commands(block, first)
            return
    yield from table(rows)


def table(rows: list[tuple[str, str]]) -> Iterator[str]:
    for term, text in rows:
        yield from (".TP", f"\\fB{term}\\fR", text)


def commands(lines: list[str], first: bool) -> Iterator[str]:
    if not first:
        yield ".PP"
    yield from (".RS 4", ".EX")
    yield from (escaped(line[4:]) for line in lines)
    yield from (".EE", ".RE")


def escaped(line: str) -> str:
    line = line.replace("\\", "\\e").replace("-", "\\-")
    # A line that begins with one of these would be a request.
    return f"\\&{line}" if line[:1] in (".", "'") else line


if __name__ == "__main__":
    main(Path(sys.argv[1]))
