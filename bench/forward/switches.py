"""Switches that are programs, between interfaces. Each gives the ids of its
processes, and runs on the CPU of the thread that starts it."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..lab import native, peers
from ..lab.contender import GroundTruthError
from . import guest
from .hosts import PATIENCE, check_runs, run, wait_until, wait_until_listening
from .sides import kernel_bridge

Pids: TypeAlias = Sequence[int]
Switch: TypeAlias = Callable[..., AbstractContextManager[Pids]]


# ---- rawmmsg switch --------------------------------------------------------


@contextlib.contextmanager
def rawmmsg_switch(*ports: str) -> Iterator[Pids]:
    """The command `rawmmsg switch`."""
    with reporting_switch(*ports) as (pid, _):
        yield [pid]


@contextlib.contextmanager
def reporting_switch(*ports: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The id of its process, and its last report, which is there at the end.
    By then it must have accounted for every frame."""
    command = [sys.executable, "-P", "-m", "rawmmsg", "switch", *ports]
    command += ["--quiet", "--json", "3600"]
    # As in rawmmsg_bridge().
    more = {"PYTHONPATH": os.pathsep.join(sys.path)}
    report: dict[str, Any] = {}
    with native.start(command, os.environ | more) as process:
        try:
            wait_until_listening(ports, process)
            yield process.pid, report
            process.terminate()
            printed, words = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise GroundTruthError("rawmmsg switch does not end") from None
        finally:
            process.kill()
    if process.returncode != 0 or not printed:
        raise GroundTruthError(f"rawmmsg switch has failed: {words}")
    report |= json.loads(printed.splitlines()[-1])
    check_ports(report["ports"])


def check_ports(ports: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that each frame received, and each copy, is accounted for."""
    for name, counts in ports.items():
        taken = counts["forwarded"] + counts["filtered"]
        taken += sum(counts["dropped"].values())
        copies = counts["copies"] + counts["made"] - counts["joined"]
        left = counts["sent"] + sum(counts["copies_dropped"].values())
        if counts["received"] != taken or copies != left:
            raise GroundTruthError(f"port {name}: {counts} do not add up")


# ---- VDE -------------------------------------------------------------------

_taps: Final = itertools.count()  # numbers of vde_switch's taps


@contextlib.contextmanager
def vde_plugged(*ports: str) -> Iterator[Pids]:
    """vde_switch, to which VDE's program for interfaces connects the ports."""
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        switch = _vde(stack, folder)
        command = [peers.program("vde_pcapplug"), "--sock", f"{folder}/vde"]
        plugs = [_started(stack, *command, port) for port in ports]
        for port, plug in zip(ports, plugs, strict=True):
            wait_until_listening([port], plug)
        yield [switch.pid, *(plug.pid for plug in plugs)]


@contextlib.contextmanager
def vde_bridged(*ports: str) -> Iterator[Pids]:
    """vde_switch with a tap for each port. A bridge of the kernel joins the
    two."""
    taps = [f"vde{next(_taps)}" for _ in ports]
    with ExitStack() as stack:
        pids = stack.enter_context(vde_with_taps(*taps))
        for pair in zip(ports, taps, strict=True):
            stack.enter_context(kernel_bridge(*pair))
        yield pids


@contextlib.contextmanager
def vde_with_taps(*taps: str) -> Iterator[Pids]:
    """vde_switch, which makes these taps."""
    peers.program("vde_switch")
    # As tap() makes one, so that it tells what is missing.
    with guest.tap():
        pass
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        options = [word for tap in taps for word in ("--tap", tap)]
        switch = _vde(stack, folder, *options)
        ip = peers.program("ip")
        for tap in taps:
            _wait_for(Path("/proc/sys/net/ipv4/conf", tap), switch)
            run([ip, "link", "set", tap, "addrgenmode", "none"])
            run([ip, "link", "set", tap, "up"])
        yield [switch.pid]


def _vde(
    stack: ExitStack, folder: str, *options: str
) -> "subprocess.Popen[str]":
    # It ends with its standard input, and so with this process.
    switch = _started(
        *(stack, peers.program("vde_switch")),
        *("--sock", f"{folder}/vde", *options),
    )
    _wait_for(Path(folder, "vde", "ctl"), switch)
    return switch


# ---- Open vSwitch ----------------------------------------------------------

_SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")
_BRIDGE: Final = "br0"
# The environment variables for its folders, which are others by default.
_FOLDERS: Final = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")


@contextlib.contextmanager
def open_vswitch(*ports: str) -> Iterator[Pids]:
    """Open vSwitch's netdev datapath, which is in user space, with offload
    headers (userspace-tso-enable), and a database of its own."""
    for name in ("ovsdb-tool", "ovsdb-server", "ovs-vsctl", "ovs-vswitchd"):
        peers.program(name)
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        environment = native.environment()
        environment |= dict.fromkeys(_FOLDERS, folder)
        database, address = f"{folder}/conf.db", f"unix:{folder}/db.sock"
        run([peers.program("ovsdb-tool"), "create", database, str(_SCHEMA)])
        stack.callback(_delete_taps)
        server = _started(
            *(stack, peers.program("ovsdb-server"), database),
            *(f"--remote=p{address}", f"--unixctl={folder}/db.ctl"),
            environment=environment,
        )
        _wait_for(Path(folder, "db.sock"), server)
        _configure(address, ports)
        switch = _started(
            *(stack, peers.program("ovs-vswitchd"), address),
            *("--disable-system", f"--unixctl={folder}/switch.ctl"),
            environment=environment,
        )
        wait_until_listening(ports, switch)
        yield [switch.pid]


def _delete_taps() -> None:
    """Open vSwitch's own, which outlive it."""
    for _, name in socket.if_nameindex():
        if name in ("ovs-netdev", _BRIDGE):
            run([peers.program("ip"), "link", "delete", "dev", name])


def _configure(address: str, ports: Sequence[str]) -> None:
    """Before the switch starts: the database of a bridge with these ports."""
    command = [peers.program("ovs-vsctl"), f"--db={address}", "--no-wait"]
    command += ["--", "init", "--", "set", "Open_vSwitch", "."]
    command += ["other_config:userspace-tso-enable=true"]
    command += ["--", "add-br", _BRIDGE]
    command += ["--", "set", "bridge", _BRIDGE, "datapath_type=netdev"]
    for port in ports:
        command += ["--", "add-port", _BRIDGE, port]
    run(command)


# ---- Programs --------------------------------------------------------------


def _folder() -> AbstractContextManager[str]:
    return tempfile.TemporaryDirectory(prefix="rawmmsg-bench-")


def _started(
    stack: ExitStack,
    *command: str,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[str]":
    """Starts a program, which ends with `stack`, or with this process. What it
    prints is not read, and must be short."""
    argv = [peers.program("setpriv"), "--pdeathsig=KILL", *command]
    process = stack.enter_context(native.start(argv, environment))
    stack.callback(_end, process)
    return process


def _wait_for(path: Path, program: "subprocess.Popen[str]") -> None:
    """Waits until a program, which is starting, has made a file or tap."""

    def exists() -> bool:
        check_runs(program)
        return path.exists()

    wait_until(exists, f"{program.args!r} does not make {path}")


def _end(process: "subprocess.Popen[str]") -> None:
    """By a signal, so that it removes what it has made."""
    process.terminate()
    try:
        process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise GroundTruthError(f"{process.args!r} does not end") from None
