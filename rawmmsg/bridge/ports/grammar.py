"""The grammar of ports with options: KIND:FIELD[,FIELD][,OPTION]..., or the
name of an interface.

The kind fixes the number of fields. Every further part is an option, WORD or
WORD=VALUE. In a field or a value, a comma is written twice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .port import PortError

__all__ = ["Kind", "Spec", "parse_spec"]


@dataclass(frozen=True)
class Kind:
    """A kind of port. `fields`: their names, for messages. `options`: a
    placeholder for the value, such as NAME, or "" for an option without."""

    fields: tuple[str, ...]
    options: Mapping[str, str]


@dataclass(frozen=True)
class Spec:
    """The parts of the description of a port. An option without a value has
    the value ""."""

    text: str
    kind: str
    fields: tuple[str, ...]
    options: Mapping[str, str]


def parse_spec(text: str, kinds: Mapping[str, Kind]) -> Spec:
    """Returns the parts of the description. Raises PortError if it has a wrong
    form."""
    name, colon, rest = text.partition(":")
    if not text:
        raise PortError("the name of a port must not be empty")
    if not colon:
        if "," in text:
            raise PortError(
                f"{text!r}: an interface with options is written"
                f" interface:{text}"
            )
        return Spec(text, "interface", (text,), {})
    kind = kinds.get(name)
    if kind is None:
        known = ", ".join(sorted(kinds))
        raise PortError(
            f"{text!r}: unknown kind of port {name!r}; the kinds are {known}"
        )
    parts = list(_split(rest))
    count = len(kind.fields)
    fields = tuple(parts[:count])
    if len(fields) < count or not all(fields):
        form = f"{name}:{','.join(kind.fields)}"
        raise PortError(f"{text!r}: not of the form {form}[,OPTION]...")
    return Spec(text, name, fields, _options(text, name, kind, parts[count:]))


def _split(text: str) -> Iterator[str]:
    """Splits at single commas, from left to right."""
    part = ""
    at = 0
    while at < len(text):
        if text[at] != ",":
            part += text[at]
        elif text[at + 1 : at + 2] == ",":
            part += ","
            at += 1
        else:
            yield part
            part = ""
        at += 1
    yield part


def _options(
    text: str, name: str, kind: Kind, parts: list[str]
) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in parts:
        word, equals, value = part.partition("=")
        placeholder = kind.options.get(word)
        if placeholder is None:
            raise PortError(
                f"{text!r}: unknown option {word!r}; the options of"
                f" {name}: ports are {_list(kind)}"
            )
        if word in options:
            raise PortError(f"{text!r}: the option {word} is given twice")
        if placeholder and not value:
            raise PortError(
                f"{text!r}: the option {word} needs a value:"
                f" {word}={placeholder}"
            )
        if equals and not placeholder:
            raise PortError(f"{text!r}: the option {word} takes no value")
        options[word] = value
    return options


def _list(kind: Kind) -> str:
    """Lists the options of a kind, as they are written."""
    return ", ".join(
        f"{word}={placeholder}" if placeholder else word
        for word, placeholder in sorted(kind.options.items())
    )
