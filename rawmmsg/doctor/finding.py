"""What a check has found."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = [
    "CHECKS",
    "CHECKS_OF_INTERFACE",
    "Finding",
    "Severity",
    "Value",
    "note",
    "ok",
    "problem",
]

# The names of the checks, in the order of the report.
CHECKS_OF_INTERFACE: Final = (
    *("interface", "link", "promiscuity", "offloads", "qdisc", "drops"),
)
CHECKS: Final = (
    *("privileges", "namespaces", "buffers", "kernel", "stamping"),
    *CHECKS_OF_INTERFACE,
    *("filters", "sockets", "softnet"),
)

Severity: TypeAlias = Literal["ok", "note", "problem"]
# What JSON has; bool is an int.
Value: TypeAlias = str | int | list["Value"] | None


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    `check` and the keys of `values` stay the same from release to release;
    the words of `message` and `remedy` may change.
    """

    check: str
    severity: Severity
    message: str
    remedy: str | None = None
    values: dict[str, Value] = field(default_factory=dict)


def ok(check: str, message: str, **values: Value) -> Finding:
    """What is as it should be."""
    return Finding(check, "ok", message, None, values)


def note(
    check: str, message: str, remedy: str | None = None, **values: Value
) -> Finding:
    """What matters to some programs only, or could not be looked at."""
    return Finding(check, "note", message, remedy, values)


def problem(
    check: str, message: str, remedy: str | None, **values: Value
) -> Finding:
    """What prevents sending or receiving, or loses packets."""
    return Finding(check, "problem", message, remedy, values)
