"""The pytest plugin of rawmmsg.testing, in the suites of users."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.child import tool
from support.namespaces import (
    EXHAUSTED,
    PLAIN,
    REFUSED,
    clean_environment,
    interfaces,
    namespace,
    python,
)

from rawmmsg import testing
from rawmmsg.testing import Veth


@pytest.fixture
def user_suite(
    tmp_path: Path,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs pytest on a suite of a user, which uses the plugin."""

    def run(
        tests: str,
        *arguments: str,
        prefix: list[str] | None = None,
        plugin: str = 'pytest_plugins = ["rawmmsg.testing"]',
        conftest: str = "",
        ini: str = "",
        **changes: str,
    ) -> subprocess.CompletedProcess[str]:
        tool("ip")
        (tmp_path / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
        (tmp_path / "conftest.py").write_text(
            f"{plugin}\n{textwrap.dedent(conftest)}"
        )
        (tmp_path / "test_user.py").write_text(textwrap.dedent(tests))
        command = [sys.executable, "-m", "pytest", "-ra", "--strict-markers"]
        # Importing hypothesis takes longer than the whole suite.
        for unused in ("cacheprovider", "hypothesispytest"):
            command += ["-p", f"no:{unused}"]
        return subprocess.run(
            [*(prefix or []), *command, *arguments],
            cwd=tmp_path,
            env=clean_environment(OUTER=str(namespace()), **changes),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


UserSuite = Callable[..., subprocess.CompletedProcess[str]]

USER_TESTS = """
    import os, socket

    def namespace():
        return os.stat("/proc/thread-self/ns/net").st_ino

    def interfaces():
        return [name for _, name in socket.if_nameindex()]

    def test_own_namespace():
        assert namespace() != int(os.environ["OUTER"])
        assert interfaces() == ["lo"]

    def test_frames_pass(veth, tmp_path):
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as a,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as b,
        ):
            a.bind((veth.a, 3))
            b.bind((veth.b, 3))
            b.settimeout(5)
            a.send(bytes(60))
            assert b.recv(100) == bytes(60)

    def test_second_pair(veth, veth_factory):
        other = veth_factory(mtu=9000)
        assert sorted(interfaces()) == sorted(
            ["lo", veth.a, veth.b, other.a, other.b]
        )

    def test_nothing_remains():
        assert interfaces() == ["lo"]
"""

A_THREAD = """
    import os, threading
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    with open("runs", "a") as runs:
        runs.write(f"{os.getpid()}\\n")
"""


# The plugin in a user's suite


@pytest.mark.parametrize("prefix", [[], PLAIN], ids=["as-is", "plain"])
@pytest.mark.parametrize("threads", [1, 2])
def test_plugin_runs_the_suite_in_a_namespace(
    user_suite: UserSuite, prefix: list[str], threads: int, tmp_path: Path
) -> None:
    done = user_suite(
        USER_TESTS,
        prefix=prefix,
        conftest=A_THREAD if threads > 1 else "",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert done.stdout.count("test session starts") == 1
    if threads > 1:
        first, second = (tmp_path / "runs").read_text().split()
        assert first == second, "the suite was restarted in place, once"


def test_restarted_suite_reports_failures_and_output(
    user_suite: UserSuite,
) -> None:
    done = user_suite(
        """
        def test_fails():
            print("said before")
            assert False
        """,
        conftest=A_THREAD,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "said before" in done.stdout
    assert "1 failed" in done.stdout


def test_restarted_suite_gets_its_arguments(
    user_suite: UserSuite,
) -> None:
    done = user_suite(
        USER_TESTS,
        "test_user.py",
        conftest=A_THREAD + '    os.chdir("/")\n',
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_plugin_in_a_test_module_can_restart_the_suite(
    user_suite: UserSuite,
) -> None:
    done = user_suite(
        'pytest_plugins = ["rawmmsg.testing"]\n'
        + textwrap.dedent(A_THREAD)
        + textwrap.dedent(USER_TESTS),
        plugin="",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_scapy_forgets_the_interfaces_of_the_host(
    user_suite: UserSuite, veth: Veth
) -> None:
    assert veth.a in interfaces()
    done = user_suite(
        """
        def test_import_has_seen_the_namespace():
            from conftest import SEEN
            assert SEEN == [(1, "lo")]
        """,
        conftest="""
            import socket, sys, types
            sys.modules["scapy.config"] = types.ModuleType("scapy.config")
            SEEN = socket.if_nameindex()
            """,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_plugin_can_be_given_on_the_command_line(
    user_suite: UserSuite,
) -> None:
    done = user_suite(USER_TESTS, "-p", "rawmmsg.testing", plugin="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


if find_spec("xdist"):

    @pytest.mark.parametrize(
        ("prefix", "conftest"),
        [([], ""), (PLAIN, A_THREAD)],
        ids=["as-is", "plain-2"],
    )
    def test_each_xdist_worker_has_a_namespace(
        user_suite: UserSuite, prefix: list[str], conftest: str
    ) -> None:
        done = user_suite(
            USER_TESTS
            + """

    import pytest, time
    @pytest.mark.parametrize("number", range(20))
    def test_alone(number, veth):
        assert set(interfaces()) == {"lo", veth.a, veth.b}
        time.sleep(0.01)
    """,
            *("-n", "2"),
            prefix=prefix,
            conftest=conftest,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "24 passed" in done.stdout


REFUSED_TESTS = """
    import pytest

    def test_with_veth(veth):
        pass

    def test_that_might_touch_the_host():
        pass

    @pytest.mark.no_network
    def test_of_no_network():
        pass
"""


@pytest.mark.parametrize("prefix", [REFUSED, EXHAUSTED])
@pytest.mark.parametrize("conftest", ["", A_THREAD], ids=["1", "2"])
def test_suite_without_a_namespace_skips_with_the_remedy(
    user_suite: UserSuite, prefix: list[str], conftest: str
) -> None:
    done = user_suite(REFUSED_TESTS, prefix=prefix, conftest=conftest)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 2 skipped" in done.stdout
    assert "no private network namespace" in done.stdout
    remedy = "as root" if prefix is REFUSED else "sysctl -w"
    assert remedy in done.stdout


def test_reason_for_skipping_is_shown_even_without_a_header(
    user_suite: UserSuite,
) -> None:
    done = user_suite(REFUSED_TESTS, "-q", prefix=EXHAUSTED)
    assert "plugins:" not in done.stdout
    assert (
        "rawmmsg: 2 skipped: no private network namespace: the limit of"
        " namespaces is reached ("
    ) in done.stdout


@pytest.mark.parametrize(
    ("ini", "changes"),
    [("", {"CI": "true"}), ("rawmmsg_require_namespace = true", {})],
    ids=["CI", "ini"],
)
def test_suite_without_a_namespace_fails_if_skips_are_failures(
    user_suite: UserSuite, ini: str, changes: dict[str, str]
) -> None:
    done = user_suite(REFUSED_TESTS, prefix=REFUSED, ini=ini, **changes)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed, 2 errors" in done.stdout
    assert "no private network namespace" in done.stdout


@pytest.mark.parametrize("ci", ["", "true"])
def test_missing_ip_command_skips_or_fails(
    user_suite: UserSuite, ci: str
) -> None:
    done = user_suite(
        "def test_with_veth(veth): pass",
        conftest="import shutil; shutil.which = lambda *_, **__: None",
        CI=ci,
    )
    assert ("1 error" if ci else "1 skipped") in done.stdout, done.stderr
    assert "install iproute2" in done.stdout


def test_the_namespace_module_runs_without_the_package_and_pytest() -> None:
    script = """
        import runpy, sys
        names = runpy.run_path(sys.argv[1])
        assert callable(names["enter_namespace"])
        assert not {"pytest", "rawmmsg"} & set(sys.modules)
        """
    bare = [sys.executable, "-I", "-S", "-c", textwrap.dedent(script)]
    done = subprocess.run(
        [*bare, str(Path(testing.__file__).with_name("namespace.py"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_package_imports_no_pytest() -> None:
    done = python(
        """
        import sys
        import rawmmsg.testing
        assert "pytest" not in sys.modules
        """
    )
    assert done.returncode == 0, done.stderr
