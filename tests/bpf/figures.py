"""Print the figures of the filter compiler: ``python tests/bpf/figures.py``.
The last ones need root and tcpdump.

Instructions executed on the published packets, and program lengths, compared
with libpcap's. Then the time to compile, compared with the time that a whole
``tcpdump -ddd`` takes.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time

from bpfkit import corpus, measure

from rawmmsg import bpf

ROUNDS = 5
SIMPLE = ("udp port 53", "tcp", "host 10.0.0.1", "ip", "tcp port 80")


def compile_time(expression: str) -> float:
    """The best of a few compilations, in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        bpf.compile(expression)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def tcpdump_time(expression: str) -> float:
    """The median time of a whole ``tcpdump -ddd``, in milliseconds."""
    command = ["tcpdump", "-i", "lo", "-ddd", expression]
    times = []
    for _ in range(20):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def import_time() -> float:
    """The time that importing the compiler adds to the start of an
    interpreter, in milliseconds.
    """
    times = []
    for statement in (
        "pass",
        "import rawmmsg.bpf; rawmmsg.bpf.compile('udp port 53')",
    ) * 5:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - start)
    return (min(times[1::2]) - min(times[::2])) * 1e3


def main() -> None:
    rows = measure.figures()
    print(
        f"expressions measured              {len(rows)} "
        f"of {len(corpus.compiled())}"
    )
    print(f"instructions executed, ratio      {measure.total_ratio(rows):.3f}")
    print(
        f"program length, ratio             {measure.length_ratio(rows):.3f}"
    )
    unoptimised = sum(row.length_libpcap for row in rows) / sum(
        row.length_unoptimised for row in rows
    )
    print(f"libpcap's own, optimised or not   {unoptimised:.3f}")
    print("most instructions executed, ratio by expression (*: libpcap's")
    print("optimiser changes what the program accepts):")
    for row in sorted(rows, key=lambda row: -row.ratio)[:20]:
        mark = " " if measure.same_work(row) else "*"
        print(
            f"  {row.ratio:5.2f}{mark} {row.executed:6} "
            f"{row.executed_libpcap:6}  {row.expression}"
        )
    print("longest, ratio by expression:")
    for row in sorted(rows, key=lambda row: -row.length / row.length_libpcap)[
        :10
    ]:
        print(
            f"  {row.length / row.length_libpcap:5.2f}  {row.length:6} "
            f"{row.length_libpcap:6}  {row.expression}"
        )
    times = [compile_time(row.expression) for row in rows]
    print(
        f"compile, median                   {statistics.median(times):.2f} ms"
    )
    print(
        f"compile, slowest                  {max(times):.2f} ms  "
        f"{rows[times.index(max(times))].expression}"
    )
    for expression in SIMPLE:
        print(f"compile {expression!r:25} {compile_time(expression):.2f} ms")
    print(f"import and compile once           {import_time():.1f} ms")
    if shutil.which("tcpdump"):
        for expression in SIMPLE[:2]:
            print(
                f"tcpdump -ddd {expression!r:20} "
                f"{tcpdump_time(expression):.2f} ms"
            )


if __name__ == "__main__":
    main()
