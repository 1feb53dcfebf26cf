"""QEMU guests on datagrams, a stream and vhost-user, a guest of User-mode
Linux, and this machine are joined by `rawmmsg switch`. Run by run.py."""

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from checks import TEN_MB, accept, check_no_wrong_checksum
from guest import PATIENCE
from machines import SERVER, UPLINK, UPLINK_VLAN, Machines, five_machines

PORT: Final = 5001

# What udhcpc runs when it has a lease.
_ON_LEASE: Final = (
    '[ "$1" != bound ] || {'
    " ip addr add $ip/$mask dev $interface;"
    " ip route add default via $router; }"
)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """At the end, the switch accounts for every frame and every copy."""
    with (
        tempfile.TemporaryDirectory(prefix="rawmmsg-", dir="/tmp") as folder,
        five_machines(Path(folder)) as made,
    ):
        yield made
        for name, counts in made.end().items():
            assert counts.adds_up, (name, counts)
            assert counts.forwarded > 0, (name, counts)


def test_each_machine_pings_each(machines: Machines) -> None:
    for one, other in machines.pairs():
        for address in (other.ipv4, other.ipv6):
            ping = f"ping -A -c 3 -w {PATIENCE:.0f} {address}"
            printed = one.shell.run(ping)
            assert "3 packets received" in printed, (
                f"{one.name} and {other.name}: {printed}"
            )


def test_each_machine_sends_ten_megabytes_to_each(machines: Machines) -> None:
    """To those behind it in the list over IPv4, to the others over IPv6. No
    receiver finds a wrong checksum."""
    order = list(machines.by_name.values())
    for one, other in machines.pairs():
        is_behind = order.index(one) < order.index(other)
        other.begin_receiving(f"-l -p {PORT}")
        one.send(f"{other.ipv4 if is_behind else other.ipv6} {PORT}")
        assert other.shell.finish() == one.digest, (
            f"{one.name} sent other data than {other.name} received"
        )
    for machine in order:
        check_no_wrong_checksum(machine.shell)


def test_passt_gives_a_machine_the_network_of_a_namespace(
    machines: Machines,
) -> None:
    """A guest with a VLAN to passt gets the address of passt's namespace, and
    exchanges 10 MB in each direction with a server behind its router."""
    machine = machines.by_name["stream"]
    run = machine.shell.run
    run(f"ip link add link eth0 name up0 type vlan id {UPLINK_VLAN}")
    run("ip link set up0 up")
    run(f"printf '%s\\n' '#!/bin/sh' '{_ON_LEASE}' >lease")
    run("chmod +x lease")
    run("udhcpc -n -q -f -i up0 -s ./lease")
    assert f"inet {UPLINK}/24" in run("ip addr show dev up0")
    with socket.create_server((SERVER, PORT)) as server:
        server.settimeout(PATIENCE)
        data = os.urandom(TEN_MB)
        # An end of input, which nc sends on, would end what passt forwards.
        machine.begin_receiving(f"{SERVER} {PORT}")
        with accept(server) as connection:
            connection.sendall(data)
        assert machine.shell.finish() == digest(data)
        machine.shell.begin(f"nc {SERVER} {PORT} <data")
        with accept(server) as connection:
            assert connection.getpeername()[0] == UPLINK
            parts = list(iter(lambda: connection.recv(1 << 20), b""))
        machine.shell.finish()
        assert digest(b"".join(parts)) == machine.digest


def digest(data: bytes) -> str:
    """As sha256sum prints it."""
    return f"{hashlib.sha256(data).hexdigest()}  -\n"
