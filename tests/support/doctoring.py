"""`rawmmsg doctor`, run as by a user."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from support import WAIT
from support.namespaces import clean_environment


@dataclass(frozen=True)
class Report:
    """What doctor said."""

    findings: list[dict[str, Any]]

    def of(self, severity: str) -> list[dict[str, Any]]:
        return [one for one in self.findings if one["severity"] == severity]

    def only(self) -> dict[str, Any]:
        """The one finding that there is."""
        (finding,) = self.findings
        return finding

    def problem(self) -> dict[str, Any]:
        """The one problem that there is."""
        (finding,) = self.of("problem")
        return finding

    def assert_ok(self) -> None:
        """Asserts that nothing was found."""
        assert self.findings, "the check says nothing"
        assert self.of("ok") == self.findings


def run_doctor(
    *arguments: str, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs doctor, started by the command `prefix` if there is one."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "rawmmsg", "doctor", *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def doctor(check: str, *arguments: str, prefix: Sequence[str] = ()) -> Report:
    """Runs one check. The exit code must tell whether it found a problem."""
    options = ("--json", "--seconds", "0.1", "--check", check)
    done = run_doctor(*options, *arguments, prefix=prefix)
    assert done.stderr == ""
    report = Report(json.loads(done.stdout))
    assert done.returncode == bool(report.of("problem")), done.stdout
    return report


def problem_now(check: str, interface: str) -> dict[str, Any]:
    """Waits for a problem that doctor sees only while packets are lost: the
    thread that sends them may have to wait for a CPU."""
    deadline = time.monotonic() + WAIT
    report = doctor(check, "--seconds", "1", interface)
    while not report.of("problem"):
        assert time.monotonic() < deadline, report
        report = doctor(check, "--seconds", "1", interface)
    return report.problem()
