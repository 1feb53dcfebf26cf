"""The examples in README.md, CONTRIBUTING.md and docs/ do what they say."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from support import WAIT
from support.blocks import ROOT, Block, blocks, pages, pattern
from support.calls import repeating
from support.child import PACKAGES, tool

import rawmmsg
from rawmmsg import RawSocket
from rawmmsg.testing import Veth

BLOCKS = list(blocks())
LANGUAGES = {"python", "sh", "console", "text", "{eval-rst}"}

# Why blocks are not run, and how many of each kind there are.
NOT_RUN = {
    "needs a fresh machine, see .ci/fresh.sh": 4,
    "needs a virtual machine": 1,
    "needs a virtual machine, see tests/qemu": 20,
    "needs passt, see tests/qemu": 2,
    "installs a release": 4,
    "needs a password": 1,
    "needs Docker": 1,
    "needs PTF": 1,
}

# Moves eth0 to the namespace "lab", in a mount namespace with a /run of its
# own, so that nothing of it stays when the command ends.
LAB = """
mount -t tmpfs none /run
ip netns add lab
ip link set eth0 netns lab
ip -n lab link set eth0 up
exec "$@"
"""

IPV4_FRAME = b"\xff" * 6 + b"\x02" * 6 + b"\x08\x00" + bytes(46)


def those_in(*languages: str) -> list[Block]:
    return [
        block
        for block in BLOCKS
        if block.language in languages and block.not_run is None
    ]


def is_pytest(block: Block) -> bool:
    return "conftest.py" in block.files()


def prepared(command: list[str], block: Block) -> list[str]:
    """The command in the surroundings that the block's marks name. Skips the
    test if the block uses a program that is not installed."""
    for name in re.findall(r"\w+", block.text):
        if name in PACKAGES:
            tool(name)
    if "netns" not in block.marks:
        return command
    return ["unshare", "--mount", "sh", "-euc", LAB, "sh", *command]


@contextmanager
def feeding(interface: str) -> Iterator[None]:
    """Sends a frame every millisecond on `interface`."""

    def send() -> None:
        # Its peer may be on its way to another namespace.
        with suppress(OSError):
            sock.send(IPV4_FRAME)

    with RawSocket(interface, protocol=0) as sock, repeating(send, 0.001):
        yield


@contextmanager
def running(
    command: list[str], folder: Path
) -> Iterator[subprocess.Popen[str]]:
    """Runs the command as a user of this installation would."""
    scripts = os.path.dirname(sys.executable)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ
        | {
            "PATH": f"{scripts}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONUNBUFFERED": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(command: list[str], folder: Path) -> str:
    """Returns what the command prints."""
    with running(command, folder) as process:
        output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, output
    return output


def run_until_interrupted(
    command: list[str], folder: Path, until: Callable[[], object] | None
) -> str:
    """Interrupts the command after `until`, or when it has printed a line."""
    with running(command, folder) as process:
        assert process.stdout is not None
        first = ""
        if until is None:
            first = process.stdout.readline()
        else:
            until()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=WAIT)
    assert process.returncode in (0, -signal.SIGINT), first + rest
    return first + rest


@pytest.fixture
def far_side(veth_factory: Callable[..., Veth]) -> Iterator[RawSocket]:
    """The interfaces that examples name, and a socket that sees what they
    send on eth1."""
    tool("ip")
    veth_factory("eth0", "peer0")
    veth_factory("eth1", "peer1")
    veth_factory("tap0", "peer2")
    with RawSocket("peer1") as sock:
        sock.settimeout(WAIT)
        yield sock


@pytest.mark.parametrize(
    "block",
    [
        block
        for block in those_in("python")
        if block.file_name is None and not is_pytest(block)
    ],
    ids=str,
)
def test_program_runs_and_prints(
    block: Block, far_side: RawSocket, tmp_path: Path
) -> None:
    ((name, text),) = block.files().items()
    (tmp_path / name).write_text(text, encoding="utf-8")
    # Where the kernel allows small buffers only, a socket warns of it.
    options = ["-W", "error", "-W", "default::RuntimeWarning"]
    command = prepared([sys.executable, *options, name], block)
    sends = "eth1" in text
    fed = feeding("peer0") if "feed" in block.marks else nullcontext()
    with fed:
        if "interrupt" in block.marks:
            until = (lambda: far_side.recv(2048)) if sends else None
            output = run_until_interrupted(command, tmp_path, until)
        else:
            output = run(command, tmp_path)
            if sends:
                assert far_side.recv(2048), "what the program sends arrives"
    if "print(" in text:
        assert output, "the program prints nothing"


@pytest.mark.parametrize(
    "block",
    [block for block in those_in("python") if is_pytest(block)],
    ids=str,
)
def test_pytest_example_passes(block: Block, tmp_path: Path) -> None:
    """Tests that the pages show, run as their reader would run them."""
    tool("ip")
    for name, text in block.files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    assert "1 passed" in run(command, tmp_path)


@pytest.mark.parametrize("block", those_in("sh"), ids=str)
def test_commands_run(
    block: Block, far_side: RawSocket, tmp_path: Path
) -> None:
    """Line by line where each runs until it is interrupted."""
    fed = feeding("peer0") if "feed" in block.marks else nullcontext()
    with fed:
        if "interrupt" not in block.marks:
            run(prepared(["bash", "-euc", block.text], block), tmp_path)
            return
        for line in block.text.replace("\\\n", "").splitlines():
            command = prepared(["bash", "-euc", f"exec {line}"], block)
            run_until_interrupted(command, tmp_path, None)


@pytest.mark.parametrize("block", those_in("console"), ids=str)
def test_commands_print_what_the_page_shows(
    block: Block, far_side: RawSocket, tmp_path: Path
) -> None:
    shown = re.findall(
        r"^\$ ((?:.*\\\n> )*.*)\n((?:(?!\$ ).*\n)*)",
        block.text,
        re.MULTILINE,
    )
    assert shown
    write_files_before(block, tmp_path)
    fed = feeding("peer0") if "feed" in block.marks else nullcontext()
    with fed:
        for line, output in shown:
            line = line.replace("\\\n> ", "")
            printed = run_until_ctrl_c(line, output, tmp_path)
            wanted = pattern(
                output.replace("^C\n", ""), "figures" in block.marks
            )
            assert re.fullmatch(wanted, printed), f"{line}\n{printed}"


def write_files_before(block: Block, folder: Path) -> None:
    """Writes the files that the page has named before the block."""
    for one in BLOCKS:
        if one.page == block.page and one.line < block.line:
            if one.file_name is not None:
                for name, text in one.files().items():
                    (folder / name).write_text(text, encoding="utf-8")


def run_until_ctrl_c(line: str, output: str, folder: Path) -> str:
    """Returns what the command prints; presses Ctrl-C where `output` does."""
    before, pressed, _ = output.partition("^C\n")
    exec_ = "exec " if pressed else ""
    with running(["bash", "-c", exec_ + line], folder) as process:
        assert process.stdout is not None
        printed = ""
        if pressed:
            for _ in before.splitlines():
                printed += process.stdout.readline()
            process.send_signal(signal.SIGINT)
        # communicate() would not find what readline() has left in its buffer.
        return printed + process.stdout.read()


@pytest.mark.no_network
def test_every_block_is_of_a_known_language() -> None:
    """Indented blocks and other fences would not be found."""
    assert {block.language for block in BLOCKS} <= LANGUAGES
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for block in BLOCKS:
            if ROOT / block.page == page:
                text = text.replace(
                    f"```{block.language}\n{block.text}```\n", "", 1
                )
        assert not re.search(r"```|~~~|^\n( {4}|\t)", text, re.MULTILINE), page


@pytest.mark.no_network
def test_every_named_file_is_run() -> None:
    """By a command that follows on its page, which names the module."""
    commands = [block for block in BLOCKS if block.language == "console"]
    for block in BLOCKS:
        if block.file_name is not None and not is_pytest(block):
            module = block.file_name.removesuffix(".py")
            named = re.compile(rf"^\$ .*\b{module}\b", re.MULTILINE)
            assert any(
                one.page == block.page
                and one.line > block.line
                and named.search(one.text)
                for one in commands
            ), f"{block}: no command runs {block.file_name}"


@pytest.mark.no_network
def test_every_mark_is_known() -> None:
    marks = {mark for block in BLOCKS for mark in block.marks}
    assert marks <= {"feed", "figures", "interrupt", "netns"}


@pytest.mark.no_network
def test_few_blocks_are_not_run() -> None:
    reasons = Counter(b.not_run for b in BLOCKS if b.not_run is not None)
    assert reasons == NOT_RUN


@pytest.mark.no_network
def test_links_lead_somewhere() -> None:
    """To files and headings of this repository; others are not looked at."""
    for page in [*pages(), ROOT / "SECURITY.md"]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http:", "https:")):
                continue
            name, _, heading = target.partition("#")
            linked = page.parent / name if name else page
            if name.startswith("source:"):
                linked = ROOT / name.removeprefix("source:")
            assert linked.exists(), f"{page}: {target}"
            if heading:
                assert heading in headings(linked), f"{page}: {target}"


def headings(page: Path) -> set[str]:
    """The anchors that a forge makes of the headings."""
    text = page.read_text(encoding="utf-8")
    return {
        re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.no_network
def test_architecture_names_what_exists() -> None:
    """Files as `path`, and functions and classes in them as `path:name()`."""
    page = ROOT / "docs/project/architecture.md"
    names = re.findall(
        r"`(_?rawmmsg[\w./]*|(?:bench|tests)/[\w./]*)(?::(\w+)(?:\(\))?)?`",
        page.read_text(encoding="utf-8"),
    )
    assert len(names) > 30
    # The tests may run in a tree without the package, on an installed one.
    package = Path(rawmmsg.__file__).parents[1]
    for path, name in names:
        file = (package if path.startswith("rawmmsg") else ROOT) / path
        assert file.exists(), path
        if name:
            defined = rf"^(?:static .*)?(?: *def | *class )?{name}\b"
            text = file.read_text(encoding="utf-8")
            assert re.search(defined, text, re.MULTILINE), f"{path}: {name}"


@pytest.mark.no_network
def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
