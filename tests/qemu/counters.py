"""What a network stack has counted, of IP and what is above it."""

from collections.abc import Callable

Counters = dict[str, int]


def read_counters(read: Callable[[str], str]) -> Counters:
    """All that /proc/net has, as "Tcp.InSegs" or "Udp6InErrors"; `read` gives
    the text of a file."""
    found: Counters = {}
    for path in ("/proc/net/snmp", "/proc/net/netstat"):
        lines = read(path).splitlines()
        # Of each pair the first has names, the second values.
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group, *keys = names.split()
            for key, value in zip(keys, values.split()[1:], strict=True):
                found[group.replace(":", ".") + key] = int(value)
    for line in read("/proc/net/snmp6").splitlines():
        key, value = line.split()
        found[key] = int(value)
    return found


def since(before: Counters, now: Counters) -> Counters:
    """How far each has moved; those that have not are left out."""
    return {
        key: now[key] - value
        for key, value in before.items()
        if now[key] != value
    }


def wrong_checksums(counters: Counters) -> Counters:
    """Those that count what was received with a checksum that is wrong."""
    return {key: n for key, n in counters.items() if "CsumErrors" in key}
