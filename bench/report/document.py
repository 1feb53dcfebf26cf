"""REPORT.md: the tables of a run."""

from pathlib import Path

from ..lab.result import Run


def write(run: Run, folder: Path) -> None:
    """Writes REPORT.md and the plots."""
