"""Moves this process, or a new one, into a private network namespace.

exec_in_namespace() and run_in_namespace() run this file as a program, with
`python -I -S`: it imports nothing except the standard library.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

__all__ = [
    "enter_namespace",
    "exec_in_namespace",
    "has_restarted",
    "in_namespace",
    "move_this_thread",
    "namespace_number",
    "run_in_namespace",
    "write_file",
]

# <linux/sched.h>; the os module has them from Python 3.12 on
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000

# <linux/sockios.h>, <linux/if.h>
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1

# This environment variable keeps the result of the move across execve(2), and
# for child processes: "pid:inode" of the namespace, or "pid:0:errno:message"
# if it was refused.
_MARK: Final = "RAWMMSG_NAMESPACE"


# Public functions


def enter_namespace() -> None:
    """Moves this process into a new network namespace, with loopback up.

    This cannot be undone. Child processes inherit the namespace.

    Raises RuntimeError if the process has more than one thread, because
    unshare(2) would move only the calling thread, or fail. Then use
    exec_in_namespace() or run_in_namespace(). Raises OSError if no namespace
    can be made: the message names the remedy, and the process is unchanged.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(
            f"the process has {threads} threads, and only a process with one"
            " thread can move to another network namespace: call"
            " enter_namespace() before any thread is started (importing numpy"
            " starts some), or use exec_in_namespace() or run_in_namespace()"
        )
    _enter()


def exec_in_namespace() -> None:
    """Restarts this program inside a new network namespace.

    The new run replaces the process (execve(2)) and has the same pid,
    arguments and environment. The number of threads does not matter. In the
    second run, this function returns at once. It raises OSError there if no
    namespace could be made: the message names the remedy.
    """
    pid, inode, error = _mark()
    if pid == os.getpid():
        if error is not None:
            raise error
        if inode == namespace_number():
            return
        raise RuntimeError("restarted, but not in the new namespace")
    if not sys.executable:
        raise RuntimeError("cannot restart: sys.executable is empty")
    sys.stdout.flush()
    sys.stderr.flush()
    program = [sys.executable, *sys.orig_argv[1:]]
    os.execv(sys.executable, _trampoline_argv("-", program))


def run_in_namespace(
    argv: Sequence[str], **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Runs a program in a new network namespace of its own.

    Takes the options of subprocess.run(), except `shell` and `executable`,
    and returns its result. Raises OSError if no namespace can be made (the
    message names the remedy), and FileNotFoundError if the program does not
    exist.
    """
    if isinstance(argv, str | bytes) or not argv:
        raise ValueError(
            f"argv must be a program and its arguments, not {argv!r}"
        )
    # They would run another program than the one that enters the namespace.
    for name in ("shell", "executable"):
        if options.pop(name, None):
            raise ValueError(f"run_in_namespace() has no option {name}=")
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
        except BlockingIOError:  # this process holds the writer as well
            report = ""
    except subprocess.TimeoutExpired as error:
        error.cmd = list(argv)
        raise
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
    """Returns whether this thread is in a namespace that rawmmsg.testing made
    for this process or for one of its ancestors."""
    return _mark()[1] == namespace_number()


# For the other modules of this package


def namespace_number() -> int:
    """Returns the number of the calling thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def has_restarted() -> bool:
    """Returns whether exec_in_namespace() has restarted this process, or
    another call here has already moved it."""
    return _mark()[0] == os.getpid()


def move_this_thread() -> None:
    """Moves only the calling thread to a new network namespace.

    The process must have the rights that an earlier move gave it or its
    parent. Raises OSError otherwise, unless the thread is in a private
    namespace already.
    """
    try:
        _move(_CLONE_NEWNET)
    except OSError as error:
        if not in_namespace():
            raise OSError(error.errno, _explain(error)) from None


def write_file(path: str, text: str) -> None:
    """Writes to a file of /proc with one system call. The message of an
    OSError names the file."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from None


# The move


def _mark() -> tuple[int, int, OSError | None]:
    """Reads _MARK: the pid, the inode (0 if refused) and the error."""
    fields = os.environ.get(_MARK, "").split(":", 3)
    try:
        pid, inode = int(fields[0]), int(fields[1])
        if inode:
            return pid, inode, None
        return pid, 0, OSError(int(fields[2]), fields[3])
    except (ValueError, IndexError):
        return 0, 0, None


def _enter() -> None:
    """Moves the process completely, or raises OSError and changes nothing."""
    attempts = [_CLONE_NEWUSER | _CLONE_NEWNET]
    if os.geteuid() == 0:
        attempts.insert(0, _CLONE_NEWNET)
    for flags in attempts:
        refusal = _try(flags)
        if refusal is None:
            _move(flags)
            return
    assert refusal is not None
    raise OSError(refusal.errno, _explain(refusal))


def _try(flags: int) -> OSError | None:
    """Makes the move in a forked child and returns the error, if any.

    The child is needed because some kernels give a process its user namespace
    but no rights in it (Ubuntu's AppArmor restriction), and such a process
    cannot go back.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        report = f"{errno.EIO}:the process that tried it died"
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
    with contextlib.suppress(ChildProcessError):  # if SIGCHLD is ignored
        os.waitpid(pid, 0)
    if not report:
        return None
    number, _, message = report.partition(":")
    return OSError(int(number), message)


def _move(flags: int) -> None:
    """Moves the calling thread, brings loopback up, and checks that packet
    sockets can be opened. With _CLONE_NEWUSER, the process must have only one
    thread."""
    uid, gid, user = os.geteuid(), os.getegid(), _user()
    _unshare(flags)
    if flags & _CLONE_NEWUSER:
        # user_namespaces(7): an unprivileged process may write gid_map only
        # after it has denied setgroups(2). Uid 0 keeps its capabilities
        # across execve(2).
        write_file("/proc/self/setgroups", "deny")
        write_file("/proc/self/uid_map", f"0 {uid} 1")
        write_file("/proc/self/gid_map", f"0 {gid} 1")
        os.environ["LOGNAME"] = user
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        (value,) = struct.unpack_from("16xH", request)
        request = struct.pack("16sH14x", b"lo", value | _IFF_UP)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    os.environ[_MARK] = f"{os.getpid()}:{namespace_number()}"


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
    """Returns the user's name, for LOGNAME.

    Inside a user namespace the uid is 0, so programs that look up their name
    find "root". pytest, for example, would use the directory of root in /tmp,
    which it may not write to.
    """
    name = os.environ.get("LOGNAME", "")
    with open("/proc/self/uid_map", encoding="ascii") as file:
        outermost = file.read().split() == ["0", "0", str(2**32 - 1)]
    if name and not outermost:
        return name  # only LOGNAME still has the name of this uid 0
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


# Why the kernel refused, and the remedy


def _explain(refusal: OSError) -> str:
    """Returns a message with the refusal and its remedy, found from the
    settings of this machine."""
    if not os.path.exists("/proc/self/ns/net"):
        remedy = "this needs a kernel with CONFIG_NET_NS, and /proc mounted"
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
            "raise user.max_user_namespaces and user.max_net_namespaces with"
            " sysctl"
        )
    else:
        remedy = (
            "run as root with CAP_SYS_ADMIN, or as a user for whom user"
            " namespaces are allowed (in a container: --privileged)"
        )
    reason = refusal.strerror
    if refusal.errno == errno.ENOSPC:  # "No space left on device"
        reason = f"the limit of namespaces is reached ({reason})"
    return f"no private network namespace: {reason}; {remedy}"


def _allow(setting: str) -> str:
    return f"run as root, or allow user namespaces: sysctl -w {setting}"


def _setting(name: str) -> int | None:
    """Returns a sysctl, or None if this kernel does not have it."""
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


# This file as a program


def _trampoline_argv(report: str, program: Sequence[str]) -> list[str]:
    """Returns the command that runs this file without the package and without
    `site`, so that no import can have started a thread."""
    return [sys.executable, "-I", "-S", __file__, report, *program]


def _trampoline(report: str, *program: str) -> None:
    """Enters a namespace, then replaces itself with `program`.

    If the move is refused, it writes the error to the descriptor `report` and
    exits. If `report` is "-", it runs the program nevertheless, which finds
    the error in _MARK.
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


if __name__ == "__main__":
    _trampoline(*sys.argv[1:])
