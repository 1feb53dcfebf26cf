"""The grammar of a port's name: KIND:FIELD[,FIELD][,OPTION]...

An option is WORD or WORD=VALUE. A comma inside a field or a value is written
twice, as in QEMU's options.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "Form",
    "PortError",
    "Written",
    "parse_address",
    "read_interface",
    "read_name",
]

# [HOST]:PORT. A HOST with colons must be in brackets.
_ADDRESS: Final = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*)):(\d{1,5})")


class PortError(ValueError):
    """The name is not that of a port, or the port cannot be used."""


@dataclass(frozen=True)
class Form:
    """How ports of one kind are written. `fields` is such as
    "LOCAL,REMOTE". `options` maps each word to what its value is called, or to
    "" for a word without a value."""

    kind: str
    fields: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}:{self.fields}"

    def explain_options(self) -> str:
        return ", ".join(
            f"{word}={value}" if value else word
            for word, value in sorted(self.options.items())
        )


@dataclass(frozen=True)
class Written:
    """A port as the user has written it. `options` maps each word to its
    value, or to "" if it has none."""

    kind: str
    text: str
    fields: Sequence[str]
    options: Mapping[str, str]


def read_name(text: str, form: Form) -> Written:
    """Splits a name that begins with the kind and a colon. Raises PortError if
    it does not have this form."""
    parts = _split(text.partition(":")[2])
    count = form.fields.count(",") + 1
    fields, rest = parts[:count], parts[count:]
    if len(fields) < count or not all(parts):
        raise PortError(f"{text!r}: not of the form {form}[,OPTION]...")
    options: dict[str, str] = {}
    for part in rest:
        word, value = _read_option(text, part, form)
        if word in options:
            raise PortError(f"{text!r}: the option {word} is given twice")
        options[word] = value
    return Written(form.kind, text, fields, options)


def read_interface(text: str) -> Written:
    """Reads the name of an interface, for commands that take no other kind of
    port. Its only option is netns. Raises PortError if the name has a wrong
    form."""
    form = Form("interface", "NAME", {"netns": "NETNS"})
    kind, colon, _ = text.partition(":")
    if not colon:
        return Written(form.kind, text, (text,), {})
    if kind != form.kind:
        raise PortError(f"{text!r}: not an interface or {form},netns=NETNS")
    return read_name(text, form)


def _split(text: str) -> list[str]:
    """Splits at single commas. A NUL cannot be part of an argument."""
    parts = text.replace(",,", "\0").split(",")
    return [part.replace("\0", ",") for part in parts]


def _read_option(text: str, part: str, form: Form) -> tuple[str, str]:
    word, equals, value = part.partition("=")
    if word not in form.options:
        raise PortError(
            f"{text!r}: {form} has no option {word!r}; its options are"
            f" {form.explain_options()}"
        )
    name = form.options[word]
    if name and not value:
        raise PortError(f"{text!r}: write {word}={name}")
    if equals and not name:
        raise PortError(f"{text!r}: the option {word} takes no value")
    return word, value


def parse_address(text: str) -> tuple[str, int] | None:
    """Returns the host and the number in HOST:PORT; None if it has another
    form."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[3]) <= 0xFFFF:
        return None
    return found[1] or found[2] or "", int(found[3])
