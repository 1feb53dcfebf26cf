"""Doctor's findings about the machine, with the fault and without it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.calls import eventually
from support.child import WITHOUT_CAPABILITIES
from support.doctoring import doctor
from support.linux import (
    SO_TIMESTAMPING,
    SO_TIMESTAMPNS,
    SOF_TIMESTAMPING_RX_SOFTWARE,
    SOF_TIMESTAMPING_SOFTWARE,
)
from support.namespaces import EXHAUSTED, clean_environment

from rawmmsg import RawSocket
from rawmmsg.doctor.checks import namespaces

LARGEST = (1 << 30) - 1  # that doctor takes, and the kernel grants


# Privileges


def test_no_privilege_is_a_problem_with_its_remedy() -> None:
    report = doctor("privileges", prefix=WITHOUT_CAPABILITIES)
    problem = report.problem()
    assert "CAP_NET_RAW is missing" in problem["message"]
    assert "setcap cap_net_raw+ep VENV/bin/python3" in problem["remedy"]
    assert os.path.realpath(sys.executable) not in problem["remedy"], (
        "this would give everybody the capability"
    )
    assert problem["values"]["cap_net_raw"] is False
    (note,) = report.of("note")
    assert "CAP_NET_ADMIN is missing" in note["message"]


def test_remedy_names_a_copy_of_the_interpreter(tmp_path: Path) -> None:
    """Such a copy may get the capability, as the documentation shows."""
    venv = [sys.executable, "-m", "venv", "--copies", "--without-pip"]
    subprocess.run([*venv, tmp_path], check=True)
    interpreter = tmp_path / "bin" / "python3"
    show = (
        "from rawmmsg.doctor.checks import privileges as p; print(p._setcap())"
    )
    done = subprocess.run(
        [interpreter, "-c", show],
        env=clean_environment(PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"setcap cap_net_raw+ep {interpreter}\n"


def test_privilege_over_another_network_is_a_problem() -> None:
    """With every capability, but only over a network that does not exist."""
    problem = doctor(
        "privileges", prefix=["unshare", "--user", "--map-root-user"]
    ).problem()
    assert "although this process has CAP_NET_RAW" in problem["message"]
    assert problem["remedy"].endswith("unshare --user --map-root-user --net")
    doctor(
        "privileges", prefix=["unshare", "--user", "--map-root-user", "--net"]
    ).assert_ok()


def test_privilege_is_no_problem() -> None:
    doctor("privileges").assert_ok()


def test_no_right_to_make_namespaces_is_noted_with_the_setting() -> None:
    note = doctor("namespaces", prefix=EXHAUSTED).only()
    assert note["severity"] == "note"
    assert "no private network namespace" in note["message"]
    assert "sysctl -w user.max_net_namespaces=" in note["remedy"]


def test_interpreter_out_of_reach_is_not_blamed_on_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / "python3"
    interpreter.touch(0o600)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    (note,) = namespaces.check()
    assert note.severity == "note"
    assert f"{interpreter} cannot be executed" in note.message
    assert note.remedy == "use an interpreter that this user can reach"


def test_right_to_make_namespaces_is_no_problem() -> None:
    doctor("namespaces").assert_ok()


# Buffers


def test_small_rmem_max_is_a_problem_with_its_remedy() -> None:
    problem = doctor(
        *("buffers", "--rcvbuf", str(LARGEST)), prefix=WITHOUT_CAPABILITIES
    ).problem()
    command = f"sysctl -w net.core.rmem_max={LARGEST}"
    assert problem["remedy"] == f"{command} (outside of this private network)"
    assert problem["values"]["granted"] < LARGEST
    assert f"{problem['values']['granted']:,} bytes" in problem["message"]


def test_small_wmem_max_is_a_problem_with_its_remedy() -> None:
    problem = doctor(
        *("buffers", "--sndbuf", str(LARGEST), "--rcvbuf", "4096"),
        prefix=WITHOUT_CAPABILITIES,
    ).problem()
    assert problem["remedy"].startswith(
        f"sysctl -w net.core.wmem_max={LARGEST}"
    )


def test_less_than_the_default_is_a_note() -> None:
    """Where the limit is that of the kernel, or another below 8 MiB."""
    finding = doctor("buffers", prefix=WITHOUT_CAPABILITIES).only()
    values = finding["values"]
    less = values["granted"] < values["asked"]
    assert finding["severity"] == ("note" if less else "ok")


def test_buffers_within_the_limits_are_no_problem() -> None:
    doctor(
        *("buffers", "--rcvbuf", "4096", "--sndbuf", "8192"),
        prefix=WITHOUT_CAPABILITIES,
    ).assert_ok()


def test_doctor_asks_for_what_a_default_socket_asks_for() -> None:
    """And gets as much."""
    with RawSocket("lo") as sock:
        size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    values = doctor("buffers").only()["values"]
    assert values["granted"] == size
    assert values["asked"] >= size


# The kernel


def test_kernel_has_what_the_package_needs() -> None:
    """These tests run on kernels that it supports."""
    for prefix in ((), WITHOUT_CAPABILITIES):
        findings = doctor("kernel", prefix=prefix).findings
        assert findings
        for finding in findings:
            assert finding["severity"] != "problem"
            assert finding["values"]["release"] == os.uname().release


# Time stamping

STAMP = """
import socket, sys
family, option, value = map(int, sys.argv[1:])
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, option, value)
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process_stamps(
    option: int, value: int, family: int = socket.AF_INET
) -> Iterator[int]:
    """Starts a process with a socket that has this option; returns its
    pid."""
    with subprocess.Popen(
        [sys.executable, "-c", STAMP, *map(str, (family, option, value))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.stdin.close()


def packets_are_stamped() -> bool:
    """The kernel turns stamping on a little later than the option is set
    (net/core/dev.c:net_enable_timestamp())."""
    return doctor("stamping").only()["values"]["stamping"] is True


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (SO_TIMESTAMPNS, 1),
        (
            SO_TIMESTAMPING,
            SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE,
        ),
    ],
    ids=["SO_TIMESTAMPNS", "SO_TIMESTAMPING"],
)
def test_stamping_by_another_process_is_noted(option: int, value: int) -> None:
    """Another process of this machine may do so as well, so only ours is
    looked for."""
    with another_process_stamps(option, value) as pid:
        eventually(packets_are_stamped, "no packet gets a time stamp")
        note = doctor("stamping").only()
        assert note["severity"] == "note"
        assert note["values"]["stamping"] is True
        assert pid in note["values"]["pids"]
        assert f"pid {pid}" in note["message"]
        assert f"pid {pid}" in note["remedy"]
        assert "kill" not in note["remedy"], "it may be somebody else's"
        named = dict(
            zip(
                note["values"]["pids"],
                note["values"]["processes"],
                strict=True,
            )
        )
        assert named[pid].startswith("python")
    after = doctor("stamping").only()
    assert pid not in after["values"].get("pids", [])


@pytest.mark.parametrize(
    ("option", "value", "family"),
    [
        # doctor's own socket has it: it reads time stamps of others.
        (SO_TIMESTAMPING, SOF_TIMESTAMPING_SOFTWARE, socket.AF_INET),
        # A system log has it (net/core/sock.c:sock_needs_netstamp()).
        (SO_TIMESTAMPNS, 1, socket.AF_UNIX),
    ],
    ids=["reads", "local"],
)
def test_socket_that_turns_nothing_on_is_not_named(
    option: int, value: int, family: int
) -> None:
    # So that doctor looks for processes:
    stamping = another_process_stamps(SO_TIMESTAMPNS, 1)
    with another_process_stamps(option, value, family) as pid, stamping:
        eventually(packets_are_stamped, "no packet gets a time stamp")
        found = doctor("stamping").only()
    assert found["values"]["pids"]
    assert pid not in found["values"]["pids"]


def test_stamping_without_loopback_is_not_looked_at() -> None:
    note = doctor("stamping", prefix=["unshare", "--net"]).only()
    assert note["severity"] == "note"
    assert "not looked at" in note["message"]
    assert note["remedy"] == "ip link set lo up"
