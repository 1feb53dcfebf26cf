"""The measurements, in the order in which they run."""

import importlib
import inspect
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Final

from .framework import Context, GroundTruthError, Measurement, Unavailable
from .results import Result, Section

NAMES: Final = (
    "loop",
    "stride",
    "send",
    "capture",
    "forwarding",
    "forwarding_small",
    "superframes",
    "scapy_sniff",
    "scapy_send",
    "scapy_pace",
    "latency",
    "python_cost",
)


def load(name: str) -> Measurement:
    """The module of a measurement, imported when it is asked for: what it
    imports in its turn may start threads, and none may run before the process
    moves to its namespace."""
    module: Measurement = importlib.import_module(
        f"{__package__}.measurements.{name}"
    )
    return module


def describe(name: str) -> tuple[str, str]:
    """A measurement's title, which is a sentence, and the text below it."""
    documentation = inspect.getdoc(load(name)) or ""
    title, _, rest = documentation.partition("\n\n")
    return " ".join(title.split()).removesuffix("."), rest.strip()


def measure(
    name: str, context: Context, show: Callable[[Result], None]
) -> Section:
    """Runs a measurement, and shows each table when it is there.

    A measurement that lost or changed a frame, or to which the system denied
    something, is void from there on: the section says so in `error`, and the
    others are not concerned.
    """
    title, text = describe(name)
    section = Section(title, text)
    begin = time.monotonic()
    try:
        for result in _results(name, context):
            section.results.append(result)
            show(result)
    except Unavailable as error:
        section.missing.append(error.missing)
    except (GroundTruthError, OSError, subprocess.SubprocessError) as error:
        section.error = f"{type(error).__name__}: {error}"
    section.seconds = time.monotonic() - begin
    return section


def _results(name: str, context: Context) -> Iterator[Result]:
    for table in load(name).measure(context):
        yield Result.of(table)
