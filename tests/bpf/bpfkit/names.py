"""A fixed table of the names of services and protocols, so that no test needs
the system's databases, which slim images do not have.
"""

from __future__ import annotations

import socket

import pytest

SERVICES = {
    "http": {"tcp": 80},
    "https": {"tcp": 443, "udp": 443},
    "domain": {"tcp": 53, "udp": 53},
    "ftp": {"tcp": 21},
    "ftp-data": {"tcp": 20},
    "ssh": {"tcp": 22},
    "telnet": {"tcp": 23},
    "ntp": {"udp": 123},
    "syslog": {"tcp": 514, "udp": 514},
    "bootps": {"udp": 67},
    "bootpc": {"udp": 68},
}
PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "sctp": 132,
}


def service(name: str, protocol: str | None = None) -> int:
    """socket.getservbyname() over SERVICES."""
    ports = SERVICES.get(name, {})
    if protocol is None and ports:
        return next(iter(ports.values()))
    if protocol not in ports:
        raise OSError("service/proto not found")
    return ports[protocol]


def protocol(name: str) -> int:
    """socket.getprotobyname() over PROTOCOLS."""
    if name not in PROTOCOLS:
        raise OSError("protocol not found")
    return PROTOCOLS[name]


def fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look-up use the tables."""
    monkeypatch.setattr(socket, "getservbyname", service)
    monkeypatch.setattr(socket, "getprotobyname", protocol)


@pytest.fixture(autouse=True)
def fixed_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixes the names for all tests of a module that imports it."""
    fix(monkeypatch)
