"""Measures packet I/O on this machine, in a network namespace of its own.

The tables go to standard output. Use --json to save the figures, and --report
to write REPORT.md and two plots.
"""

import argparse
import importlib
import inspect
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rawmmsg.testing import enter_namespace, in_namespace

from .lab import environment, peers
from .lab.contender import GroundTruthError, UnavailableError
from .lab.result import Run, Section
from .lab.runner import Lab, Measurement, Mode
from .report import document, tables

FAILED: Final = 1
INTERRUPTED: Final = 130  # as shells return after SIGINT

# The folders that measure, in the order in which they run.
NAMES: Final = (
    "loop",
    "send",
    "capture",
    "recording",
    "replay",
    "forward",
    "superframes",
    "merging",
    "checksums",
    "scapy",
    "latency",
    "vhost",
    "guests",
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(mode=Mode.FULL)
    add, modes = parser.add_argument, parser.add_mutually_exclusive_group()
    words = f"measurements to run (default: all): {', '.join(NAMES)}"
    add("names", nargs="*", metavar="NAME", help=words)
    for mode, words in (
        (Mode.QUICK, "run everything in about 4 minutes instead of 30"),
        (Mode.BRIEF, "only test that it works; the figures mean nothing"),
    ):
        store: Any = {"action": "store_const", "const": mode}
        modes.add_argument(f"--{mode.value}", dest="mode", help=words, **store)
    words = "where several sizes are measured, only this one (64 or 1500)"
    add("--size", type=int, action="append", choices=(64, 1500), help=words)
    add("--list", action="store_true", help="describe the measurements")
    add("--json", type=Path, metavar="FILE", help="save the figures")
    words = "write REPORT.md and plots to this directory"
    add("--report", type=Path, metavar="DIR", help=words)
    words = "read saved figures instead of measuring"
    add("--from", dest="source", type=Path, metavar="FILE", help=words)
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in NAMES:
            parser.error(f"no measurement is called {name!r}; see --list")
    return options


def load(name: str) -> Measurement:
    """The module of a measurement. It is imported only when it runs, because
    some of its imports start threads, and a process with threads cannot move
    to a namespace."""
    module: Measurement = importlib.import_module(
        f"{__package__}.{name}.measure"
    )
    return module


def describe(name: str) -> tuple[str, str]:
    """The title of a measurement, and how it measures."""
    text = inspect.getdoc(load(name)) or ""
    title, _, details = text.partition("\n\n")
    return " ".join(title.split()).removesuffix("."), details.strip()


def measure(name: str, lab: Lab) -> Section:
    """Runs a measurement and prints each of its tables.

    If a frame is lost or changed, or the system refuses something, the rest of
    this measurement is void and `error` says why. Other measurements go on.
    """
    section = Section()
    begin = time.monotonic()
    try:
        for table in load(name).measure(lab):
            section.tables.append(table)
            print(f"\n{tables.text(table)}", flush=True)
    except UnavailableError as error:
        section.missing.append(error.missing)
        print(f"\n{name}: not measured, {error}", flush=True)
    except (GroundTruthError, OSError, subprocess.SubprocessError) as error:
        section.error = f"{type(error).__name__}: {error}"
        print(f"\n{name}: VOID: {section.error}", flush=True)
    section.seconds = time.monotonic() - begin
    return section


def measure_all(options: argparse.Namespace) -> Run:
    """Runs the measurements; saves the figures after each of them."""
    run = Run(options.mode.value, environment.collect(), peers.found())
    print(tables.facts(run.environment))
    print(f"\n{tables.facts(run.peers)}")
    lab = Lab(options.mode, options.size or ())
    for name in options.names or NAMES:
        run.sections[name] = measure(name, lab)
        if options.json is not None:
            options.json.write_text(run.to_json(), "utf-8")
    # Reported with the digits that are saved.
    return Run.from_json(run.to_json())


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.source is not None:
        run = Run.from_json(options.source.read_text("utf-8"))
    else:
        try:
            if not in_namespace():
                enter_namespace()
        except OSError as error:
            sys.exit(error.strerror)
        if options.list:
            for name in NAMES:
                title, text = describe(name)
                print(f"{name}: {title}\n\n{textwrap.indent(text, '    ')}\n")
            return 0
        run = measure_all(options)
    if options.report is not None:
        document.write(run, options.report)
    void = any(section.error for section in run.sections.values())
    return FAILED if void else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
