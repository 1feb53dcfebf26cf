"""What a generator yields, sent by another thread while the generator runs."""

import threading
from collections.abc import Iterator

from .. import PacketBatch
from .loads import MOST_FRAMES, Load, Source, fill
from .outlet import Outlet, send_loads
from .pace import NAP, Pace, Pacer
from .relay import Relay


def send_as_yielded(source: Source, outlet: Outlet, pace: Pace) -> None:
    """Sends what the source yields, while the source continues. An error of
    the source is raised when everything that it yielded before has been
    sent."""
    sender = outlet.sender
    relay = Relay(pace.frames_ahead(MOST_FRAMES), sender.stopped)
    failures: list[BaseException] = []
    aborted = False
    asked_to_stop = sender.stopped
    sender.stopped = lambda: aborted or asked_to_stop()
    # Not Thread.join(): if Ctrl-C interrupts that, some releases of CPython
    # take the thread for ended.
    ended = threading.Event()

    def work() -> None:
        try:
            pacer = None
            if pace.is_limited:
                pacer = Pacer(pace.rate, sender.stopped)
            send_loads(_relayed_loads(relay, pace), outlet, pacer, 0.0)
        except BaseException as error:
            failures.append(error)
        finally:
            relay.close()
            ended.set()

    thread = threading.Thread(target=work, name="rawmmsg-send")
    failed: list[Exception] = []
    try:
        thread.start()
        try:
            _put_all(source, relay, pace)
        except Exception as error:
            failed.append(error)
        relay.close()
        # In naps: a signal that comes just before a wait does not end it.
        while not ended.wait(NAP):
            pass
    except BaseException:
        aborted = True
        relay.close()
        # A signal handler that raises in Thread.start() can end the thread
        # before it has run work().
        while thread.is_alive() and not ended.wait(NAP):
            pass
        raise
    # The lists are emptied: an error that stays in one of them refers to this
    # frame, which refers to the list, and the cycle keeps the generator alive.
    failures += failed
    failed.clear()
    if failures:
        del failures[1:]
        raise failures.pop()


def _put_all(source: Source, relay: Relay, pace: Pace) -> None:
    build, time_of = source.build, pace.time_of or _no_time
    for item in source.items:
        if not relay.put(build(item), time_of(item)):
            return


def _no_time(item: object) -> float:
    return 0.0


def _relayed_loads(relay: Relay, pace: Pace) -> Iterator[Load]:
    batch: PacketBatch | None = None
    position = 0.0
    while True:
        frames, times = relay.take()
        if not frames:
            return
        sizes = list(map(len, frames))
        positions = pace.place(sizes, times, position)
        position = positions[-1]
        batch = fill(batch, frames)
        yield Load(batch, sum(sizes), positions)
