"""The report of doctor: text, JSON, exit codes; and that it changes
nothing."""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.calls import eventually
from support.child import WITHOUT_CAPABILITIES
from support.doctoring import run_doctor
from support.linux import ip
from support.namespaces import EXHAUSTED, clean_environment

from rawmmsg.doctor.finding import CHECKS, Finding, ok
from rawmmsg.doctor.printing import as_text
from rawmmsg.testing import Veth

# <asm/unistd.h>: x86-64 has numbers of its own, the others share one table.
CLOCK_NANOSLEEP = "230" if platform.machine() == "x86_64" else "115"


def test_report_names_every_check_in_order(veth: Veth) -> None:
    """Those that --check accepts."""
    done = run_doctor("--json", "--seconds", "0", veth.a)
    findings = json.loads(done.stdout)
    assert done.stderr == ""
    named = dict.fromkeys(finding["check"] for finding in findings)
    assert tuple(named) == CHECKS
    for finding in findings:
        assert set(finding) == {
            *("check", "severity", "message", "remedy", "values")
        }
        assert finding["severity"] in ("ok", "note", "problem")
        if finding["severity"] == "ok":
            assert finding["remedy"] is None


@pytest.mark.parametrize(
    "prefix", [WITHOUT_CAPABILITIES, EXHAUSTED], ids=["plain", "exhausted"]
)
def test_report_without_privilege_has_no_traceback(
    veth: Veth, prefix: tuple[str, ...]
) -> None:
    for arguments in ((), (veth.a,), ("nothere0",)):
        done = run_doctor("--seconds", "0", *arguments, prefix=prefix)
        assert done.stderr == ""
        assert done.returncode == 1, "packet sockets are refused"
        assert done.stdout.splitlines()[-1].endswith(("note", "notes"))


def test_text_has_the_remedy_in_a_line_of_its_own(veth: Veth) -> None:
    veth.down("a")
    done = run_doctor("--check", "link", veth.a)
    assert done.returncode == 1
    first, *_, remedy, last = done.stdout.splitlines()
    assert first.startswith(f"problem  link: {veth.a} is down")
    assert remedy == f"         > ip link set {veth.a} up"
    assert last == "1 problem (link), no notes"
    assert all(len(line) <= 79 for line in done.stdout.splitlines())


def test_exit_code_without_a_problem_is_zero() -> None:
    done = run_doctor("--check", "link", "lo")
    assert done.returncode == 0
    assert done.stdout.endswith("\nno problems, no notes\n")


def test_ctrl_c_ends_the_wait_and_prints_the_report(veth: Veth) -> None:
    command = (sys.executable, "-m", "rawmmsg", "doctor", "--seconds", "3600")
    checks = ("--check", "link", "--check", "sockets")
    with subprocess.Popen(
        [*command, *checks, veth.a],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ok       link")
        waits = Path(f"/proc/{process.pid}/syscall")
        eventually(
            lambda: waits.read_text().split()[0] == CLOCK_NANOSLEEP,
            "it does not wait",
        )
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert rest.startswith("ok       sockets")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--check", "nonsense"),
        ("--seconds", "-1"),
        ("--seconds", "nan"),
        ("--rcvbuf", "0"),
        ("--rcvbuf", "many"),
        ("eth0", "eth1"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    done = run_doctor(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""


def test_doctor_changes_nothing(veth: Veth) -> None:
    """What other programs can see of the interfaces stays the same."""

    def state() -> list[str]:
        return [
            ip("-details", "link", "show"),
            ip("address", "show"),
            ip("netns", "list-id"),
            *(
                path.read_text()
                for path in sorted(Path("/proc/sys/net/core").iterdir())
                if os.access(path, os.R_OK)
            ),
        ]

    before = state()
    run_doctor("--seconds", "0", veth.a)
    run_doctor("--seconds", "0", "nothere0")
    assert state() == before


@pytest.mark.no_network
def test_names_cannot_control_the_terminal() -> None:
    finding = Finding("x", "note", "by a\x1b[2J\nb, pid 1", "kill \udcff", {})
    assert as_text(finding) == (
        "note     x: by a\\x1b[2J\\nb, pid 1\n         > kill \\udcff"
    )


@pytest.mark.no_network
def test_long_message_is_wrapped() -> None:
    lines = as_text(ok("x", "word " * 30)).splitlines()
    assert len(lines) > 1
    assert all(line.startswith(" " * 9 + "word") for line in lines[1:])
