"""REPORT.md: the targets and tables of a run."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from ..lab.result import Row, Run, Table
from . import charts, tables


def write(run: Run, folder: Path) -> None:
    """Writes REPORT.md and the plots into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in charts.plots(run):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "REPORT.md").write_text(report(run), encoding="utf-8")


def report(run: Run) -> str:
    return "\n".join(_parts(run)).rstrip() + "\n"


def _parts(run: Run) -> Iterator[str]:
    facts = run.environment
    seconds = sum(section.seconds for section in run.sections.values())
    yield "# A run of `python -m bench`\n"
    yield (
        f"Measured on {facts.get('date')} at commit {facts.get('commit')}, in"
        f" {run.mode} mode, in {seconds / 60:.0f} minutes. Each figure is a"
        " median with its quartiles in brackets; [README.md](../README.md)"
        " explains how to read it.\n"
    )
    if run.mode != "full":
        yield (
            f"**This is a {run.mode} run: few rounds of short slices, whose"
            " figures scatter more than those of a full run.**\n"
        )
    for name, section in run.sections.items():
        if section.error:
            yield f"**The measurement {name} is void: {section.error}**\n"
        for missing in section.missing:
            yield f"The measurement {name} did not run, {missing}.\n"
    yield f"The machine: {_list(facts)}. Peers: {_list(run.peers)}."
    yield "\n## Targets\n"
    yield from _targets(run)
    for name, section in run.sections.items():
        yield f"\n## {name}\n\n{_joined(section.tables)}"


def _joined(found: Sequence[Table]) -> str:
    """Tables of the same contenders, or of some of these, are columns side by
    side. A cell has the median, the ratio, the target and more."""
    groups: list[list[Table]] = []
    for table in found:
        for group in groups:
            if _fit(group[-1], table):
                group.append(table)
                break
        else:
            groups.append([table])
    width = max(map(len, groups), default=0)
    lines = []
    for group in groups:
        heading = ["contender"]
        rows: dict[str, list[str]] = {}
        for at, table in enumerate(group):
            notes = " ".join(tables.footnotes(table))
            heading.append(f"**{table.title}**<br>`{table.key}`<br>{notes}")
            for name, figure, ratio, to, *more in tables.cells(table):
                row = rows.setdefault(name, [""] * width)
                # A comparison has the name and the figure of its contender.
                parts = [row[at] or figure, ratio and f"{ratio} of {to}"]
                row[at] = "<br>".join(filter(None, [*parts, *more]))
        heading += [""] * (width + 1 - len(heading))
        lines += [heading, *([name, *row] for name, row in rows.items())]
    return tables.markdown(lines) if lines else ""


def _fit(*pair: Table) -> bool:
    a, b = ({row.name for row in table.rows} for table in pair)
    return a <= b or b <= a


def _list(facts: Mapping[str, object]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in facts.items())


def _targets(run: Run) -> Iterator[str]:
    judged = [
        (table, row)
        for table in run.tables()
        for row in table.rows
        if row.holds is not None
    ]
    missed = [(table.key, row) for table, row in judged if not row.holds]
    more = " Missed:" if missed else ""
    yield f"{len(judged) - len(missed)} of {len(judged)} are met.{more}"
    for key, rows in groupby(missed, lambda one: one[0]):
        yield f"- `{key}`: " + "; ".join(_miss(row) for _, row in rows)


def _miss(row: Row) -> str:
    found = tables.spread(row.ratio or row.figure, 3)
    to = f" of {row.baseline}" if row.baseline else ""
    return f"{row.name}: {found}{to}, target {row.target}"
