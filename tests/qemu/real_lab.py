"""The commands in docs/tutorials/switch-lab.md do what the page shows. Run by
run.py.

Their machines boot the kernel of the tests instead of Debian's installer.
"""

import contextlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import image
from guest import NO_BOOT_ROM, Guest, qemu_options
from support.blocks import Block, blocks, pattern
from support.examples import FOLDER

# docs/start/without-root.md
_NETWORK: Final = (
    "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6",
    "ip link set lo up",
    "ip link add eth1 type veth peer name peer1",
    "ip link set eth1 up",
    "ip link set peer1 up",
)

# The user's shell. It speaks as those of guests do (image.py). It controls
# jobs, as a shell for people does: then SIGINT ends programs in the
# background.
_SCRIPT: Final = f"""\
set -m
echo '{image.MARK} 0'
while read -r command; do
    eval "$command" </dev/null
    echo "{image.MARK} $?"
done
"""

# The size of the kernel of Debian's installer, which the web server has.
_SIZE: Final = 8222656

_NUMBER: Final = re.compile(r"(?<![\w:.])\d[\d,]*(?![\w:.])")
_OTHER_ADDRESS: Final = re.compile(r"(?!02:00:00)\w\w(:\w\w){5}")


def test_commands_of_the_tutorial(short_path: Path) -> None:
    """On the user's machine, and in those that it runs."""
    (short_path / "linux").write_bytes(bytes(_SIZE))
    shutil.copy(FOLDER / "fault_injector.py", short_path)
    with user(short_path) as host, contextlib.ExitStack() as guests:
        machines: dict[str, Guest] = {}
        for block in _blocks():
            name = re.match(r"# (\w+)\n", block.text)
            if block.language == "sh" and name is not None:
                guest = booted(short_path, name[1], block)
                machines[name[1]] = guests.enter_context(guest)
            elif block.language == "sh":
                for line in _joined(block.text):
                    assert host.run(line) == ""
            elif block.language == "console":
                check_host(host, block)
            else:
                check_guests(machines, block)
        assert set(machines) == {"red", "blue", "router"}


def _blocks() -> list[Block]:
    page = "docs/tutorials/switch-lab.md"
    return [block for block in blocks() if block.page == page]


@contextlib.contextmanager
def user(folder: Path) -> Iterator[Guest]:
    """The user's shell, in a private network. All programs in it end with
    it."""
    apart = ["unshare", "--net", "--pid", "--fork", "--kill-child"]
    path = f"PATH={Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    with Guest(
        folder,  # no kernel, and nothing to boot
        folder,
        [],
        folder=folder,
        program=[*apart, "env", path, "bash", "-c", _SCRIPT],
        options=lambda _, __: [],
    ) as shell:
        for line in _NETWORK:
            shell.run(line)
        yield shell


def booted(folder: Path, name: str, block: Block) -> Guest:
    """Runs the commands that start a machine, with the tests' kernel."""
    (line,) = _joined(block.text.partition("\n")[2])
    program, script, *network = shlex.split(line)
    place = folder / name
    place.mkdir()
    options = qemu_options(image.kernel(), image.make_initramfs(place))
    command = shlex.join(
        ["qemu-system-x86_64", *options, *NO_BOOT_ROM, "-m", "512"]
    )
    for mine in ("console.log", "monitor"):
        command = command.replace(mine, f"{place}/{mine}")
    (folder / script).write_text(f'exec {command} "$@"\n')
    guest = Guest(
        folder,
        folder,
        network,
        folder=folder,
        program=[program, script],
        options=lambda _, __: [],
    )
    # The installer has not mounted it. The tests' modules are loaded.
    guest.run("umount /proc; modprobe() { :; }")
    return guest


def _joined(text: str) -> Iterator[str]:
    """The commands. A here-document is one of them."""
    whole = re.sub(r"(<<'END'\n(?:.*\n)*?END)\n", _as_line, text)
    yield from whole.replace("\\\n", "").splitlines()


def _as_line(found: re.Match[str]) -> str:
    _, *lines, _ = found[1].splitlines()
    return "<<< " + shlex.quote("".join(lines).replace("\\", "")) + "\n"


def check_host(host: Guest, block: Block) -> None:
    text = block.text.replace("\\\n> ", "")
    for line, shown in _commands(text, r"\$"):
        printed = host.run(f"{line} 2>&1")
        is_like = re.fullmatch(pattern(shown), printed) is not None
        assert is_like or general(printed) == general(shown), (
            f"{block}: {line}\n{printed}"
        )


def general(text: str) -> list[str]:
    """What is the same in every run."""
    text = re.sub(r"\{.*\}|(?<=dropped): .*", "", text)
    lines = _NUMBER.sub("N", _OTHER_ADDRESS.sub("address", text)).splitlines()
    if lines and lines[0].startswith("VLAN"):
        lines.sort()  # which machine has sent last?
    return [" ".join(line.split()) for line in lines]


def check_guests(machines: dict[str, Guest], block: Block) -> None:
    text = block.text.replace("~ #", "#")
    for line, shown in _commands(text, r"(?:\w+ )?#"):
        name = re.search(r"^(\w+) #", block.text, re.MULTILINE)
        assert name is not None, block
        # Its output is compared, and a ping in vain is allowed.
        printed = machines[name[1]].run(f"{line} 2>&1 || true")
        assert re.fullmatch(pattern(shown, has_figures=True), printed), (
            f"{block}: {line}\n{printed}"
        )


def _commands(text: str, prompt: str) -> list[tuple[str, str]]:
    """The commands, and what they print."""
    found = re.finditer(
        rf"^{prompt} (.*)\n((?:(?!{prompt} ).*\n)*)", text, re.MULTILINE
    )
    return [(one[1], one[2]) for one in found]
