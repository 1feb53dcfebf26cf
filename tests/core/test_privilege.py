"""Without privilege, errors name the remedy."""

import subprocess
import sys
import textwrap

import pytest
from support.child import WITHOUT_CAPABILITIES, environment, run_python
from support.namespaces import has_user

NOBODY = 65534

# Errors

DROP = f"""
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)

    def drop_capabilities():
        # capset(2), _LINUX_CAPABILITY_VERSION_3
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        none = (ctypes.c_uint32 * 6)()
        assert libc.capset(header, none) == 0, ctypes.get_errno()

    def become_another_user():
        if {has_user(NOBODY)}:
            os.setgroups([])
            os.setgid({NOBODY})
            os.setuid({NOBODY})
        else:
            # A namespace without other users: leave it for one that has all
            # rights over itself, and none over the network.
            CLONE_NEWUSER = 0x10000000
            assert libc.unshare(CLONE_NEWUSER) == 0, ctypes.get_errno()
"""


def run_without_privilege(drop: str, code: str) -> str:
    """Runs code in a child after drop(), which gives up the child's
    privileges."""
    return run_python(
        textwrap.dedent(DROP) + f"\ndrop = {drop}\n" + textwrap.dedent(code)
    )


@pytest.fixture(params=["drop_capabilities", "become_another_user"])
def drop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_permission_error_names_the_remedy(drop: str) -> None:
    answer = run_without_privilege(
        drop,
        """
        import errno, os
        from rawmmsg import RawSocket
        before = os.listdir("/proc/self/fd")
        drop()
        for interface in ("lo", None):
            try:
                RawSocket(interface)
            except PermissionError as error:
                assert error.errno == errno.EPERM, error
                assert error.filename == interface, error
                assert str(error).startswith("[Errno 1] socket: "), error
                (note,) = error.__notes__
                for word in ("CAP_NET_RAW", "root", "setcap", "unshare"):
                    assert word in note, note
            else:
                raise AssertionError("a packet socket without privilege")
        assert len(os.listdir("/proc/self/fd")) == len(before)
        print("refused")
        """,
    )
    assert answer == "refused\n"


def test_permission_error_of_a_namespace_names_the_remedy(
    drop: str,
) -> None:
    answer = run_without_privilege(
        drop,
        """
        import os
        from rawmmsg import RawSocket
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        before = os.listdir("/proc/self/fd")
        drop()
        path = f"/proc/self/fd/{namespace}"
        try:
            RawSocket("lo", netns=path)
        except PermissionError as error:
            assert error.filename == path, error
            assert str(error).startswith("[Errno 1] setns: "), error
        else:
            raise AssertionError("entered a namespace without privilege")
        assert len(os.listdir("/proc/self/fd")) == len(before)
        print("refused")
        """,
    )
    assert answer == "refused\n"


def test_adopting_needs_no_privilege(drop: str) -> None:
    """A process with the privilege can pass packet sockets on."""
    answer = run_without_privilege(
        drop,
        """
        import socket
        from rawmmsg import PacketBatch, RawSocket
        near, far = (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            for _ in range(2)
        )
        for one in (near, far):
            one.bind(("lo", 3))
        drop()
        packet = bytes(12) + bytes([0x88, 0xb5]) + b"packet"
        with (
            RawSocket(fileno=near.detach(), vlan=True) as sender,
            RawSocket(fileno=far.detach(), vlan=True) as receiver,
        ):
            receiver.settimeout(30)
            sender.sendmmsg([packet])
            batch = PacketBatch()
            while packet not in batch.tolist():
                receiver.recvmmsg_into(batch)
        print("received")
        """,
    )
    assert answer == "received\n"


def test_error_without_capabilities_names_the_remedy() -> None:
    done = subprocess.run(
        [
            *WITHOUT_CAPABILITIES,
            *(sys.executable, "-c", "import rawmmsg; rawmmsg.RawSocket('lo')"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError: [Errno 1] socket: " in done.stderr
    assert "CAP_NET_RAW" in done.stderr
