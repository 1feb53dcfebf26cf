"""Sub-interpreters. Each has its own copy of the module, and from Python 3.12
on its own GIL."""

import importlib
import importlib.util
import os
import socket
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import WAIT
from support.child import run_python
from support.frames import datagram_pair, numbered

import rawmmsg
from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

# The module's name depends on the version (PEP 554, PEP 684, PEP 734).
_interpreters: Any = importlib.import_module(
    "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
)


class Interpreter:
    """Runs code in a sub-interpreter that can import the package."""

    def __init__(self, own_gil: bool) -> None:
        self.id: Any
        if sys.version_info >= (3, 13):
            self.id = _interpreters.create("isolated" if own_gil else "legacy")
        else:
            self.id = _interpreters.create(isolated=own_gil)
        paths = [str(Path(rawmmsg.__file__).parents[1]), *sys.path]
        self.run(f"import sys; sys.path[:] = {paths!r}")

    def run(self, code: str) -> None:
        """Runs the code and raises what it raises."""
        failure = _interpreters.run_string(self.id, textwrap.dedent(code))
        # Until 3.12, run_string() raises by itself.
        if failure is not None:
            raise AssertionError(failure.formatted)

    def destroy(self) -> None:
        """Ends the interpreter; does nothing if it has ended."""
        if self.id is not None:
            _interpreters.destroy(self.id)
            self.id = None


@contextmanager
def interpreter(own_gil: bool) -> Iterator[Interpreter]:
    made = Interpreter(own_gil)
    try:
        yield made
    finally:
        made.destroy()


both = pytest.mark.parametrize(
    "own_gil", [False, True] if sys.version_info >= (3, 12) else [False]
)


def second_module() -> Any:
    """The extension, loaded a second time into this interpreter."""
    spec = importlib.util.find_spec("rawmmsg._rawmmsg")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Interpreters


@both
def test_interpreter_imports_and_uses_the_package(
    own_gil: bool, veth: Veth
) -> None:
    """Frames of this interpreter arrive in the other one, and go back."""
    with RawSocket(veth.a) as near, interpreter(own_gil) as other:
        near.settimeout(WAIT)
        near.attach_filter(b"\x06\0\0\0\xff\xff\0\0")
        other.run(f"""
            import rawmmsg
            far = rawmmsg.RawSocket({veth.b!r})
            far.settimeout({WAIT})
            batch = rawmmsg.PacketBatch(8)
            view = memoryview(batch)
        """)
        packets = [numbered(i) for i in range(8)]
        near.sendmmsg_all(packets)
        other.run("""
            count = 0
            received = []
            while len(received) < 8:
                count += far.recvmmsg_into(batch)
                received += batch.tolist()
            far.sendmmsg_all([bytes(packet) for packet in received])
            assert far.statistics()[0] == far.statistics()[3] == 8
            far.close()
        """)
        answers: list[bytes] = []
        batch = PacketBatch()
        while len(answers) < 8:
            near.recvmmsg_into(batch)
            answers += batch.tolist()
        assert answers == packets


@both
def test_types_of_interpreters_are_distinct(own_gil: bool) -> None:
    reader, writer = os.pipe()
    try:
        with interpreter(own_gil) as one, interpreter(own_gil) as two:
            for other in (one, two):
                other.run(f"""
                    import os, rawmmsg
                    kinds = [rawmmsg.PacketBatch, rawmmsg.RawSocket,
                             rawmmsg.Statistics,
                             type(memoryview(rawmmsg.PacketBatch(1)).obj),
                             type(rawmmsg.PacketBatch(1).lengths.obj)]
                    os.write({writer}, b"%d %d %d %d %d\\n"
                             % tuple(map(id, kinds)))
                """)
            numbers = os.read(reader, 1000).split()
    finally:
        os.close(reader)
        os.close(writer)
    ours = [id(rawmmsg.PacketBatch), id(rawmmsg.RawSocket)]
    numbers += [b"%d" % number for number in ours]
    assert len(set(numbers)) == 12, "two interpreters share a type"


@both
def test_types_outlive_other_interpreters(own_gil: bool) -> None:
    """Ending one interpreter does not affect the others."""
    sender, receiver = datagram_pair()
    with sender, receiver, interpreter(own_gil) as staying:
        staying.run("import rawmmsg; batch = rawmmsg.PacketBatch(2)")
        for _ in range(5):
            with interpreter(own_gil) as other:
                other.run("import rawmmsg; batch = rawmmsg.PacketBatch(2)")
        staying.run("""
            batch.append(b"packet")
            assert batch.tolist() == [b"packet"]
            assert rawmmsg.PacketBatch(1).capacity == 1
        """)
        batch = PacketBatch(2)
        receiver.settimeout(WAIT)
        sender.send(b"packet")
        receiver.recvmmsg_into(batch)
        assert batch.tolist() == [b"packet"]


@both
def test_interpreter_ends_with_objects_alive(own_gil: bool) -> None:
    """A socket that was not closed is closed with its interpreter. Views,
    batches and modules may be freed in any order."""
    peer, adopted = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with peer, interpreter(own_gil) as other:
        peer.settimeout(WAIT)
        other.run(f"""
            import sys, warnings
            warnings.simplefilter("ignore", ResourceWarning)
            import rawmmsg
            sock = rawmmsg.RawSocket(fileno={adopted.detach()})
            memory = bytearray(4096)
            batch = rawmmsg.PacketBatch(buffer=memory)
            batch.append(b"packet")
            views = [batch[0], batch.lengths, memoryview(batch), iter(batch)]
            me = [views, batch, sock, rawmmsg]
            me.append(me)
            assert sock.sendmmsg(batch) == 1
        """)
        assert peer.recv(100) == b"packet"
        other.destroy()
        # The other end is closed.
        with pytest.raises(ConnectionError):
            peer.send(b"packet")


@both
def test_interpreters_transfer_at_the_same_time(
    own_gil: bool, scaled: Callable[[int], int]
) -> None:
    """Each in a thread of its own. Shared state would be corrupted."""
    rounds = scaled(300)
    failures: list[BaseException] = []

    def work() -> None:
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            with interpreter(own_gil) as other:
                other.run(f"""
                    import rawmmsg
                    with (
                        rawmmsg.RawSocket(fileno={one.detach()}) as sender,
                        rawmmsg.RawSocket(fileno={two.detach()}) as receiver,
                    ):
                        receiver.settimeout({WAIT})
                        batch = rawmmsg.PacketBatch(8)
                        for i in range({rounds}):
                            packets = [b"%d-%d" % (i, j) for j in range(8)]
                            sender.sendmmsg_all(packets)
                            received = []
                            while len(received) < 8:
                                receiver.recvmmsg_into(batch)
                                received += [bytes(view) for view in batch]
                            assert received == packets
                            batch = rawmmsg.PacketBatch(8, 64 + i % 64)
                        counts = receiver.statistics()
                        assert counts.packets_received == 8 * {rounds}
                """)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


@both
def test_close_wakes_a_call_of_the_same_interpreter(own_gil: bool) -> None:
    """A receive that waits releases the GIL of its interpreter."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, interpreter(own_gil) as other:
        other.run(f"""
            import errno, threading, time
            import rawmmsg
            sock = rawmmsg.RawSocket(fileno={two.detach()})
            batch = rawmmsg.PacketBatch(1)
            answer = []

            def receive():
                try:
                    sock.recvmmsg_into(batch)
                except OSError as error:
                    answer.append(error.errno)

            thread = threading.Thread(target=receive)
            thread.start()
            deadline = time.monotonic() + {WAIT}
            while True:
                try:
                    batch.clear()
                except BufferError:
                    break
                assert time.monotonic() < deadline, "the call does not begin"
            sock.close()
            thread.join()
            assert answer == [errno.EBADF], answer
        """)


# Modules


def test_module_loaded_twice_has_its_own_types() -> None:
    module = second_module()
    assert module is not rawmmsg._rawmmsg
    for name in ("PacketBatch", "RawSocket", "Statistics"):
        assert getattr(module, name) is not getattr(rawmmsg, name)
    ours, theirs = PacketBatch(1), module.PacketBatch(1)
    assert type(memoryview(ours).obj) is not type(memoryview(theirs).obj)
    assert type(ours.lengths.obj) is not type(theirs.lengths.obj)


def test_batch_of_another_module_is_refused_by_receives() -> None:
    """Its memory layout may differ."""
    module = second_module()
    sender, receiver = datagram_pair()
    with sender, receiver:
        receiver.setblocking(False)
        with pytest.raises(TypeError, match="needs a PacketBatch"):
            receiver.recvmmsg_into(module.PacketBatch(1))


def test_batch_of_another_module_can_be_sent_as_a_sequence() -> None:
    batch = second_module().PacketBatch(2)
    batch.extend([b"one", b"two"])
    receiver, sender = datagram_pair()
    with sender, receiver:
        assert sender.sendmmsg(batch) == 2
        assert [receiver.recv(10), receiver.recv(10)] == [b"one", b"two"]


def test_objects_outlive_their_module() -> None:
    module = second_module()
    batch = module.PacketBatch(2)
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, module.RawSocket(fileno=two.detach()) as sock:
        del module
        batch.append(b"packet")
        assert sock.sendmmsg(batch) == 1
        assert one.recv(10) == b"packet"
        assert sock.statistics().packets_sent == 1
        assert batch[0] == b"packet"
        with pytest.raises(TypeError, match="needs a PacketBatch"):
            sock.recvmmsg_into(PacketBatch(1))


def test_types_are_freed_with_their_module() -> None:
    """In a process without threads, because free-threaded Python keeps all
    types once it has had a thread."""
    answer = run_python("""
        import gc, importlib.util, weakref

        def load():
            spec = importlib.util.find_spec("rawmmsg._rawmmsg")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            batch = module.PacketBatch(1)
            types = [module.PacketBatch, module.RawSocket, module.Statistics,
                     type(memoryview(batch).obj), type(batch.lengths.obj)]
            return [weakref.ref(kind) for kind in types]

        references = load()
        gc.collect()
        print([reference() for reference in references])
    """)
    assert answer == "[None, None, None, None, None]\n"


# A __release_buffer__ in Python (PEP 688) runs while the garbage collector
# clears objects in any order.
if sys.version_info >= (3, 12):

    def test_use_while_the_module_is_freed_does_not_crash() -> None:
        """Code that runs after the module is cleared and before the batch is
        gets an error, or finds an attribute missing."""
        printed = run_python(
            """
            import gc, sys
            class Exporter:
                def __buffer__(self, flags):
                    return memoryview(bytearray(4096))
                def __release_buffer__(self, view):
                    use = self.__dict__.get("use")
                    if use is not None:
                        use(self)
            def use(exporter):
                for operation in (
                    lambda: exporter.batch[0],
                    lambda: exporter.batch.lengths,
                    lambda: type(exporter.batch)(),
                ):
                    try:
                        operation()
                    except (AttributeError, RuntimeError):
                        pass
            import rawmmsg
            gc.disable()
            gc.collect()
            def make():
                cycle = []
                batch = rawmmsg.PacketBatch()
                batch.append(b"packet")
                exporter = Exporter()
                exporter.batch = batch
                exporter.use = use
                cycle += [rawmmsg.PacketBatch(buffer=exporter), cycle]
                exporter.cycle = cycle
                exporter.exporter = exporter
            make()
            for name in [n for n in sys.modules if n.startswith("rawmmsg")]:
                del sys.modules[name]
            del rawmmsg
            gc.collect()
            print("alive")
            """
        )
        assert printed == "alive\n"
