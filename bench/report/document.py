"""The page of a run: its claims, its targets, its tables and plots."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ..results import Result, Row, Run, Section
from ..tools import environment
from . import claims, no_help, plots, tables

PAGE: Final = "README.md"
PLOTS: Final = "plots"

_INTRODUCTION: Final = """\
# Packet I/O by batched system calls, measured

Does a raw socket with `recvmmsg(2)` and `sendmmsg(2)` beat libpcap and the
packet ring (`PACKET_RX_RING`) for programs that drive a network? A. Ivanov's
essay "Why not use libpcap or Linux packet ring" (2017) says so. This page
judges its claims, one by one, by figures of one run. Run it on your own
machine, in a network namespace of its own, without root where user namespaces
are allowed:

```sh
pip install '.[bench]'
python -m bench --quick          # under 2 minutes; without --quick under 20
python -m bench loop             # one measurement; --list shows them all
python -m bench --json results.json --report out/
```

The C sides are compiled when they run (gcc; libpcap-dev for libpcap's), and
other people's programs take part where they are installed. This page is
generated: `python -m bench --from bench/results.json --report bench`.

How it is measured: sides that live in one process take turns of some 10 ms in
a random order, those that do not, rounds of a part of a second. A ratio is
taken turn by turn, so that a machine that gets slower meanwhile does not
change it, and its median and quartiles are shown; a control, the same program
once more, shows what a difference means. Every frame is numbered and counted,
and those that are looked at are compared to the byte: a side that loses or
changes one voids the measurement. Absolute figures are those of this machine.
"""


def write(run: Run, folder: Path) -> None:
    """Writes README.md and plots/ into the folder. Raises Unavailable without
    matplotlib."""
    plots.draw(run, folder / PLOTS)
    (folder / PAGE).write_text(page(run), encoding="utf-8")


def page(run: Run) -> str:
    """README.md."""
    return "\n".join(_parts(run)).rstrip() + "\n"


def _parts(run: Run) -> Iterator[str]:
    drawn = plots.titles(run)
    yield _INTRODUCTION
    yield "## The claims\n"
    yield from _claims(run)
    yield "\n## Where rawmmsg does not help\n"
    for words in no_help.no_help(run):
        yield f"- {words}"
    for words in _KNOWN_LIMITS:
        yield f"- {words}"
    yield "\n## What was promised\n"
    yield from _targets(run)
    yield "\n## The machine\n"
    yield _environment(run)
    yield "\n## The measurements\n"
    for name, section in run.sections.items():
        yield from _section(name, section, drawn)


# What no measurement here can show.
_KNOWN_LIMITS: Final = (
    "Capture to disk, which wants a stamp on every packet and a large ring:"
    " tcpdump, dumpcap.",
    "Rates beyond what the network stack can do: AF_XDP with a driver that"
    " supports it, or DPDK. On the veth pairs used here AF_XDP runs in copy"
    " mode, which is not what it is made for.",
)


def _claims(run: Run) -> Iterator[str]:
    for claim in claims.CLAIMS:
        found = claim.verdict(run)
        figures = found.figures[0].upper() + found.figures[1:]
        yield f"- **{claim.text}: {found.verdict}.** {figures}."
        yield f"  *Holds for {claim.threshold}.*"


def _targets(run: Run) -> Iterator[str]:
    """Every figure that has a target, and whether it is met."""
    promised = [
        (name, result, row)
        for name, section in run.sections.items()
        for result in section.results
        for row in result.rows
        if row.holds is not None
    ]
    met = sum(row.holds is True for *_, row in promised)
    yield f"{met} of {len(promised)} targets are met.\n"
    heading = ["", "table", "side", "median (quartiles)", "to", "target", ""]
    yield tables.markdown([heading, *(_target(*one) for one in promised)])


def _target(name: str, result: Result, row: Row) -> list[str]:
    judged = (
        tables.spread(row.ratio, 3)
        if row.ratio is not None
        else f"{tables.spread(row.figure)} {result.unit}"
    )
    verdict = "holds" if row.holds else "**does not hold**"
    limit = row.limit or ""
    return [name, result.title, row.name, judged, limit, row.target, verdict]


def _environment(run: Run) -> str:
    lines = [["", ""]]
    lines += [
        [name, value] for name, value in environment.lines(run.environment)
    ]
    seconds = sum(section.seconds for section in run.sections.values())
    lines.append(["run", f"{run.mode}, {seconds / 60:.1f} minutes"])
    return tables.markdown(lines)


def _section(
    name: str, section: Section, drawn: dict[str, str]
) -> Iterator[str]:
    yield f"### {section.title}\n"
    yield f"`python -m bench {name}`\n"
    yield f"{section.text}\n"
    if section.error:
        yield f"**Void**: {section.error}\n"
    for missing in section.missing:
        yield f"Not measured: {missing}\n"
    for plot in plots.of(name):
        if plot in drawn:
            yield f"![{drawn[plot]}]({PLOTS}/{plot}.svg)\n"
    for result in section.results:
        yield from _result(result)


def _result(result: Result) -> Iterator[str]:
    yield f"<details><summary>{result.title}</summary>\n"
    cells: Sequence[Sequence[str]] = tables.cells(result)
    if cells:
        yield f"{tables.markdown(cells)}\n"
    for note in tables.footnotes(result):
        yield f"{note}\n"
    yield "</details>\n"
