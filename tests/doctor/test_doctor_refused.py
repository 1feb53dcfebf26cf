"""Doctor among programs that are hostile, and where it may see little."""

import errno
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import MUSL
from support.calls import eventually
from support.doctoring import doctor, run_doctor
from support.linux import ip
from support.namespaces import (
    clean_environment,
    is_initial_user_namespace,
)

from rawmmsg import RawSocket, bpf
from rawmmsg.doctor.finding import CHECKS, CHECKS_OF_INTERFACE
from rawmmsg.testing import Veth

NOTHING = bpf.Program.from_instructions([(0x06, 0, 0, 0)])  # ret #0


def long_filter(length: int) -> bpf.Program:
    """Accepts everything, at its end."""
    load = (0x00, 0, 0, 0)  # ld #0
    return bpf.Program.from_instructions(
        [load] * (length - 1) + [(0x06, 0, 0, 0xFFFF)]
    )


# Filters that are too large for a message of the kernel


def test_long_filter_hides_no_other_filter(veth: Veth) -> None:
    with (
        RawSocket(veth.a, filter=long_filter(2000)),
        RawSocket(veth.a, filter=NOTHING),
    ):
        problem = doctor("filters", veth.a).problem()
        assert f"pid {os.getpid()}" in problem["message"]


def test_longest_filter_hides_no_socket_and_is_noted(veth: Veth) -> None:
    with (
        RawSocket(veth.a) as first,
        RawSocket(veth.a, filter=NOTHING) as second,
    ):
        try:
            first.attach_filter(long_filter(4096))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            pytest.skip("net.core.optmem_max is too small for such a filter")
        assert doctor("sockets", veth.a).only()["values"]["sockets"] == 2
        note = doctor("filters", veth.a).only()
        assert note["severity"] == "note"
        assert note["values"]["sockets"] == sorted(
            os.fstat(sock.fileno()).st_ino for sock in (first, second)
        )
        first.attach_filter("arp")
        assert doctor("filters", veth.a).problem()


# Names


@pytest.fixture
def hostile(veth: Veth) -> Iterator[str]:
    """`veth.a`, with a name that a shell and Python would act on."""
    name = '$(id);"\x1b[1m'
    ip("link", "set", veth.a, "down", "name", name)
    yield name
    ip("link", "set", name, "name", veth.a)


def test_remedies_can_be_copied_whatever_the_name(hostile: str) -> None:
    remedy = doctor("link", hostile).problem()["remedy"]
    assert shlex.split(remedy) == ["ip", "link", "set", hostile, "up"]
    remedy = doctor("offloads", hostile).only()["remedy"]
    name, _, _ = remedy.removeprefix("RawSocket(").partition(", vnet_hdr")
    assert eval(name) == hostile
    assert "\x1b" not in run_doctor(hostile).stdout


def test_name_that_the_terminal_has_no_letters_for_is_escaped() -> None:
    command = [sys.executable, "-m", "rawmmsg", "doctor", "caf\xe9"]
    done = subprocess.run(
        [*command, "--check", "interface"],
        env=clean_environment(PYTHONIOENCODING="ascii"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert "there is no interface caf\\xe9 in" in done.stdout


# What may not be seen

# Refuses sockets of one family, as a container's policy may.
REFUSE = """
import ctypes, os, struct, sys
from rawmmsg import bpf

call, family = map(int, sys.argv[1:3])
program = bpf.Program.from_instructions([
    (0x20, 0, 0, 0),  # the number of the system call
    (0x15, 0, 3, call),
    (0x20, 0, 0, 16 + 4 * (sys.byteorder == "big")),  # its first argument
    (0x15, 0, 1, family),
    (0x06, 0, 0, 0x00050001),  # SECCOMP_RET_ERRNO | EPERM
    (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
])
memory = ctypes.create_string_buffer(program, len(program))
filter = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, filter, 0, 0) == 0  # PR_SET_SECCOMP
os.execv(sys.argv[3], sys.argv[3:])
"""
SOCKET = {"x86_64": "41", "s390x": "359"}.get(platform.machine(), "198")


@pytest.mark.parametrize(
    ("family", "refused"),
    [
        ("2", {"privileges", "buffers", "stamping"}),  # AF_INET
        ("16", {"interface"}),  # AF_NETLINK
        ("17", {"privileges"}),  # AF_PACKET
    ],
)
def test_refused_system_call_ends_a_check_and_not_the_report(
    family: str, refused: set[str]
) -> None:
    prefix = [sys.executable, "-c", REFUSE, SOCKET, family]
    reasons = ["Operation not permitted", "refused"]
    if MUSL:  # if_nameindex(3) fails with ENOBUFS whatever the reason
        reasons.append(os.strerror(errno.ENOBUFS))
    for interface in ("lo", "nothere0"):
        done = run_doctor("--json", "--seconds", "0", interface, prefix=prefix)
        assert done.stderr == ""
        findings = json.loads(done.stdout)
        assert {one["check"] for one in findings} >= {*CHECKS[:5], "interface"}
        assert refused <= {
            one["check"]
            for one in findings
            if any(reason in one["message"] for reason in reasons)
        }
        if family == "16":
            assert not any(one["severity"] == "problem" for one in findings)


@pytest.mark.parametrize("interface", ["lo", "nothere0"])
def test_report_without_proc_is_complete(interface: str) -> None:
    script = 'mount -t tmpfs none /proc; exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-euc", script, "sh"]
    done = run_doctor("--json", "--seconds", "0", interface, prefix=prefix)
    # AddressSanitizer, which reads /proc too, prints a warning.
    assert not done.stderr or done.stderr.startswith("==")
    findings = json.loads(done.stdout)
    named = [one["check"] for one in findings]
    assert "interface" in named
    if interface == "lo":
        assert findings[-1]["remedy"] == "mount /proc"


# Arguments and signals


@pytest.mark.parametrize("check", CHECKS_OF_INTERFACE)
def test_check_of_an_interface_needs_one(check: str) -> None:
    """Or it would report that there is no problem."""
    done = run_doctor("--check", check)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"--check {check} needs IFACE" in done.stderr


def test_largest_buffer_is_the_one_that_the_kernel_can_grant() -> None:
    """It does so for root; a plain user gets less."""
    largest = (1 << 30) - 1
    values = doctor("buffers", "--rcvbuf", str(largest)).only()["values"]
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    is_root = is_initial_user_namespace()
    assert values["asked"] == largest
    assert values["granted"] == (largest if is_root else min(limit, largest))
    assert run_doctor("--rcvbuf", str(largest + 1)).returncode == 2


def test_ctrl_c_during_a_check_ends_without_a_traceback(
    tmp_path: Path,
) -> None:
    """While it waits for the child that makes a namespace. The terminal sends
    the signal to both."""
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    code = (
        f"import sys; sys.executable = {str(slow)!r}\n"
        "from rawmmsg.cli import main; sys.exit(main(['doctor', '--json']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        eventually(lambda: children.read_text() != "", "it starts no child")
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate()
    assert out == error == ""
    assert process.returncode == 128 + signal.SIGINT
