"""Private network namespaces and veth pairs, for tests that send frames.

A program moves into a network namespace of its own, as root or, where user
namespaces are allowed, as anybody:

    enter_namespace()       moves this process, while it has one thread
    exec_in_namespace()     runs this program again from its start, inside
    run_in_namespace(argv)  runs a child process inside

and makes pairs of interfaces there:

    with veth_pair() as veth:       # both ends up, IPv6 silent
        RawSocket(veth.a), RawSocket(veth.b)

As a pytest plugin, `pytest_plugins = ["rawmmsg.testing"]` in the top conftest
(or `-p rawmmsg.testing`), it puts the whole run into a namespace of its own
before the first test; with pytest-xdist, each worker into another. Where
threads run already, or Scapy has looked at the host's network, pytest is
started again inside. Tests take the fixtures `veth` and `veth_factory`.

Where no namespace can be had, nothing that could touch the host's network
runs: every test is skipped but those marked `no_network`. They fail instead
where the environment has CI=true, or the ini option
`rawmmsg_require_namespace` is set.

Sockets opened before stay where they are, and /sys/class/net keeps showing
the interfaces of the host. In a user namespace the process is uid 0, has
every capability over its own network and none over the host.

Needs the `ip` command (iproute2) for veth pairs, and no Python package.
PYTEST_DONT_REWRITE
"""

import contextlib
import errno
import fcntl
import importlib
import itertools
import json
import os
import pwd
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

__all__ = [
    "Veth",
    "enter_namespace",
    "exec_in_namespace",
    "in_namespace",
    "run_in_namespace",
    "veth_pair",
]

# <linux/sched.h>; the os module has them from Python 3.12 on
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000

# <linux/sockios.h>, <linux/if.h>
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_IFNAMSIZ: Final = 16

# What became of the move, for this process across exec and for its children:
# "pid:inode" of the namespace, or "pid:0:errno:message" of the refusal.
_MARK: Final = "RAWMMSG_NAMESPACE"

_READY_TIMEOUT: Final = 10.0

_numbers = itertools.count()
_numbers_lock = threading.Lock()


# Namespaces


def enter_namespace() -> None:
    """Moves this process into a new network namespace, loopback up.

    Cannot be undone. Children inherit the namespace. Raises RuntimeError where
    the process has more than one thread (unshare(2) would move only the
    caller, or nobody): exec_in_namespace() and run_in_namespace() work there.
    Raises OSError, by errno and with the remedy in its message, where no
    namespace can be had; the process is then as it was.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(
            f"the process has {threads} threads, and only one that has a"
            " single thread can move to another network namespace: call"
            " enter_namespace() before any is started (importing numpy starts"
            " some), or use exec_in_namespace() or run_in_namespace()"
        )
    _enter()


def exec_in_namespace() -> None:
    """Runs this program again from its start, in a new network namespace.

    Takes the place of the process (execve(2)): same pid, arguments and
    environment, whatever the number of threads. In the second run the call
    returns at once, or raises OSError, with the remedy in its message, where
    no namespace could be had.
    """
    pid, inode, error = _mark()
    if pid == os.getpid():
        if error is not None:
            raise error
        if inode == _inode():
            return
        raise RuntimeError("started again, and not in the new namespace")
    if not sys.executable:
        raise RuntimeError("sys.executable is empty: cannot start again")
    sys.stdout.flush()
    sys.stderr.flush()
    program = [sys.executable, *sys.orig_argv[1:]]
    os.execv(sys.executable, _trampoline_argv("-", program))


def run_in_namespace(
    argv: Sequence[str], **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Runs a program in a new network namespace of its own.

    `options` and the result are those of subprocess.run(). Raises OSError,
    with the remedy in its message, where no namespace can be had, and
    FileNotFoundError where there is no such program.
    """
    check = options.pop("check", False)
    inherited = options.pop("pass_fds", ())
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            _trampoline_argv(str(writer), argv),
            check=False,
            pass_fds=(*inherited, writer),
            **options,
        )
        os.set_blocking(reader, False)
        try:
            report = os.read(reader, 65536).decode()
        except BlockingIOError:  # we hold the writer ourselves
            report = ""
    finally:
        os.close(reader)
        os.close(writer)
    if report:
        number, _, message = report.partition(":")
        raise OSError(int(number), message)
    done.args = list(argv)
    if check:
        done.check_returncode()
    return done


def in_namespace() -> bool:
    """Whether this thread is in a namespace that this module has made, for
    this process or for one of its ancestors."""
    return _mark()[1] == _inode()


def _inode() -> int:
    """The number of the calling thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def _mark() -> tuple[int, int, OSError | None]:
    """Reads _MARK: pid, inode (0: refused), and the refusal."""
    fields = os.environ.get(_MARK, "").split(":", 3)
    try:
        pid, inode = int(fields[0]), int(fields[1])
        if inode:
            return pid, inode, None
        return pid, 0, OSError(int(fields[2]), fields[3])
    except (ValueError, IndexError):
        return 0, 0, None


def _enter() -> None:
    """Moves the process, wholly or not at all."""
    ways = [_CLONE_NEWUSER | _CLONE_NEWNET]
    if os.geteuid() == 0:
        ways.insert(0, _CLONE_NEWNET)
    for flags in ways:
        refusal = _try(flags)
        if refusal is None:
            _move(flags)
            return
    assert refusal is not None
    raise OSError(refusal.errno, _explain(refusal))


def _try(flags: int) -> OSError | None:
    """Makes the move in a forked child and returns what refuses it.

    A process that got its user namespace but no right in it, which is how
    Ubuntu's AppArmor restricts them, could not go back.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        report = f"{errno.EIO}:died on the way"
        try:
            _move(flags)
            report = ""
        except OSError as error:
            report = f"{error.errno or errno.EIO}:{error.strerror}"
        finally:
            os.write(writer, report.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        report = pipe.read()
    with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored
        os.waitpid(pid, 0)
    if not report:
        return None
    number, _, message = report.partition(":")
    return OSError(int(number), message)


def _move(flags: int) -> None:
    """Moves the calling thread (with _CLONE_NEWUSER, the process, which then
    has one), brings loopback up, and makes sure of the rights needed."""
    uid, gid, user = os.geteuid(), os.getegid(), _user()
    _unshare(flags)
    if flags & _CLONE_NEWUSER:
        # user_namespaces(7): gid_map is open to the unprivileged only once
        # setgroups(2) is denied. Uid 0 keeps its capabilities across exec.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
        os.environ["LOGNAME"] = user
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        (value,) = struct.unpack_from("H", request, _IFNAMSIZ)
        request = struct.pack("16sH14x", b"lo", value | _IFF_UP)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    os.environ[_MARK] = f"{os.getpid()}:{_inode()}"


def _unshare(flags: int) -> None:
    if sys.version_info >= (3, 12):
        os.unshare(flags)
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _user() -> str:
    """The user's name, for LOGNAME. Programs that ask who they are (pytest
    names its directory in /tmp so) would be told root inside, whose files are
    somebody else's there."""
    name = os.environ.get("LOGNAME", "")
    with open("/proc/self/uid_map", encoding="ascii") as file:
        outermost = file.read().split() == ["0", "0", str(2**32 - 1)]
    if name and not outermost:
        return name  # uid 0 here is somebody whom only LOGNAME knows
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _write(path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from None


def _explain(refusal: OSError) -> str:
    """The refusal and, from what the machine says of itself, its remedy."""
    if not os.path.exists("/proc/self/ns/net"):
        remedy = "needs a kernel with CONFIG_NET_NS, and /proc mounted"
    elif _setting("user/max_net_namespaces") == 0:
        remedy = "allow them: sysctl -w user.max_net_namespaces=1000"
    elif not os.path.exists("/proc/self/ns/user"):
        remedy = "run as root: the kernel lacks CONFIG_USER_NS"
    elif _setting("user/max_user_namespaces") == 0:
        remedy = _allow("user.max_user_namespaces=1000")
    elif _setting("kernel/unprivileged_userns_clone") == 0:
        remedy = _allow("kernel.unprivileged_userns_clone=1")
    elif _setting("kernel/apparmor_restrict_unprivileged_userns") == 1:
        remedy = _allow("kernel.apparmor_restrict_unprivileged_userns=0")
    elif refusal.errno == errno.ENOSPC:
        remedy = (
            "too many exist: raise user.max_user_namespaces and"
            " user.max_net_namespaces"
        )
    else:
        remedy = (
            "run as root with CAP_SYS_ADMIN, or as a user where user"
            " namespaces are allowed (in a container: --privileged)"
        )
    return f"no private network namespace: {refusal.strerror}; {remedy}"


def _allow(setting: str) -> str:
    return f"run as root, or allow user namespaces: sysctl -w {setting}"


def _setting(name: str) -> int | None:
    """A sysctl; None where this kernel has none of that name."""
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _trampoline_argv(report: str, program: Sequence[str]) -> list[str]:
    """Runs this file by itself: neither the package nor site is imported, so
    that no thread can have started."""
    return [sys.executable, "-I", "-S", __file__, report, *program]


def _trampoline(report: str, *program: str) -> None:
    """Enters a namespace and becomes `program`.

    A refusal goes to the descriptor `report` and ends the process; "-" stands
    for the program itself, which runs all the same and finds it in _MARK.
    """
    try:
        if report != "-":
            os.set_inheritable(int(report), False)
        _enter()
    except OSError as error:
        if report != "-":
            _report(int(report), error)
        os.environ[_MARK] = (
            f"{os.getpid()}:0:{error.errno or errno.EIO}:{error.strerror}"
        )
    try:
        os.execvp(program[0], program)
    except OSError as error:
        if report == "-":
            raise
        error.strerror = f"{error.strerror}: {program[0]!r}"
        _report(int(report), error)


def _report(descriptor: int, error: OSError) -> None:
    text = f"{error.errno or errno.EIO}:{error.strerror}"
    os.write(descriptor, text.encode())
    os._exit(126)


# veth pairs


@dataclass(frozen=True)
class Veth:
    """Two interfaces joined back to back: what one sends the other receives.

    `a` and `b` are their names. A context manager that deletes them.
    """

    a: str
    b: str

    def up(self, end: str | None = None) -> None:
        """Brings one end ("a" or "b", or its name) up, or both; returns when
        the link, where both ends are up, carries frames."""
        lines = [f"link set {name} up" for name in self._ends(end)]
        lines += [f"link show {self.a}", f"link show {self.b}"]
        answer = _ip("-json", "-batch", "-", lines=lines)
        # The end that came up first gets its carrier, and the queue that
        # takes frames, from a work queue a moment later
        # (net/core/link_watch.c:linkwatch_do_dev()).
        deadline = time.monotonic() + _READY_TIMEOUT
        while not _ready(answer):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.a} and {self.b} stay without link")
            time.sleep(0.001)
            answer = _ip("-json", "-batch", "-", lines=lines[-2:])

    def down(self, end: str | None = None) -> None:
        """Takes one end ("a" or "b", or its name) down, or both."""
        lines = [f"link set {name} down" for name in self._ends(end)]
        _ip("-batch", "-", lines=lines)

    def delete(self) -> None:
        """Deletes both interfaces. Harmless when they are gone."""
        for name in (self.a, self.b):
            if name in _interfaces():
                try:
                    _ip("link", "delete", name)
                except RuntimeError:
                    if name in _interfaces():
                        raise

    def _ends(self, end: str | None) -> list[str]:
        if end is None:
            return [self.a, self.b]
        if end in ("a", self.a):
            return [self.a]
        if end in ("b", self.b):
            return [self.b]
        raise ValueError(f"end is 'a', 'b' or a name of the pair, not {end!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()


def veth_pair(
    name_a: str | None = None,
    name_b: str | None = None,
    *,
    mtu: int = 1500,
    ipv6: bool = False,
    up: bool = True,
) -> Veth:
    """Makes a veth pair in the private namespace of the caller.

    Both ends are up and carry frames when it returns. Nothing but the caller
    sends on them, unless `ipv6` lets the kernel. Names are unique unless
    given.

    Raises RuntimeError outside a namespace that this module has made, so that
    a slip never alters the host; FileNotFoundError where the `ip` command is
    missing, OSError EOPNOTSUPP where the kernel has no veth, and RuntimeError
    with the words of `ip` for anything else.
    """
    if not in_namespace():
        raise RuntimeError(
            "not in a private network namespace: call enter_namespace() first"
        )
    with _numbers_lock:
        number = next(_numbers)
    # The pid, for other processes may share the namespace.
    a = name_a or f"v{os.getpid()}n{number}a"
    b = name_b or f"v{os.getpid()}n{number}b"
    for name in (a, b):
        if len(os.fsencode(name)) >= _IFNAMSIZ or set(name) & set("/ \t\n\"'"):
            raise ValueError(f"not a name for an interface: {name!r}")
    size = str(mtu)
    _ip(
        *("link", "add", "name", a, "mtu", size),
        *("type", "veth", "peer", "name", b, "mtu", size),
    )
    pair = Veth(a, b)
    try:
        if not ipv6:
            _silence(a)
            _silence(b)
        if up:
            pair.up()
    except BaseException:
        pair.delete()
        raise
    return pair


def _silence(name: str) -> None:
    """No IPv6, hence no router solicitation and no multicast report."""
    try:
        _write(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1")
    except FileNotFoundError:
        pass  # no IPv6 in this kernel
    except OSError:
        # Read-only /proc/sys, as in containers: at least no address, without
        # which there is nothing to solicit for.
        _ip("link", "set", name, "addrgenmode", "none")


def _ready(answer: str) -> bool:
    """Whether the link that `ip -json` shows carries frames, or cannot,
    because an end is down. It shows one list per line and interface."""
    ends = [json.loads(line)[0] for line in answer.splitlines()]
    if not all("UP" in end["flags"] for end in ends):
        return True
    return all(
        end["operstate"] == "UP" and end["qdisc"] != "noop" for end in ends
    )


def _interfaces() -> set[str]:
    """Names of the interfaces in the caller's namespace."""
    return {name for _, name in socket.if_nameindex()}


def _ip(*arguments: str, lines: Sequence[str] = ()) -> str:
    """Runs ip(8), with `lines` for its -batch; returns what it prints."""
    # Plain users often have no sbin in their PATH.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    command = shutil.which("ip", path=path)
    if command is None:
        raise FileNotFoundError(
            errno.ENOENT,
            "veth pairs need the ip command: install iproute2"
            " (apt-get install iproute2)",
        )
    done = subprocess.run(
        [command, *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        errors="surrogateescape",  # a name can have any bytes
        check=False,
    )
    if done.returncode == 0:
        return done.stdout
    words = " ".join(done.stderr.split())
    if "Unknown device type" in words or "not supported" in words:
        raise OSError(
            errno.EOPNOTSUPP,
            "veth pairs need the kernel's veth driver: modprobe veth"
            f" ({words})",
        )
    if "BusyBox" in words:
        raise OSError(
            errno.EOPNOTSUPP,
            "veth pairs need the ip command of iproute2, not BusyBox's:"
            " apk add iproute2",
        )
    what = " ".join(arguments) if not lines else "; ".join(lines)
    raise RuntimeError(f"ip {what}: {words or done.returncode}")


# The pytest plugin. Its hooks need no decorator, and what needs pytest imports
# it when pytest calls: the module costs nobody else the import.

_refusal: OSError | None = None  # written once, before the first test


def pytest_addoption(parser: Any) -> None:
    parser.addini(
        "rawmmsg_require_namespace",
        "fail, rather than skip, the tests that need a private network"
        " namespace where there is none (default: where CI is set)",
        type="bool",
        default=os.environ.get("CI", "").lower() not in ("", "0", "false"),
    )


def pytest_configure(config: Any) -> None:
    global _refusal
    config.addinivalue_line(
        "markers",
        "no_network: touches no network, so it runs also where no private"
        " network namespace can be had (rawmmsg.testing)",
    )
    config.pluginmanager.register(_fixtures(), "rawmmsg.testing.fixtures")
    try:
        _enter_for_pytest(config)
    except OSError as error:
        _refusal = error


def pytest_report_header() -> str:
    if _refusal is not None:
        return f"rawmmsg: {_refusal.strerror}"
    return f"rawmmsg: private network namespace {_inode()}"


def pytest_runtest_setup(item: Any) -> None:
    if _refusal is not None and item.get_closest_marker("no_network") is None:
        _give_up(item.config, _refusal)


def _enter_for_pytest(config: Any) -> None:
    if _mark()[0] == os.getpid():
        # Started again, or a run inside of a run.
        exec_in_namespace()
        return
    threads = len(os.listdir("/proc/self/task"))
    if hasattr(config, "workerinput") and threads > 1:
        # A worker of pytest-xdist: execnet's thread reads its channel from
        # descriptors that another run of the program would not have. The
        # controller has moved before it started the worker, which so has the
        # right to move its main thread, where the tests run, once more.
        if threading.current_thread() is threading.main_thread():
            try:
                _move(_CLONE_NEWNET)
            except OSError as error:
                if not in_namespace():
                    raise OSError(error.errno, _explain(error)) from None
        return
    # Scapy reads interfaces and routes once, when it is imported: those of the
    # host, if a conftest has imported it.
    if threads == 1 and "scapy.config" not in sys.modules:
        _enter()
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        # Gives descriptors 0, 1 and 2 back, which the new program inherits.
        capture.suspend_global_capture(in_=True)
    # The arguments may name files relative to where pytest was started.
    os.chdir(config.invocation_params.dir)
    exec_in_namespace()


def _give_up(config: Any, error: OSError) -> None:
    """Skips the test, or fails it where nothing may skip."""
    pytest: Any = importlib.import_module("pytest")
    message = error.strerror or str(error)
    if config.getini("rawmmsg_require_namespace"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def _fixtures() -> types.ModuleType:
    pytest: Any = importlib.import_module("pytest")
    module = types.ModuleType("rawmmsg.testing.fixtures")
    for name, function in (
        ("veth_factory", _veth_factory),
        ("veth", _veth),
    ):
        setattr(module, name, pytest.fixture(function, name=name))
    return module


def _veth_factory(request: Any) -> Iterator[Callable[..., Veth]]:
    """Makes veth pairs, as veth_pair() does, that last as long as the test."""
    pairs: list[Veth] = []

    def make(*names: str, **options: Any) -> Veth:
        try:
            pair = veth_pair(*names, **options)
        except FileNotFoundError as error:
            _give_up(request.config, error)
            raise
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            _give_up(request.config, error)
            raise
        pairs.append(pair)
        return pair

    yield make
    for pair in pairs:
        pair.delete()


def _veth(veth_factory: Callable[..., Veth]) -> Veth:
    """A veth pair, both ends up, that lasts as long as the test."""
    return veth_factory()


if __name__ == "__main__":
    _trampoline(*sys.argv[1:])
