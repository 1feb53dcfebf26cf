"""Fails unless auditwheel, whose report is read from standard input, names
manylinux of a glibc as old as the one given.

usage: auditwheel show WHEEL | check_platform.py 2 17
"""

import re
import sys


def main(*oldest: str) -> int:
    report = sys.stdin.read()
    match = re.search(r'platform tag:\s+"manylinux_(\d+)_(\d+)_', report)
    if match is None:
        print("auditwheel names no manylinux platform")
        return 1
    version = tuple(map(int, match.groups()))
    if version > tuple(map(int, oldest)):
        print(f"glibc {version} is newer than {oldest}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
