"""`python -m bench`: measures, in a private network namespace.

With no NAME all measurements run. The tables go to standard output; --json
keeps the figures, and --report writes a page with plots from them.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rawmmsg.testing import enter_namespace, in_namespace

from . import registry
from .framework import Context, Mode, Unavailable
from .progress import Progress
from .report import document, tables
from .results import Result, Run
from .tools import environment, peers

FAILED: Final = 1
INTERRUPTED: Final = 130  # as shells have it for SIGINT


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="measurements to run (all): " + ", ".join(registry.NAMES),
    )
    modes = parser.add_mutually_exclusive_group()
    modes.set_defaults(mode=Mode.FULL)
    modes.add_argument(
        "--quick",
        dest="mode",
        action="store_const",
        const=Mode.QUICK,
        help="all in under 2 minutes, rather than 20",
    )
    modes.add_argument(
        "--brief",
        dest="mode",
        action="store_const",
        const=Mode.BRIEF,
        help="a moment each, to see that all work; the figures say nothing",
    )
    parser.add_argument(
        "--list", action="store_true", help="say what each measurement does"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="keep the figures"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write README.md and plots/ there (needs matplotlib)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="do not measure: report what --json kept",
    )
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in registry.NAMES:
            parser.error(f"no measurement {name!r}; --list shows them")
    return options


def show(result: Result) -> None:
    print(f"\n{tables.text(result)}", flush=True)


def show_list() -> None:
    for name in registry.NAMES:
        title, text = registry.describe(name)
        print(f"{name}: {title}\n")
        print(f"{textwrap.indent(text, '    ')}\n")


def measure_all(names: Sequence[str], options: argparse.Namespace) -> Run:
    """Runs the measurements; what is done so far is kept after each one."""
    progress = Progress()
    context = Context(options.mode, progress)
    run = Run(options.mode.value, environment.collect())
    for line in environment.lines(run.environment):
        print(": ".join(line))

    def show_between(result: Result) -> None:
        progress.clear()
        show(result)

    for number, name in enumerate(names, 1):
        progress.measurement(name, number, len(names))
        section = registry.measure(name, context, show_between)
        run.sections[name] = section
        progress.clear()
        if section.error:
            print(f"\n{name}: VOID: {section.error}", flush=True)
        if options.json is not None:
            run.save(options.json)
    for missing in run.missing():
        print(f"\n{missing}", end="")
    print()
    return run.kept()  # what is reported is what can be looked up


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if options.source is not None:
            run = Run.load(options.source)
        else:
            enter()
            if options.list:
                show_list()
                return 0
            if options.report is not None:
                peers.require("matplotlib")  # rather now than in 20 minutes
            run = measure_all(options.names or registry.NAMES, options)
        if options.report is not None:
            document.write(run, options.report)
    except Unavailable as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    void = any(section.error for section in run.sections.values())
    return FAILED if void else 0


def enter() -> None:
    """Moves to a namespace, before anything that starts threads is
    imported."""
    if in_namespace():
        return
    try:
        enter_namespace()
    except OSError as error:
        sys.exit(error.strerror)


if __name__ == "__main__":
    sys.exit(main())
