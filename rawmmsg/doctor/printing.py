"""Prints findings, for people and for programs."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Final

from .finding import Finding

__all__ = ["as_json", "as_text", "summary"]

_WIDTH: Final = 79
_INDENT: Final = " " * 9


def as_text(finding: Finding) -> str:
    """Returns the lines about one finding."""
    message = _plain(f"{finding.check}: {finding.message}")
    lines = textwrap.wrap(
        message,
        _WIDTH,
        initial_indent=f"{finding.severity:<9}",
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if finding.remedy is not None:
        # On one line, so that a command can be copied.
        lines.append(f"{_INDENT}> {_plain(finding.remedy)}")
    return "\n".join(lines)


def summary(findings: Sequence[Finding]) -> str:
    """Returns the last line: how many problems and notes there are, and which
    checks have found the problems."""
    problems = [one for one in findings if one.severity == "problem"]
    notes = [one for one in findings if one.severity == "note"]
    names = ", ".join(dict.fromkeys(one.check for one in problems))
    return (
        _count(problems, "problem")
        + (f" ({names})" if names else "")
        + f", {_count(notes, 'note')}"
    )


def as_json(findings: Iterable[Finding]) -> str:
    """Returns an array with one object for each finding."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)


def _plain(text: str) -> str:
    """Escapes what a terminal would act on: names of processes and of
    interfaces may contain anything."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in text
    )


def _count(findings: Sequence[Finding], severity: str) -> str:
    plural = "" if len(findings) == 1 else "s"
    return f"{len(findings) or 'no'} {severity}{plural}"
