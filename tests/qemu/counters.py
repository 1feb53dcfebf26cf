"""The counters of a network stack for IP and the layers above it."""

from collections.abc import Callable

Counters = dict[str, int]


def read_counters(read: Callable[[str], str]) -> Counters:
    """All counters in /proc/net, with names like "Tcp.InSegs" or
    "Udp6InErrors". `read` returns the text of a file."""
    found: Counters = {}
    for path in ("/proc/net/snmp", "/proc/net/netstat"):
        lines = read(path).splitlines()
        # The first line of each pair has names, the second has values.
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group, *keys = names.split()
            for key, value in zip(keys, values.split()[1:], strict=True):
                found[group.replace(":", ".") + key] = int(value)
    for line in read("/proc/net/snmp6").splitlines():
        key, value = line.split()
        found[key] = int(value)
    return found


def since(before: Counters, now: Counters) -> Counters:
    """The differences of all counters that have changed."""
    return {
        key: now[key] - value
        for key, value in before.items()
        if now[key] != value
    }


def wrong_checksums(counters: Counters) -> Counters:
    """The counters of packets received with a wrong checksum."""
    return {key: n for key, n in counters.items() if "CsumErrors" in key}
