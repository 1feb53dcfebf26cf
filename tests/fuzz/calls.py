"""Makes random calls with random arguments on everything in the C module.

    python tests/fuzz/calls.py --seed 1 --seconds 600

Runs in rounds of some seconds, each in a new process and network namespace. A
round makes, uses, closes and drops sockets of all kinds, batches of all kinds
and views of them in random order, with arguments that are valid, invalid or at
a limit. A signal handler makes calls on the same objects, and sometimes
raises. In some rounds other threads do the same; in the others the process
forks. A round fails if it crashes, hangs, leaves a descriptor open, or raises
an exception that no call is documented to raise. The program then prints the
last calls and how to repeat the round. (The order of threads and signals is
not repeatable, so the same seed makes nearly the same calls.)

Needs the same privileges as the tests, but not pytest.
"""

import argparse
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import Disturbance, World
from callers import Caller, Ring
from support.linux import tun_device

from rawmmsg import bpf
from rawmmsg.testing import enter_namespace, veth_pair

ROUND: Final = 15.0
"""Seconds that each process runs."""
GRACE: Final = 60.0
"""Seconds after that in which the process must have ended."""


def open_files() -> dict[str, str]:
    """The open descriptors and what they refer to."""
    folder = Path("/proc/self/fd")
    numbers = [one.name for one in folder.iterdir()]
    return {
        number: os.readlink(folder / number)
        for number in numbers
        if os.path.lexists(folder / number)
    }


def with_handler(world: World, main: Caller, seed: str) -> Callable[[], None]:
    """Makes a signal handler make calls of its own, and raise. Returns a
    function that ends this."""
    inner = Caller(world, main.ring, f"{seed} handler")

    def handle(number: int, frame: object) -> None:
        if inner.depth == 0:
            inner.step()
            if main.interruptible and inner.chance(10):
                main.interruptible = False
                raise Disturbance

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)

    def end() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    return end


def judge_unraisable(world: World, hook: "sys.UnraisableHookArgs") -> None:
    """The signal handler may raise while an object's destructor issues its
    ResourceWarning. Any other exception in a destructor is a fault."""
    if not issubclass(hook.exc_type, Disturbance):
        world.fail(f"unraisable: {hook!r}")


def run_round(seed: int, seconds: float, ring: Ring) -> str | None:
    """Makes calls for some seconds in a new namespace; returns what failed."""
    enter_namespace()
    # A signal handler that interrupts the first import of a module would find
    # half of it.
    bpf.compile("ip")
    threads = seed % 2 == 0
    with ExitStack() as stack:
        pairs = [stack.enter_context(veth_pair()) for _ in range(2)]
        tap = None
        with suppress(OSError):
            tap = stack.enter_context(tun_device("tap"))[1]
        with suppress(MemoryError):
            bytearray(2**62)  # AddressSanitizer opens its log now
        before = open_files()
        world = World(pairs, tap, forks=not threads)
        sys.unraisablehook = partial(judge_unraisable, world)
        main = Caller(world, ring, f"{seed}")
        main.main = True
        deadline = time.monotonic() + seconds

        def work(caller: Caller) -> None:
            try:
                while time.monotonic() < deadline and world.failure is None:
                    caller.step()
            except BaseException:
                world.fail(traceback.format_exc())

        helpers = [
            threading.Thread(
                target=work, args=(Caller(world, ring, f"{seed} {n}"),)
            )
            for n in range(2 if threads else 0)
        ]
        if threads:
            sys.setswitchinterval(1e-4)
        for helper in helpers:
            helper.start()
        end = with_handler(world, main, f"{seed}")
        work(main)
        end()
        for helper in helpers:
            helper.join()
        world.end()
        left = open_files().items() - before.items()
        if left:
            world.fail(f"descriptors were left open: {left}")
        print(
            f"seed {seed}: {world.calls} calls, {world.refused} refused",
            flush=True,
        )
    return world.failure


def supervise(seed: int, seconds: float) -> bool:
    """Runs one round in a new process; returns whether it succeeded."""
    ring = Ring()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        faulthandler.enable()
        try:
            failure = run_round(seed, seconds, ring)
        except BaseException:
            failure = traceback.format_exc()
        if failure is not None:
            print(failure, file=sys.stderr, flush=True)
        os._exit(failure is not None)
    deadline = time.monotonic() + seconds + GRACE
    ended, status = os.waitpid(pid, os.WNOHANG)
    while ended == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
        ended, status = os.waitpid(pid, os.WNOHANG)
    if ended == 0:
        os.kill(pid, signal.SIGABRT)  # for the tracebacks
        time.sleep(1)
        os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if status == 0:
        return True
    print(
        f"{ring.read()}\n\nThe process {'ended' if ended else 'hung'} with"
        f" status {status}. Again: python {sys.argv[0]} --seed {seed}"
        f" --seconds {seconds:g} --round {seconds:g}",
        file=sys.stderr,
    )
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default, words in (
        ("--seed", 1, "chooses the calls of the first round"),
        ("--seconds", 60.0, "how long to run"),
        ("--round", ROUND, "how many seconds a round takes"),
    ):
        parser.add_argument(
            name,
            type=type(default),
            default=default,
            help=f"{words} (default: %(default)s)",
        )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    deadline = time.monotonic() + args.seconds
    seed = args.seed
    while (left := deadline - time.monotonic()) > 0.5:
        if not supervise(seed, min(left, args.round)):
            sys.exit(1)
        seed += 1


if __name__ == "__main__":
    main()
