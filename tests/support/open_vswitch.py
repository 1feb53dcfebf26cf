"""Open vSwitch's userspace datapath, with a database and sockets of its
own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from support import WAIT
from support.calls import eventually
from support.child import missing, tool
from support.linux import ip
from support.models import Ends, far_ends

_SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")
_BRIDGE: Final = "ovsmodel"


class OpenVSwitch:
    """`ends`: those of its ports."""

    def __init__(self, folder: Path, ends: Ends) -> None:
        self.ends = ends
        self._control = folder / "vswitchd.ctl"

    def step(self, port: int, *packets: bytes) -> list[list[bytes]]:
        """As Ends.step(). Without the flows of frames before, it decides by
        its address table."""
        seen = self.ends.step(port, *packets)
        self.call("revalidator/purge")
        return seen

    def call(self, method: str, *arguments: str) -> Any:
        """Does what `ovs-appctl` does, without a new process."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT)
            sock.connect(str(self._control))
            request = {"id": 0, "method": method, "params": arguments}
            sock.sendall(json.dumps(request).encode())
            answer = b""
            while True:
                answer += sock.recv(65536)
                with contextlib.suppress(json.JSONDecodeError):
                    reply = json.loads(answer)
                    break
        assert reply["error"] is None, reply["error"]
        return reply["result"]


@contextlib.contextmanager
def open_vswitch(
    folder: Path, ports: Sequence[Sequence[str]], markers: Sequence[int]
) -> Iterator[OpenVSwitch]:
    """Runs it with these ports, and one more for markers. A port is a list of
    settings of ovs-vsctl, such as `tag=5`."""
    server, daemon = tool("ovsdb-server"), tool("ovs-vswitchd")
    database, remote = folder / "conf.db", folder / "db.sock"
    if not _SCHEMA.exists():
        raise missing(str(_SCHEMA), "openvswitch-switch")
    _run(folder, "ovsdb-tool", "create", str(database), str(_SCHEMA))
    with far_ends(len(ports) + 1, markers) as ends, _without_taps():
        switch = OpenVSwitch(folder, ends)
        with (
            _running(
                folder,
                server,
                str(database),
                f"--remote=punix:{remote}",
                f"--unixctl={folder / 'server.ctl'}",
            ),
            _running(
                folder,
                daemon,
                f"unix:{remote}",
                f"--unixctl={folder / 'vswitchd.ctl'}",
            ),
        ):
            for path in (remote, folder / "vswitchd.ctl"):
                _wait_for_listener(path)
            # As the switch without options.
            native = ("vlan_mode=native-untagged", "tag=1")
            _configure(folder, ends, [*ports, native])
            yield switch


@contextlib.contextmanager
def _without_taps() -> Iterator[None]:
    """Deletes the taps that it has made, which outlive it."""
    try:
        yield
    finally:
        for _, name in socket.if_nameindex():
            if name in ("ovs-netdev", _BRIDGE):
                ip("link", "delete", "dev", name)


def _wait_for_listener(path: Path) -> None:
    def is_listening() -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(path)) == 0

    eventually(is_listening, f"nobody listens at {path.name}")


def _configure(
    folder: Path, ends: Ends, ports: Sequence[Sequence[str]]
) -> None:
    # Otherwise it drops frames to 01:80:c2:00:00:0x.
    command = ["add-br", _BRIDGE, "--", "set", "bridge", _BRIDGE]
    command += ["datapath_type=netdev", "other-config:forward-bpdu=true"]
    for link, settings in zip(ends.links, ports, strict=True):
        command += ["--", "add-port", _BRIDGE, link.b, *settings]
    database = f"--db=unix:{folder / 'db.sock'}"
    _run(folder, "ovs-vsctl", database, f"--timeout={WAIT:.0f}", *command)


def _environment(folder: Path) -> dict[str, str]:
    names = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
    return os.environ | dict.fromkeys(names, str(folder))


def _run(folder: Path, name: str, *arguments: str) -> None:
    done = subprocess.run(
        [tool(name), *arguments],
        env=_environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT,
    )
    assert done.returncode == 0, f"{name}: {done.stderr}"


@contextlib.contextmanager
def _running(folder: Path, path: str, *arguments: str) -> Iterator[None]:
    log = folder / f"{Path(path).name}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [path, *arguments, "-vsyslog:off", "-vconsole:warn"],
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            yield
            assert process.poll() is None, f"it ended: {log.read_text()}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT)
