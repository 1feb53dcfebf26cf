"""REPORT.md: the targets and tables of a run."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..lab.result import Run
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
    yield "## The machine\n"
    yield _list(facts)
    yield f"\nPeers: {_list(run.peers)}"
    yield "\n## Targets\n"
    yield from _targets(run)
    for name, section in run.sections.items():
        yield f"\n## {name}\n"
        lines = [["", *tables.COLUMNS]]
        for table in section.tables:
            title = f"**{table.title}** `{table.key}`"
            unit, *notes = tables.footnotes(table)
            lines.append([title, unit, "", "", "", " ".join(notes)])
            lines += tables.cells(table)
        yield tables.markdown(lines)


def _list(facts: Mapping[str, object]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in facts.items())


def _targets(run: Run) -> Iterator[str]:
    judged = [
        (table, row)
        for table in run.tables()
        for row in table.rows
        if row.holds is not None
    ]
    missed = [(table, row) for table, row in judged if not row.holds]
    yield f"{len(judged) - len(missed)} of {len(judged)} are met."
    for table, row in missed:
        found = row.ratio if row.ratio is not None else row.figure
        to = f" of {row.baseline}" if row.baseline else ""
        yield (
            f"- missed: `{table.key}`, {row.name},"
            f" {tables.spread(found, 3)}{to}, target {row.target}"
        )
