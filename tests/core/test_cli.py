"""The command line, run as by a user."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.child import WITHOUT_CAPABILITIES, tool
from support.frames import batch_of, numbered_frames

import rawmmsg
from rawmmsg import bpf
from rawmmsg.cli import build_parser
from rawmmsg.pcap import Writer
from rawmmsg.testing import Veth


def run(
    *arguments: str, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "rawmmsg", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def examples_of_help() -> Iterator[str]:
    """The commands of `--help`, indented by four spaces, without the one that
    another test runs."""
    parsers = [build_parser()]
    for action in parsers[0]._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += action.choices.values()
    for parser in parsers:
        for line in re.findall(
            r"^ {4}rawmmsg (.*)$", parser.epilog or "", re.MULTILINE
        ):
            if line != "demo":
                yield line


EXAMPLES_OF_HELP = sorted(set(examples_of_help()))


@pytest.mark.parametrize("line", EXAMPLES_OF_HELP)
def test_examples_of_help_run(
    line: str, veth_factory: Callable[..., Veth], tmp_path: Path
) -> None:
    tool("ip")
    veth_factory("eth0", "peer0")
    veth_factory("eth1", "peer1")
    # So that it ends soon.
    if line.startswith(("bridge ", "switch ")):
        line += " --duration 0.1"
    elif line.startswith("record "):
        line = line.replace("record", "record --duration 0.1", 1)
        line = line.replace("| tshark -r -", "> trace.pcapng")
    elif line.startswith("replay "):
        with Writer(tmp_path / "trace.pcapng") as writer:
            writer.write(batch_of(numbered_frames(3)), times=0)
        line += " --duration 0.1"
    elif line.startswith("doctor "):
        line += " --seconds 0.1"
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m rawmmsg {line}', sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # The doctor may find a problem of the machine.
    codes = (0, 1) if line.startswith("doctor") else (0,)
    assert done.returncode in codes, done.stderr
    assert done.stdout + done.stderr


def test_demo_checks_every_frame() -> None:
    tool("ip")
    done = run("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        label.strip(): values.split()
        for label, values in re.findall(
            r"^(\S.{33})(.*)$", done.stdout, re.MULTILINE
        )
    }
    assert rows["received"] == rows["accepted by the filter"]
    assert rows["lost"] == rows["wrong"] == ["0", "0"]
    assert all(int(n.replace(",", "")) > 0 for n in rows["received"])
    assert float(rows["system calls per frame sent"][1]) >= 1.5
    assert float(rows["system calls per frame sent"][0]) < 1
    assert done.stdout.endswith("Every frame was checked.\n")


def test_demo_without_privilege_says_what_to_do() -> None:
    """Uid 0 without capabilities may not make a namespace."""
    done = run("demo", prefix=WITHOUT_CAPABILITIES)
    assert done.returncode == 1
    assert "no private network namespace" in done.stderr
    assert "run as root" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "form"),
    [("", "d"), ("-d", "d"), ("-dd", "dd"), ("-ddd", "ddd")],
)
def test_filter_prints_the_program(option: str, form: str) -> None:
    done = run("filter", *([option] if option else []), "udp", "port", "53")
    assert done.stdout == bpf.compile("udp port 53").dump(form) + "\n"
    assert done.returncode == 0


def test_filter_for_a_file_finds_tags_in_the_frame() -> None:
    printed = run("filter", "--file", "vlan").stdout
    assert printed == bpf.compile("vlan", live=False).dump("d") + "\n"
    assert printed != run("filter", "vlan").stdout


def test_filter_for_a_tun_device_begins_with_the_ip_header() -> None:
    printed = run("filter", "-y", "RAW", "ip").stdout
    assert printed == bpf.compile("ip", link_type=65534).dump("d") + "\n"


def test_error_in_a_filter_is_shown_with_a_caret() -> None:
    done = run("filter", "tcp", "prot", "80")
    assert done.returncode == 1
    assert done.stdout == ""
    expression, caret = done.stderr.splitlines()[-2:]
    assert expression.strip() == "tcp prot 80"
    assert caret.strip() == "^"
    assert caret.index("^") == expression.index("prot")


def test_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"rawmmsg {rawmmsg.__version__}\n"


def test_no_standard_output_is_not_an_error() -> None:
    """As in `rawmmsg filter ... >&-`: print() does nothing then, either."""
    shell = '"$0" -m rawmmsg filter tcp >&-'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_standard_output_is_not_an_error() -> None:
    """As in `rawmmsg filter ... | head -n 1`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "rawmmsg", "filter", "tcp"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
