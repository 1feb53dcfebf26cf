"""`rawmmsg record` keeps no privilege once it records."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.calls import eventually
from support.child import WITHOUT_CAPABILITIES, run_python
from support.frames import numbered_frames, send
from support.namespaces import has_user, is_initial_user_namespace
from support.recorder import Recording, frames, recording

from rawmmsg.testing import Veth

NOBODY = 65534


def status(command: Recording) -> dict[str, str]:
    text = Path(f"/proc/{command.process.pid}/status").read_text()
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which every user can create files. Not below tmp_path, which
    other users cannot enter."""
    with tempfile.TemporaryDirectory(prefix="rawmmsg-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


def test_it_gives_up_all_capabilities(pair: Veth, tmp_path: Path) -> None:
    with recording(pair.b, tmp_path / "trace.pcapng") as command:
        found = status(command)
        command.stop()
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(found[kind], 16) == 0, kind
    assert found["NoNewPrivs"] == "1"
    assert found["Uid"].split() == [str(os.geteuid())] * 4


def test_without_capabilities_it_still_begins_and_deletes_files(
    pair: Veth, tmp_path: Path
) -> None:
    sent = numbered_frames(2000, 200)
    file = tmp_path / "trace.pcapng"
    with recording(pair.b, file, "-C", "0.1", "-W", "2") as command:
        assert int(status(command)["CapEff"], 16) == 0
        send(pair.a, *sent)
        summary = command.stop()
    assert summary.files > 3
    kept = [one for file in sorted(tmp_path.iterdir()) for one in frames(file)]
    assert kept == sent[-len(kept) :]


def test_it_becomes_another_user_before_the_first_file(
    pair: Veth, open_folder: Path
) -> None:
    file = open_folder / "trace.pcapng"
    command = Recording(pair.b, file, "-C", "0.1", "--user", str(NOBODY))
    with command:
        if not has_user(NOBODY):
            # Nobody can become a user that the namespace does not have.
            assert command.outcome().code == 1
            assert "cannot become the user nobody" in command.text
            assert os.listdir(open_folder) == []
            return
        command.says("recording")
        found = status(command)
        send(pair.a, *numbered_frames(2000, 200))
        eventually(lambda: len(os.listdir(open_folder)) > 2, "no third file")
        command.stop()
    assert found["Uid"].split() == [str(NOBODY)] * 4
    assert int(found["CapEff"], 16) == 0
    groups = found["Groups"].split()
    assert "0" not in groups
    owners = {one.stat().st_uid for one in open_folder.iterdir()}
    assert owners == {NOBODY}


def test_error_names_the_remedy_if_the_folder_is_of_another_user(
    pair: Veth, open_folder: Path
) -> None:
    """Root may write there, but not without its capabilities."""
    if has_user(NOBODY) and is_initial_user_namespace():
        os.chown(open_folder, NOBODY, NOBODY)
    open_folder.chmod(0o555)
    file = open_folder / "trace.pcapng"
    with Recording(pair.b, file) as command:
        outcome = command.outcome()
    open_folder.chmod(0o777)
    assert outcome.code == 1
    assert f"rawmmsg: {file}: Permission denied" in outcome.text
    assert "--user" in outcome.text


def test_without_the_right_to_open_packet_sockets_the_error_names_it(
    pair: Veth, tmp_path: Path
) -> None:
    file = tmp_path / "trace.pcapng"
    with Recording(pair.b, file, prefix=WITHOUT_CAPABILITIES) as command:
        outcome = command.outcome()
    assert outcome.code == 1
    assert f"{pair.b}: socket: Operation not permitted" in outcome.text
    assert "CAP_NET_RAW" in outcome.text
    assert not file.exists()


def test_executed_programs_get_no_capability_back() -> None:
    answer = run_python(
        """
        import subprocess
        from rawmmsg._rawmmsg import _drop_capabilities
        _drop_capabilities()
        _drop_capabilities()  # nothing is left to give up
        command = ["grep", "-E", "^Cap(Prm|Eff)", "/proc/self/status"]
        print(subprocess.run(command, capture_output=True, text=True).stdout)
        """
    )
    values = re.findall(r"^Cap\w+:\s*([0-9a-f]+)$", answer, re.MULTILINE)
    assert [int(value, 16) for value in values] == [0, 0]


def test_user_may_be_the_same(pair: Veth, tmp_path: Path) -> None:
    """Even where nobody can become another user."""
    user = str(os.geteuid())
    file = tmp_path / "trace.pcapng"
    with Recording(pair.b, file, "--user", user, "-c", "1") as command:
        command.says("recording")
        send(pair.a, *numbered_frames(1))
        assert command.outcome().code == 0
    assert frames(file) == numbered_frames(1)
